"""The sessions of nodes: the port between an engine, which has a thread, and streams, which live in the server's loop.

What crosses from one thread to the other crosses in batches: one call through for all that came together.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from gpve.engine.engine import Beat, Engine
from gpve.server.calls import Call, lost
from gpve.tasks.advance import Operation
from gpve.tasks.events import encode
from gpve.tasks.outcome import Done, Outcome, Refused, Unknown
from gpve.v1 import node_pb2 as pb
from gpve.world.nodes import Answer

LOG = logging.getLogger(__name__)
NOT_CONNECTED = Refused("the node is not connected", again=True, reached=False)
BROKE = Unknown("the connection to the node broke")


class Session:
    """One stream of one node. Everything here runs in the server's loop."""

    def __init__(self, node: str, boot: str) -> None:
        self.node, self.boot = node, boot
        self.closed = False
        self.why = ""
        """Why it was ended, if the node is to hear of it."""
        self.waiting: dict[int, tuple[Operation, Answer]] = {}
        self.calls: dict[int, Call] = {}
        self._numbers = 0
        self._out: deque[pb.ToNode] = deque()
        self._operations: list[pb.Operation] = []
        self._wake = asyncio.Event()

    def number(self) -> int:
        """One that no operation and no call of this session had before."""
        self._numbers += 1
        return self._numbers

    def say(self, message: pb.ToNode) -> None:
        """Send a message when its turn comes."""
        self._out.append(message)
        self._wake.set()

    def operate(self, operation: Operation, answer: Answer) -> None:
        """Send an operation, with the others of its moment."""
        number = self.number()
        self.waiting[number] = (operation, answer)
        self._operations.append(
            pb.Operation(
                number=number,
                task=operation.task,
                step=operation.step,
                direction=operation.direction,
                verb=operation.verb,
                arguments_json=encode(dict(operation.arguments)).encode(),
                resource=operation.resource,
                epoch=operation.epoch,
                tombstone=operation.tombstone,
            )
        )
        self._wake.set()

    async def outgoing(self) -> "list[pb.ToNode] | None":
        """What is to be sent now; None: the session is over."""
        await self._wake.wait()
        self._wake.clear()
        messages = list(self._out)
        self._out.clear()
        if self._operations:
            messages.append(pb.ToNode(operations=pb.Operations(operations=self._operations)))
            self._operations = []
        return None if self.closed and not messages else messages

    def close(self) -> None:
        """End it, after what is still to be said."""
        self.closed = True
        self._wake.set()


class SessionNodes:
    """The nodes whose sessions this server holds, as its engine sees them (`gpve.engine.engine.LiveNodes`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.sessions: dict[str, Session] = {}
        self.engine: Engine | None = None
        self.missed: Callable[[], None] = lambda: None
        """Called in the server's loop when the engine has something for a node whose session others hold."""
        self._missing = False
        self._engine_loop: asyncio.AbstractEventLoop | None = None
        self._to_nodes: deque[tuple[Operation, Answer]] = deque()
        self._to_engine: deque[tuple[Answer, Operation, Outcome]] = deque()
        self._beats: list[Beat] = []
        self._flushing = self._delivering = self._beating = False

    # As the engine sees them, in its thread.

    def holds(self, node: str) -> bool:
        """As in `gpve.world.nodes.Nodes`."""
        if node in self.sessions:
            return True
        if not self._missing:
            # Asked before a command is committed, and once more after it: the last hint comes late enough.
            self._missing = True
            self._loop.call_soon_threadsafe(self._miss)
        return False

    def _miss(self) -> None:
        self._missing = False
        self.missed()

    def names(self) -> list[str]:
        """As in `gpve.world.nodes.Nodes`."""
        return list(self.sessions)

    def send(self, operation: Operation, answer: Answer) -> None:
        """As in `gpve.world.nodes.Nodes`."""
        self._to_nodes.append((operation, answer))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon_threadsafe(self._flush)

    def tell(self) -> None:
        """As in `gpve.engine.engine.LiveNodes`."""
        self._loop.call_soon_threadsafe(self.missed)

    async def open(self) -> None:
        """As in `gpve.engine.engine.LiveNodes`."""
        self._engine_loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """As in `gpve.engine.engine.LiveNodes`."""
        self._engine_loop = None

    # In the server's loop.

    def _flush(self) -> None:
        self._flushing = False
        while self._to_nodes:
            operation, answer = self._to_nodes.popleft()
            session = self.sessions.get(operation.node)
            if session is None or session.closed:
                self._answer(answer, operation, NOT_CONNECTED)
            else:
                session.operate(operation, answer)

    def _answer(self, answer: Answer, operation: Operation, outcome: Outcome) -> None:
        self._to_engine.append((answer, operation, outcome))
        if not self._delivering and self._engine_loop is not None:
            self._delivering = True
            try:
                self._engine_loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The engine has stopped meanwhile: whoever takes its tasks over asks again.
                self._delivering = False

    def _deliver(self) -> None:
        self._delivering = False
        while self._to_engine:
            answer, operation, outcome = self._to_engine.popleft()
            answer(operation, outcome)

    def enter(self, session: Session) -> None:
        """A node has come; an older session of it is over."""
        old = self.sessions.get(session.node)
        self.sessions[session.node] = session
        if old is not None:
            LOG.info("a second session of the node ends the first", extra={"node": session.node})
            self._end(old)

    def leave(self, session: Session, why: str = "") -> None:
        """A session is over (the node is told why, if that is said): nobody knows what became of what was sent."""
        session.why = session.why or why
        if self.sessions.get(session.node) is session:
            del self.sessions[session.node]
        self._end(session)

    def _end(self, session: Session) -> None:
        session.close()
        waiting, session.waiting = session.waiting, {}
        for operation, answer in waiting.values():
            self._answer(answer, operation, BROKE)
        calls, session.calls = session.calls, {}
        for call in calls.values():
            call.arrived(lost("the connection to the node broke"))

    def heard(self, session: Session, outcomes: pb.Outcomes) -> None:
        """Outcomes came from a node."""
        for told in outcomes.outcomes:
            waiting = session.waiting.pop(told.number, None)
            if waiting is not None:
                operation, answer = waiting
                self._answer(answer, operation, _outcome(told))

    def beat(self, session: Session, number: int) -> None:
        """A node beats: it is told whether that gives it a lease when the beat is written."""

        def told(granted: bool) -> None:
            reply = pb.ToNode(beat=pb.BeatReply(number=number, lease=granted))
            self._loop.call_soon_threadsafe(session.say, reply)

        self._beats.append((session.node, session.boot, told))
        if not self._beating:
            self._beating = True
            self._loop.call_later(BEATS_TOGETHER_S, self._hand_beats_in)

    def _hand_beats_in(self) -> None:
        self._beating = False
        beats, self._beats = self._beats, []
        if self.engine is not None:
            self.engine.hear(beats)

    def call(self, node: str, open_: dict[str, Any], call: Call) -> Callable[[pb.CallFrame], None] | None:
        """Open a call to a node; how to send more frames of it, or None if the node is not here."""
        session = self.sessions.get(node)
        if session is None or session.closed:
            return None
        number = session.number()
        session.calls[number] = call

        def send(frame: pb.CallFrame) -> None:
            frame.number = number
            session.say(pb.ToNode(call=frame))
            if frame.end and frame.error:
                session.calls.pop(number, None)

        send(pb.CallFrame(open_json=json.dumps(open_)))
        return send

    def frame(self, session: Session, frame: pb.CallFrame) -> None:
        """A frame of a call came from a node."""
        call = session.calls.get(frame.number)
        if call is None:
            return
        if frame.end:
            del session.calls[frame.number]
        call.arrived(frame)


BEATS_TOGETHER_S = 0.2
"""How long a beat waits for others to share a transaction with."""


def _outcome(told: pb.Outcome) -> Outcome:
    match told.WhichOneof("outcome"):
        case "done_json":
            try:
                result = json.loads(told.done_json or b"{}")
            except ValueError:
                return Unknown("the node's answer cannot be read")
            return Done(result) if isinstance(result, dict) else Unknown("the node's answer cannot be read")
        case "refused":
            return Refused(told.refused.reason, told.refused.again)
    return Unknown(told.unknown or "the node does not say")
