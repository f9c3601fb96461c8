"""The services that nodes and other servers speak: over mutual TLS, on a port of its own."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
from cryptography import x509

from gpve import __version__
from gpve.model.errors import InputError
from gpve.model.kinds import KINDS
from gpve.server import sessions
from gpve.server.authority import fingerprint, node_certificate
from gpve.server.calls import Call, lost
from gpve.server.control import Control
from gpve.server.problems import problem_of
from gpve.v1 import node_pb2 as pb
from gpve.v1 import node_pb2_grpc

LOG = logging.getLogger(__name__)
PROTOCOL = 1
HELLO_S = 10.0
"""A node that says nothing for so long after it has come is sent away."""
LONGEST_JSON = 1 << 20
WORD = re.compile(r"[ -~]{1,191}")


def peer(context: Any) -> tuple[str, bytes]:
    """Whose certificate the caller showed (``server`` or ``node/NAME``), and the certificate, PEM."""
    shown = context.auth_context().get("x509_pem_cert", [b""])[0]
    if not shown:
        return "", b""
    certificate = x509.load_pem_x509_certificate(shown)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        if uri.startswith("gpve:"):
            return uri.removeprefix("gpve:"), shown
    return "", shown


class NodeService(node_pb2_grpc.NodeServiceServicer):
    """Sessions of nodes."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def _node(self, context: Any) -> str:
        """The node that calls; one that has no row, or another certificate by now, is refused."""
        try:
            name, shown = peer(context)
        except (ValueError, x509.ExtensionNotFound):
            name, shown = "", b""
        if not name.startswith("node/"):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a node's certificate is wanted")
        node = name.removeprefix("node/")
        if not await self._control.members.is_node(node, fingerprint(shown)):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"node {node} is not of this cluster, or has joined anew since"
            )
        return node

    async def Session(self, requests: AsyncIterator[pb.FromNode], context: Any) -> None:  # noqa: N802
        """As the protocol says."""
        try:
            node = await self._node(context)
            first = await asyncio.wait_for(anext(aiter(requests)), HELLO_S)
            if first.WhichOneof("message") != "hello" or first.hello.protocol != PROTOCOL:
                await context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION, f"a hello of protocol {PROTOCOL} is wanted first"
                )
            await self._control.members.greet(node, _checked(first.hello))
        except (TimeoutError, StopAsyncIteration):
            return
        except InputError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            problem = problem_of(error)
            LOG.warning("a node was not let in: %s", error)
            await context.abort(problem.code, str(problem))
        session = sessions.Session(node, first.hello.boot)
        welcome = pb.Welcome(
            version=__version__,
            protocol=PROTOCOL,
            lease_ms=int(self._control.rules.node_lease_s * 1000),
            servers=await self._control.members.peers(),
        )
        session.say(pb.ToNode(welcome=welcome))
        self._control.nodes.enter(session)
        LOG.info("a node has come", extra={"node": node})
        reading = asyncio.create_task(self._read(session, requests))
        try:
            while (messages := await session.outgoing()) is not None:
                for message in messages:
                    await context.write(message)
            if session.why:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, session.why)
        finally:
            reading.cancel()
            self._control.nodes.leave(session)
            LOG.info("a node has gone", extra={"node": node})

    async def _read(self, session: sessions.Session, requests: AsyncIterator[pb.FromNode]) -> None:
        nodes = self._control.nodes
        try:
            async for message in requests:
                match message.WhichOneof("message"):
                    case "beat":
                        nodes.beat(session, message.beat.number)
                    case "outcomes":
                        nodes.heard(session, message.outcomes)
                    case "call":
                        nodes.frame(session, message.call)
                    case "seen":
                        await self._control.members.seen(session.node, list(message.seen.guests))
                    case other:
                        LOG.warning("node %s says %s out of turn", session.node, other)
                        break
        except (grpc.RpcError, asyncio.CancelledError):
            pass
        except Exception:
            LOG.exception("the session of node %s is ended", session.node)
        finally:
            session.close()

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.RenewReply:  # noqa: N802
        """As the protocol says."""
        node = await self._node(context)
        try:
            certificate = node_certificate(self._control.authority, node, request.csr)
        except InputError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        await self._control.members.certify(node, certificate)
        return pb.RenewReply(certificate=certificate, ca=self._control.authority.certificate)


def _checked(hello: pb.Hello) -> pb.Hello:
    """What strangers wrote. Raises `InputError`."""
    if not WORD.fullmatch(hello.boot):
        raise InputError("1 to 191 printable ASCII characters are wanted", column="boot")
    for name in ("cpu_milli", "memory_mib"):
        if not 0 < getattr(hello, name) <= 1 << 40:
            raise InputError("a positive amount is wanted", column=name)
    if len(hello.gpus) > 64 or any(not 0 < milli <= 1000 for milli in hello.gpus):
        raise InputError("at most 64 devices, of 1 to 1000 gpu_milli each", column="gpus")
    if len(hello.gpu_model) > 64 or len(hello.labels) > 64:
        raise InputError("at most 64 labels, and a model of at most 64 characters", column="labels")
    if any(len(key) > 191 or len(value) > 191 for key, value in hello.labels.items()):
        raise InputError("a label has at most 191 characters", column="labels")
    if any(kind not in KINDS for kind in [*hello.kinds, *hello.simulated]):
        raise InputError(f"of {', '.join(KINDS)}", column="kinds")
    if len(hello.facts_json) > LONGEST_JSON:
        raise InputError("at most 1 MiB", column="facts_json")
    try:
        facts = json.loads(hello.facts_json or "{}")
    except (ValueError, RecursionError) as error:
        raise InputError("no JSON", column="facts_json") from error
    if not isinstance(facts, dict):
        raise InputError("an object is wanted", column="facts_json")
    return hello


class PeerService(node_pb2_grpc.PeerServiceServicer):
    """Servers to each other."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def _server(self, context: Any) -> None:
        try:
            name, _ = peer(context)
        except (ValueError, x509.ExtensionNotFound):
            name = ""
        if name != "server":
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this is for servers")

    async def Hint(self, request: pb.HintRequest, context: Any) -> pb.HintReply:  # noqa: N802
        """As the protocol says."""
        await self._server(context)
        self._control.engine.hint()
        return pb.HintReply()

    async def Call(  # noqa: N802
        self, requests: AsyncIterator[pb.CallFrame], context: Any
    ) -> AsyncIterator[pb.CallFrame]:
        """As the protocol says."""
        await self._server(context)
        first = await anext(aiter(requests))
        call = Call()
        send = self._control.nodes.call(first.node, json.loads(first.open_json), call)
        if send is None:
            yield lost(f"node {first.node} is not connected")
            return

        async def forward() -> None:
            async for frame in requests:
                send(frame)

        forwarding = asyncio.create_task(forward())
        try:
            async for frame in call.raw():
                yield frame
                if frame.end:
                    return
        finally:
            forwarding.cancel()
            send(pb.CallFrame(end=True, error="given up"))
