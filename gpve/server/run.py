"""A server from its start to its end: store, engine, APIs, sessions."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import uvicorn

from gpve import __version__
from gpve.engine.engine import Engine
from gpve.scheduler.policy import Policy, load
from gpve.server import authority as certs
from gpve.server import tracing
from gpve.server.audits import Audits
from gpve.server.control import Control
from gpve.server.decisions import Recording
from gpve.server.ends import Ends
from gpve.server.http.app import build
from gpve.server.metrics import METRICS
from gpve.server.nodes_rpc import NodeService, PeerService
from gpve.server.peers import Peers
from gpve.server.policies import Policies
from gpve.server.rpc import add_services
from gpve.server.sessions import SessionNodes
from gpve.server.settings import Settings
from gpve.server.tokens import good
from gpve.server.warm import compile_apart, warm
from gpve.store.database import connect
from gpve.store.sql import SqlStore
from gpve.store.upgrade import upgrade
from gpve.tasks.flows import FLOWS
from gpve.tasks.ledger import Tx, Work
from gpve.tasks.worker import Rules
from gpve.v1 import node_pb2_grpc
from gpve.world.placement import SchedulerPlacer
from gpve.world.store import StoreDown

LOG = logging.getLogger(__name__)
LONGEST_MESSAGE = 4 << 20
GRPC = [
    ("grpc.max_receive_message_length", LONGEST_MESSAGE),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_metadata_size", 16_384),
]
GRACE_S = 3.0
M_ARENA_MAX = -8
MADV_DONTNEED = 4
MADV_PAGEOUT = 21
TRIM_S = 30.0
GATHER_S = 0.004
"""How long a transaction of the engine waits for company: a commit costs about as much, whatever is in it."""


def serve(settings: Settings) -> None:
    """Serve until a signal asks for the end. Raises `InputError` if it cannot begin."""
    settings.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _be_thrifty()
    upgrade(settings.address)
    database = connect(settings.address)
    policy = load(settings.policy)
    compile_apart(settings.policy)
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(_serve(settings, SqlStore(database), policy))
    database.dispose()


def _be_thrifty() -> None:
    """A process that stays for weeks: cycles are collected as they come, and threads share two heaps of the allocator.

    (Commands that end soon have other wishes, see `gpve.cli.main`.)
    """
    gc.set_threshold(1000, 20, 50)
    # SQLite's driver gives the interpreter away at every row, and waits for it as long as this if others are busy: at
    # the usual 5 ms a transaction of 200 rows takes 115 ms beside a busy API, at 0.1 ms it takes 2.5 ms.
    sys.setswitchinterval(0.0001)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def _give_back_libraries() -> None:
    """Give the kernel the pages of all libraries back: most were needed for the start alone, as the compiler's.

    Those in use come back from the files as they are touched. Where the kernel does not do it, nothing is lost.
    """
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        if ".so" in line:
            place, rights = line.split()[:2]
            first, last = (int(end, 16) for end in place.split("-"))
            # Code is as the file has it; other pages may have been written to.
            advice = MADV_DONTNEED if rights == "r-xp" else MADV_PAGEOUT
            libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def _serve(settings: Settings, store: SqlStore, policy: Policy) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    ca = await _first(store, settings)
    identity = certs.server_identity(ca, [settings.host])
    rules = Rules(
        lease_s=settings.lease_s,
        node_lease_s=settings.node_lease_s,
        node_margin_s=settings.node_margin_s,
        keep_s=settings.keep_s,
    )
    nodes = SessionNodes(loop)
    policies = Policies(policy)
    placer = Recording(SchedulerPlacer(policy, chosen=policies.chosen), settings.name, policy.name)
    engine = Engine(settings.name, store, nodes, placer, FLOWS, rules, GATHER_S)
    placer.engine = nodes.engine = engine
    control = Control(settings.name, store, nodes, engine, rules, ca, policies, Audits(settings.address))
    peers = Peers(control, ca, identity)
    control.remote, nodes.missed = peers.call, peers.hint
    control.tracing = tracing.begin(settings.name, control.access, certs.fingerprint(ca.certificate))
    engine.closed = Ends(control, loop).heard
    await loop.run_in_executor(None, warm, policy)
    await control.projects.refresh()
    gc.collect()
    # What is there now stays: it is not looked through again and again.
    gc.freeze()
    # Python looks through the old again when a quarter more has come since it last did: as of now, there are none.
    gc.collect()
    _give_back_libraries()
    node_server = _node_server(settings, control, ca, identity)
    api_server = _rpc_server(settings, control, identity)
    http = _http(settings, control, identity)
    await node_server.start()
    await api_server.start()
    await announce(store, settings)
    engine.start()
    control.ready = True
    serving = asyncio.create_task(http.serve())
    keeping = [asyncio.create_task(_keep(control))]
    if control.tracing is not None:
        keeping.append(asyncio.create_task(control.tracing.run()))
    LOG.info("a server has begun", extra={"server": settings.name, "url": settings.url})
    await asyncio.wait({serving, asyncio.create_task(over.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done() and not over.is_set():
        LOG.error("the HTTP API could not be served at %s", settings.url)
    control.ready = False
    for task in keeping:
        task.cancel()
    http.should_exit = True
    await asyncio.gather(node_server.stop(GRACE_S), api_server.stop(GRACE_S), peers.close())
    await serving
    await loop.run_in_executor(None, engine.stop)
    if control.tracing is not None:
        await loop.run_in_executor(None, control.tracing.end)
    try:
        store.transact([Work(lambda tx: tx.delete("server", settings.name))])
    except StoreDown as error:
        LOG.warning("the store does not answer at the end: %s", error)
    LOG.info("a server has ended", extra={"server": settings.name})


async def _first(store: SqlStore, settings: Settings) -> certs.Authority:
    """The authority; and, where no token is good for the API (none yet, or all expired), one in the server's files."""

    def run(tx: Tx) -> tuple[certs.Authority, str | None]:
        ca = certs.authority(tx)
        if good(tx, tx.where("token")):
            return ca, None
        return ca, certs.make_token(tx, "first", certs.API, None, ca)

    (answer,) = store.transact([Work(run)])
    if isinstance(answer, Exception):
        raise answer
    ca: certs.Authority = answer[0]
    token: str | None = answer[1]
    _write(settings.directory / "ca.pem", ca.certificate, 0o644)
    if token is not None:
        _write(settings.directory / "token", token.encode() + b"\n", 0o600)
        LOG.info("no token was good for the API: there is a new one in %s", settings.directory / "token")
    return ca


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file; nobody reads half of it, or with another mode."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    new.replace(path)


async def announce(store: SqlStore, settings: Settings) -> None:
    """Say to the others where this server is; forget those whose lease is long over."""
    me = {
        "name": settings.name,
        "api": settings.url,
        "peers": f"{settings.host}:{settings.node_port}",
        "version": __version__,
        "started": time.time(),
    }

    def run(tx: Tx) -> None:
        alive = {row["name"] for row in tx.where("engine") if row["lease_until"] > tx.now - 3600.0}
        for row in tx.where("server"):
            if row["name"] not in alive:
                tx.delete("server", row["name"])
        tx.put("server", {**me, "started": tx.now})

    store.transact([Work(run)])


def _node_server(settings: Settings, control: Control, ca: certs.Authority, identity: certs.Identity) -> Any:
    server = grpc.aio.server(options=GRPC)
    node_pb2_grpc.add_NodeServiceServicer_to_server(NodeService(control), server)
    node_pb2_grpc.add_PeerServiceServicer_to_server(PeerService(control), server)
    mutual = grpc.ssl_server_credentials([(identity.key, identity.certificate)], ca.certificate, True)
    _bind(server, f"{settings.bind}:{settings.node_port}", mutual)
    return server


def _rpc_server(settings: Settings, control: Control, identity: certs.Identity) -> Any:
    server = grpc.aio.server(options=GRPC)
    add_services(server, control)
    secure = grpc.ssl_server_credentials([(identity.key, identity.certificate)]) if settings.tls else None
    _bind(server, f"{settings.bind}:{settings.rpc_port}", secure)
    return server


def _bind(server: Any, address: str, credentials: Any) -> None:
    from gpve.model.errors import InputError

    try:
        bound = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
    except RuntimeError as error:
        raise InputError(f"{address} cannot be served: {error}") from error
    if not bound:
        raise InputError(f"{address} cannot be served: is it in use?")


def _http(settings: Settings, control: Control, identity: certs.Identity) -> uvicorn.Server:
    secure: dict[str, Any] = {}
    if settings.tls:
        _write(settings.directory / "server.pem", identity.certificate, 0o644)
        _write(settings.directory / "server.key", identity.key, 0o600)
        secure = {
            "ssl_certfile": settings.directory / "server.pem",
            "ssl_keyfile": settings.directory / "server.key",
            "ssl_version": ssl.PROTOCOL_TLS_SERVER,
        }
    config = uvicorn.Config(
        build(control),
        host=settings.bind,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(GRACE_S),
        h11_max_incomplete_event_size=65_536,
        **secure,
    )
    server = uvicorn.Server(config)
    # The server has its own way to end, by `over`.
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    return server


async def _keep(control: Control) -> None:
    """What is to be done now and then."""
    trimmed = time.monotonic()
    while True:
        await asyncio.sleep(5.0)
        if time.monotonic() - trimmed > TRIM_S:
            # What a burst of work took of the heap is given back: up to a tenth of a second, in a thread.
            await asyncio.get_running_loop().run_in_executor(None, ctypes.CDLL(None).malloc_trim, 0)
            trimmed = time.monotonic()
        METRICS.tasks.set(control.engine.in_hand)
        METRICS.sessions.set(len(control.nodes.sessions))
        try:
            await control.access.read(control.store.revision)
            METRICS.store_up.set(1)
            await control.projects.refresh()
            await control.members.end_strangers()
            await control.forget_decisions()
        except Exception as error:  # the next round looks again
            METRICS.store_up.set(0)
            LOG.warning("keeping house: %s", error)
