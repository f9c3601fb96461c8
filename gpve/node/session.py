"""The node's stream to a server: dials in, beats, performs what it is asked, dials again when it breaks."""

import asyncio
import json
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc

from gpve import __version__
from gpve.node import identity as who
from gpve.node.executor import CallError
from gpve.node.facts import Facts
from gpve.node.identity import Identity
from gpve.node.node import Node, clock, operation_of
from gpve.tasks.outcome import Done, Outcome, Refused, Unknown
from gpve.v1 import node_pb2 as pb
from gpve.v1 import node_pb2_grpc

LOG = logging.getLogger(__name__)
PROTOCOL = 1
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0
WELCOME_S = 10.0
RENEW_LOOK_S = 3600.0
OPTIONS = [
    # The name in every server's certificate, wherever it runs.
    ("grpc.ssl_target_name_override", "gpve-server"),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
]


class Refuses(Exception):
    """A server that says no, and will say so again."""


class Link:
    """A node's connection to its cluster, kept for as long as it runs."""

    def __init__(
        self,
        node: Node,
        identity: Identity,
        boot: str,
        facts: Facts,
        keep: Callable[[Identity], None] = lambda identity: None,
    ) -> None:
        self._node, self._identity, self._boot, self._facts = node, identity, boot, facts
        self._keep = keep
        self._servers = list(identity.servers)
        self._at = random.randrange(len(self._servers)) if self._servers else 0
        self._out: asyncio.Queue[pb.FromNode] = asyncio.Queue()
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._seen: set[int] = set()
        self._cut_until = float("-inf")
        self._connection: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()

    def seen(self, guest: int) -> None:
        """A guest was seen to have ended by itself: the cluster is told, now or when it is reached again."""
        self._seen.add(guest)
        if self.connected.is_set():
            self._tell_seen()

    def _tell_seen(self) -> None:
        if self._seen:
            self._out.put_nowait(pb.FromNode(seen=pb.Seen(guests=sorted(self._seen))))
            self._seen.clear()

    def cut(self, for_s: float) -> None:
        """Be cut off for a while: nothing passes, and nobody is told. For trials with simulated nodes."""
        self._cut_until = clock() + for_s
        if self._connection is not None:
            self._connection.cancel()

    async def run(self) -> None:
        """Connect, and stay connected, for ever."""
        watching = asyncio.create_task(self._watch_lease())
        renewing = asyncio.create_task(self._renew())
        wait = FIRST_WAIT_S
        try:
            while True:
                try:
                    self._connection = asyncio.create_task(self._once())
                    await asyncio.wait([self._connection, watching, renewing], return_when=asyncio.FIRST_COMPLETED)
                    for ended in (watching, renewing, self._connection):
                        if ended.done() and not ended.cancelled():
                            ended.result()
                    await asyncio.sleep(max(0.0, self._cut_until - clock()))
                except grpc.RpcError as error:
                    LOG.warning(
                        "the stream to %s broke: %s", self._server(), error.details(), extra={"node": self._node.name}
                    )
                except Refuses as error:
                    LOG.error("%s", error, extra={"node": self._node.name})
                    wait = LONGEST_WAIT_S
                if self.connected.is_set():
                    self.connected.clear()
                    wait = FIRST_WAIT_S
                self._at += 1
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(LONGEST_WAIT_S, 2.0 * wait)
        finally:
            watching.cancel()
            renewing.cancel()
            if self._connection is not None:
                self._connection.cancel()

    def _server(self) -> str:
        return self._servers[self._at % len(self._servers)]

    def _channel(self) -> Any:
        me = self._identity
        return grpc.aio.secure_channel(
            self._server(), grpc.ssl_channel_credentials(me.ca, me.key, me.certificate), OPTIONS
        )

    async def _once(self) -> None:
        """One connection, from its beginning to its end."""
        async with self._channel() as channel:
            stream = node_pb2_grpc.NodeServiceStub(channel).Session()
            # One that is over already says why when it is read.
            with suppress(asyncio.InvalidStateError):
                await stream.write(pb.FromNode(hello=self._hello()))
            try:
                first = await asyncio.wait_for(stream.read(), WELCOME_S)
            except TimeoutError:
                return
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT):
                    raise Refuses(f"{self._server()}: {error.details()}") from error
                raise
            if first is grpc.aio.EOF:
                return
            if first.WhichOneof("message") != "welcome" or first.welcome.protocol != PROTOCOL:
                raise Refuses(f"{self._server()} speaks another protocol: {first.welcome.version or 'unknown'}")
            await self._welcomed(first.welcome)
            workers = [
                asyncio.create_task(self._write(stream)),
                asyncio.create_task(self._beat(first.welcome.lease_ms / 1000.0)),
            ]
            reading = asyncio.create_task(self._read(stream, first.welcome.lease_ms / 1000.0))
            try:
                await asyncio.wait([*workers, reading], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (*workers, reading, *self._calls.values()):
                    task.cancel()
                self._calls.clear()
                while not self._out.empty():
                    self._out.get_nowait()
            for task in (reading, *workers):
                with suppress(asyncio.CancelledError):
                    await task

    async def _welcomed(self, welcome: pb.Welcome) -> None:
        here = self._server()
        others = [address for address in welcome.servers if address != here]
        self._servers, self._at = [here, *others], 0
        self.connected.set()
        self._tell_seen()
        LOG.info("connected to %s", here, extra={"node": self._node.name})

    def _hello(self) -> pb.Hello:
        facts = self._facts
        return pb.Hello(
            version=__version__,
            protocol=PROTOCOL,
            boot=self._boot,
            cpu_milli=facts.cpu_milli,
            memory_mib=facts.memory_mib,
            gpus=facts.gpus,
            gpu_model=facts.gpu_model,
            labels=facts.labels,
            kinds=facts.kinds,
            simulated=facts.simulated,
            facts_json=json.dumps(facts.told),
        )

    async def _write(self, stream: Any) -> None:
        # The stream may be over before whoever reads it has heard.
        with suppress(asyncio.InvalidStateError):
            while True:
                await stream.write(await self._out.get())

    async def _beat(self, lease_s: float) -> None:
        """A third of a lease apart; a lease is counted from the sending of the beat that is acknowledged."""
        self._sent: dict[int, float] = {}
        number = 0
        while True:
            number += 1
            self._sent[number] = clock()
            self._sent.pop(number - 16, None)
            self._out.put_nowait(pb.FromNode(beat=pb.Beat(number=number)))
            # Spread: a thousand nodes that came at once do not beat at once for ever.
            await asyncio.sleep(lease_s / 3.0 * random.uniform(0.8, 1.0))

    async def _read(self, stream: Any, lease_s: float) -> None:
        while (message := await stream.read()) is not grpc.aio.EOF:
            match message.WhichOneof("message"):
                case "beat":
                    sent = self._sent.pop(message.beat.number, None)
                    if message.beat.lease and sent is not None:
                        await self._node.grant(sent + lease_s)
                case "operations":
                    for told in message.operations.operations:
                        task = asyncio.create_task(self._perform(told))
                        _KEPT.add(task)
                        task.add_done_callback(_KEPT.discard)
                case "call":
                    self._frame(message.call)
                case "go_elsewhere":
                    return

    async def _watch_lease(self) -> None:
        while True:
            rest = self._node.lease_until - clock()
            await asyncio.sleep(min(1.0, max(0.02, rest)))
            await self._node.expire()

    async def _perform(self, told: pb.Operation) -> None:
        try:
            operation = operation_of(told, self._node.name)
        except ValueError as error:
            outcome: Outcome = Refused(str(error))
        else:
            outcome = await self._node.perform(operation)
        self._out.put_nowait(pb.FromNode(outcomes=pb.Outcomes(outcomes=[_told(told.number, outcome)])))

    def _frame(self, frame: pb.CallFrame) -> None:
        """A frame of a call: its beginning, or that nobody listens any more."""
        if frame.open_json:
            task = asyncio.create_task(self._call(frame.number, frame.open_json))
            self._calls[frame.number] = task
            task.add_done_callback(lambda _: self._calls.pop(frame.number, None))
        elif frame.end and frame.number in self._calls:
            self._calls[frame.number].cancel()

    async def _call(self, number: int, asked: str) -> None:
        last = pb.CallFrame(number=number, end=True)
        try:
            async for stream, data, code in self._node.call(json.loads(asked)):
                frame = pb.CallFrame(number=number, stream=stream, data=data)
                if code is not None:
                    frame.exit_code = code
                self._out.put_nowait(pb.FromNode(call=frame))
        except CallError as error:
            last.error, last.error_kind = str(error), error.kind
        except Exception as error:
            LOG.exception("a call", extra={"node": self._node.name})
            last.error, last.error_kind = f"{type(error).__name__}: {error}", "unavailable"
        self._out.put_nowait(pb.FromNode(call=last))

    async def _renew(self) -> None:
        """A new certificate, for a new key, in time."""
        while True:
            if self._identity.due and self.connected.is_set():
                try:
                    await self._renew_now()
                except grpc.RpcError as error:
                    LOG.warning("the certificate was not renewed: %s", error.details())
                except OSError as error:
                    LOG.warning("the certificate was not renewed: it cannot be kept: %s", error)
            await asyncio.sleep(RENEW_LOOK_S * random.uniform(0.5, 1.0))

    async def _renew_now(self) -> None:
        key, pem = who.new_key()
        async with self._channel() as channel:
            request = pb.RenewRequest(csr=who.request_of(self._identity.name, key))
            reply = await node_pb2_grpc.NodeServiceStub(channel).Renew(request, timeout=30.0)
        renewed = who.renewed(self._identity, pem, reply.certificate, self._servers)
        # Kept first: until it is, the one before is what the node starts with.
        self._keep(renewed)
        self._identity = renewed


_KEPT: set[asyncio.Task[None]] = set()
"""Operations that are being made: a task that nobody refers to may vanish in the middle."""


def _told(number: int, outcome: Outcome) -> pb.Outcome:
    match outcome:
        case Done(result):
            return pb.Outcome(number=number, done_json=json.dumps(result).encode())
        case Refused(reason, again, _):
            return pb.Outcome(number=number, refused=pb.Refused(reason=reason, again=again))
        case Unknown(reason):
            return pb.Outcome(number=number, unknown=reason)
