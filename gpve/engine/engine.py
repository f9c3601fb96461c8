"""An engine: one thread with an event loop, in which turns follow each other.

A turn blocks the loop while its transaction is made. Meanwhile answers pile up in the sockets, and the next transaction
records all of them: that is the group commit. What must not wait (an API server) lives in another thread and talks to
the engine by `submit` and `hint`.
"""

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from gpve.tasks.advance import Operation
from gpve.tasks.flow import Flows
from gpve.tasks.lease import leave
from gpve.tasks.ledger import Row, Work
from gpve.tasks.outcome import Outcome
from gpve.tasks.state import Status
from gpve.tasks.submit import Request
from gpve.tasks.worker import Rules, Worker
from gpve.world.nodes import Answer, Nodes
from gpve.world.placer import Placer
from gpve.world.store import Store, StoreDown
from gpve.world.turn import turn

LOG = logging.getLogger(__name__)
STORE_RETRY_S = 0.5

Beat = tuple[str, str, Callable[[bool], None]]


class LiveNodes(Nodes, Protocol):
    """Nodes whose connections live in the engine's event loop."""

    async def open(self) -> None:
        """Connect, and stay connected."""

    async def close(self) -> None:
        """Disconnect."""

    def tell(self) -> None:
        """Other engines will find something in the store; they look by themselves, but later."""


class Engine:
    """Drives tasks until it is stopped. ``name`` is for people; each start is an incarnation of its own."""

    def __init__(
        self,
        name: str,
        store: Store,
        nodes: LiveNodes,
        placer: Placer,
        flows: Flows,
        rules: Rules = Rules(),  # noqa: B008
        gather_s: float = 0.0,
    ) -> None:
        self._name, self._store, self._nodes, self._placer = name, store, nodes, placer
        self._worker = Worker(name, self._incarnation(), flows, rules, nodes.holds)
        self._gather_s = gather_s
        """How long a turn waits for others to share its transaction."""
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._stopping = False
        self._waiting: dict[int, list[Future[Status]]] = {}
        self.closed: Callable[[Sequence[tuple[int, Status]]], None] = lambda over: None
        """Hears of tasks that came to an end here, and how; called in the engine's thread."""
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._run(),), name=f"engine {name}"
        )

    def _incarnation(self) -> str:
        return f"{self._name}/{os.getpid()}/{uuid.uuid4().hex[:12]}"

    @property
    def incarnation(self) -> str:
        """The present one; another after the store was away."""
        return self._worker.incarnation

    @property
    def in_hand(self) -> int:
        """How many tasks this engine drives now."""
        return len(self._worker)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End after the turn in hand, and give the tasks back at once."""
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join()
        self._loop.close()

    def _stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def submit(self, wish: Request) -> "Future[Row]":
        """Submit a task; the future gets its row, or raises the `TaskError` or `StoreDown` that prevented it.

        After `StoreDown` nobody knows whether the task exists: with an idempotency key, submit again.
        """
        future: Future[Row] = Future()
        self._in_loop(lambda: self._worker.submit(wish, _into(future)))
        return future

    def transact(self, work: Work) -> "Future[Any]":
        """Make a work in the engine's next transaction; the future gets its result, or raises what it raised."""
        future: Future[Any] = Future()
        self._in_loop(lambda: self._worker.do(work, _into(future)))
        return future

    def hear(self, beats: Sequence[Beat]) -> None:
        """Nodes beat: (node, boot, whom to tell whether that gives it a lease, in the engine's thread)."""

        def hand_in() -> None:
            for node, boot, then in beats:
                self._worker.hear(node, boot, then)

        self._in_loop(hand_in)

    def _in_loop(self, run: Callable[[], None]) -> None:
        """Run something in the engine's thread, and have a turn after it."""

        def ring() -> None:
            run()
            self._wake.set()

        self._loop.call_soon_threadsafe(ring)

    def run(self, wish: Request) -> "Future[Status]":
        """Submit a task and wait for its end; raises as `submit` does. Answered if this engine drives it to its end."""
        future: Future[Status] = Future()

        def then(result: Any) -> None:
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                self._waiting.setdefault(result["id"], []).append(future)

        self._in_loop(lambda: self._worker.submit(wish, then))
        return future

    def hint(self) -> None:
        """Something was written to the store (a cancellation, a task): look now instead of at the next sweep."""
        self._in_loop(self._worker.look)

    async def _run(self) -> None:
        await self._nodes.open()
        ringing = _Ringing(self._nodes, self._wake.set)
        while not self._stopping:
            self._wake.clear()
            try:
                turn(self._worker, self._store, ringing, self._placer, time.monotonic())
            except StoreDown as error:
                LOG.warning("engine %s: the store does not answer: %s", self._name, error)
                await self._start_anew()
                continue
            except Exception:
                # A defect, of ours or of a policy: tasks must not lie where they are because an engine died of it.
                LOG.exception("engine %s: starting anew after a defect", self._name)
                await self._start_anew()
                continue
            self._tell()
            if self._worker.carried:
                self._worker.carried = False
                self._nodes.tell()
            # Once around the loop in any case: what has come in belongs into the next transaction.
            await asyncio.sleep(self._gather_s)
            if self._worker.nothing() and not self._wake.is_set():
                rest = self._worker.wake() - time.monotonic()
                if rest > 0:
                    await self._rest(rest)
        await self._nodes.close()
        me = self._worker.incarnation
        try:
            self._store.transact([Work(lambda tx: leave(tx, me))])
        except StoreDown:
            return

    async def _start_anew(self) -> None:
        self._worker.reborn(self._incarnation())
        await asyncio.sleep(STORE_RETRY_S)

    def _tell(self) -> None:
        over, self._worker.over = self._worker.over, []
        if over:
            self.closed(over)
        for task, status in over:
            for future in self._waiting.pop(task, ()):
                future.set_result(status)

    async def _rest(self, seconds: float) -> None:
        timer = self._loop.call_later(seconds, self._wake.set)
        await self._wake.wait()
        timer.cancel()


def _into(future: "Future[Any]") -> Callable[[Any], None]:
    """What gives a future its result, or its exception."""

    def then(result: Any) -> None:
        if future.cancelled():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    return then


class _Ringing:
    """Nodes whose answers wake the engine."""

    def __init__(self, nodes: Nodes, ring: Callable[[], None]) -> None:
        self._nodes, self._ring = nodes, ring
        self.holds, self.names = nodes.holds, nodes.names

    def send(self, operation: Operation, answer: Answer) -> None:
        def arrive(operation: Operation, outcome: Outcome) -> None:
            answer(operation, outcome)
            self._ring()

        self._nodes.send(operation, arrive)
