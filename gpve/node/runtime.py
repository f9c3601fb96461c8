"""AI agents for real: the Agent Runtime's daemon of this host, driven over its Unix socket.

An agent of the cluster with number N is ``gpve-N`` there. What a flow asks step by step (workspace, sandbox, start) the
daemon does in two: it stores an agent, and starts it. So `agent.open` creates, `agent.confine` checks, `agent.start`
starts. Agents with ha are leased ones there: the daemon is told of the node's lease, and when it is over each ends by
itself, whichever processes of ours are dead. Whether an agent should run is kept in the node's journal: a lease that
comes back starts those that should.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import orjson

from gpve.node.agent_spec import HA, spec_of
from gpve.node.checkpoints import Checkpoints
from gpve.node.executor import CallError, Cannot, Frame, Spent
from gpve.node.journal import Journal
from gpve.runtime.v1 import runtime_pb2 as pb
from gpve.runtime.v1 import runtime_pb2_grpc
from gpve.tasks.advance import Operation

LOG = logging.getLogger(__name__)
WANTED = "agents"
"""Under which name the journal keeps what should be: by agent running or paused."""
ANSWER_S = 30.0
START_S = 50.0
LIVE = (pb.STATE_STARTING, pb.STATE_RUNNING, pb.STATE_PAUSED, pb.STATE_STOPPING, pb.STATE_BACKOFF, pb.STATE_CRASH_LOOP)
KINDS = {
    grpc.StatusCode.NOT_FOUND: "not-found",
    grpc.StatusCode.FAILED_PRECONDITION: "precondition",
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.ALREADY_EXISTS: "precondition",
}
CHUNK = 64 * 1024


def name_of(guest: int) -> str:
    """The agent's id in the daemon."""
    return f"gpve-{guest}"


def guest_of(name: str) -> int | None:
    """The number of an agent of the cluster; None: it is somebody else's."""
    number = name.removeprefix("gpve-")
    return int(number) if number != name and number.isdigit() else None


class Runtime:
    """Executor of agents (`gpve.node.executor.Executor`)."""

    atomic = False

    def __init__(self, socket: Path, journal: Journal, checkpoints: Path) -> None:
        # The path of a socket is no host name: without this the authority is refused as malformed.
        options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", options=options)
        self._daemon = runtime_pb2_grpc.RuntimeServiceStub(self._channel)
        self._checkpoints = Checkpoints(self._daemon, checkpoints)
        self._journal = journal
        self._wanted: dict[str, str] = journal.load(WANTED) or {}

    async def close(self) -> None:
        """Hang up; agents go on."""
        await self._channel.close()

    async def info(self) -> pb.InfoReply:
        """The daemon's version, and what this host can enforce. Raises `grpc.RpcError`."""
        reply: pb.InfoReply = await self._daemon.Info(pb.InfoRequest(), timeout=5.0)
        return reply

    async def make(self, operation: Operation, leased: bool) -> dict[str, Any]:
        """As in `gpve.node.executor.Executor`."""
        verb, arguments = operation.verb.removeprefix("agent."), operation.arguments
        key = f"{operation.task}/{operation.step}/{operation.direction}/{operation.epoch}"
        try:
            await self._make(verb, int(arguments["guest"]), arguments, key, leased)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT):
                raise Cannot(error.details()) from error
            if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Cannot(error.details(), again=True) from error
            raise
        return {}

    async def _make(self, verb: str, guest: int, a: Mapping[str, Any], key: str, leased: bool) -> None:
        match verb:
            case "open":
                await self._open(guest, a["spec"], key)
            case "close":
                if a["remove"]:
                    await self._remove(guest, key)
            case "remove":
                await self._remove(guest, key)
            case "confine":
                self._without_ports(a)
                if await self._agent(guest) is None:
                    raise Cannot(f"agent {guest} has no workspace here")
            case "unconfine":
                found = await self._agent(guest)
                if found is not None and found.state in LIVE:
                    raise Cannot("its processes are there")
            case "start":
                self._want(guest, "running")
                await self._start(guest, key, leased)
            case "kill":
                self._want(guest, None)
                await self._end(guest, key)
            case "restart":
                self._without_ports(a)
                await self._end(guest, key)
                self._want(guest, "running")
                await self._start(guest, key, leased)
            case "pause" | "repause":
                await self._pause(guest, key, undoes=verb == "repause")
            case "resume" | "unpause":
                await self._resume(guest, key, undoes=verb == "unpause")
            case "checkpoint":
                await self._checkpoint(guest, a["name"], key)
            case "uncheckpoint":
                self._checkpoints.drop(guest, a["name"])
                await self._as_wanted(guest, key)
            case "restore":
                await self._checkpoints.put_back(guest, name_of(guest), a["name"], key)
            case _:
                raise Cannot(f"the Agent Runtime's executor has no {verb!r} yet")

    @staticmethod
    def _without_ports(a: Mapping[str, Any]) -> None:
        if a.get("ports"):
            told = ", ".join(port["network"] for port in a["ports"])
            raise Cannot(
                f"agents have no ports in networks ({told}) yet; their policy's [network] says what they reach"
            )

    async def _agent(self, guest: int) -> pb.Agent | None:
        try:
            reply = await self._daemon.List(pb.ListRequest(ids=[name_of(guest)]), timeout=ANSWER_S)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise
        agent: pb.Agent = reply.agents[0]
        return agent

    def _want(self, guest: int, state: str | None) -> None:
        if state is None:
            self._wanted.pop(str(guest), None)
        else:
            self._wanted[str(guest)] = state
        self._journal.keep(WANTED, self._wanted)

    async def _open(self, guest: int, spec: Mapping[str, Any], key: str) -> None:
        if spec.get("program") is None:
            raise Cannot("this node runs agents for real: the agent needs a program (argv)")
        if await self._agent(guest) is None:
            request = pb.CreateRequest(request_id=key, id=name_of(guest), spec=spec_of(spec))
            await self._daemon.Create(request, timeout=ANSWER_S)

    async def _remove(self, guest: int, key: str) -> None:
        self._want(guest, None)
        self._checkpoints.forget(guest)
        try:
            request = pb.DeleteRequest(request_id=key, id=name_of(guest), force=True)
            await self._daemon.Delete(request, timeout=ANSWER_S)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise

    async def _checkpoint(self, guest: int, name: str, key: str) -> None:
        found = await self._agent(guest)
        if found is None:
            raise Cannot(f"agent {guest} has no workspace here")
        if found.state == pb.STATE_RUNNING:
            # Of one moment.
            await self._daemon.Pause(pb.PauseRequest(request_id=f"{key}/pause", id=name_of(guest)), timeout=ANSWER_S)
        try:
            await self._checkpoints.take(guest, name_of(guest), name)
        finally:
            await self._as_wanted(guest, key)

    async def _as_wanted(self, guest: int, key: str) -> None:
        """A checkpoint that was broken off has left the agent paused."""
        found = await self._agent(guest)
        if found is not None and found.state == pb.STATE_PAUSED and self._wanted.get(str(guest)) == "running":
            await self._daemon.Resume(pb.ResumeRequest(request_id=f"{key}/go-on", id=name_of(guest)), timeout=ANSWER_S)

    async def _start(self, guest: int, key: str, leased: bool) -> None:
        found = await self._agent(guest)
        if found is None:
            raise Cannot(f"agent {guest} has no sandbox here")
        if found.state in LIVE and found.state != pb.STATE_STOPPING:
            return
        if found.labels.get(HA) and not leased:
            return
        reply = await self._daemon.Start(pb.StartRequest(request_id=f"{key}/start", id=name_of(guest)), timeout=START_S)
        if reply.agent.state == pb.STATE_EXITED and reply.agent.last_exit.reason == pb.EXIT_REASON_START_FAILED:
            raise Cannot(reply.agent.last_exit.detail)

    async def _end(self, guest: int, key: str) -> None:
        """SIGTERM, the agent's own grace, SIGKILL; what has ended already is fine."""
        found = await self._agent(guest)
        if found is None or found.state not in LIVE:
            return
        await self._daemon.Stop(pb.StopRequest(request_id=f"{key}/stop", id=name_of(guest)), timeout=START_S)

    async def _pause(self, guest: int, key: str, undoes: bool) -> None:
        found = await self._agent(guest)
        if found is None:
            if undoes:
                return
            raise Cannot(f"agent {guest} is not there")
        self._want(guest, "paused")
        if found.state == pb.STATE_RUNNING:
            await self._daemon.Pause(pb.PauseRequest(request_id=key, id=name_of(guest)), timeout=ANSWER_S)
        elif found.state != pb.STATE_PAUSED and not undoes:
            raise Cannot(f"agent {guest} does not run: it is {_state(found)}")

    async def _resume(self, guest: int, key: str, undoes: bool) -> None:
        found = await self._agent(guest)
        if found is None:
            if undoes:
                return
            raise Cannot(f"agent {guest} is not there")
        self._want(guest, "running")
        if found.state == pb.STATE_PAUSED:
            await self._daemon.Resume(pb.ResumeRequest(request_id=key, id=name_of(guest)), timeout=ANSWER_S)

    async def runs(self, guests: Sequence[int]) -> list[int]:
        """As in `gpve.node.executor.Executor`."""
        states = {guest_of(agent.id): agent for agent in await self._agents()}
        found = []
        for guest in guests:
            agent = states.get(guest)
            waits = agent is not None and agent.labels.get(HA) and str(guest) in self._wanted and _ended_by_us(agent)
            if agent is not None and (agent.state in LIVE or waits):
                found.append(guest)
        return found

    async def _agents(self) -> list[pb.Agent]:
        reply = await self._daemon.List(pb.ListRequest(), timeout=ANSWER_S)
        return [agent for agent in reply.agents if guest_of(agent.id) is not None]

    async def usage(self) -> dict[int, Spent]:
        """As in `gpve.node.executor.Executor`."""
        try:
            reply = await self._daemon.Stats(pb.StatsRequest(), timeout=ANSWER_S)
        except grpc.RpcError as error:
            raise _call_error(error) from error
        ours = ((guest_of(one.id), one) for one in reply.stats)
        return {guest: Spent(one.cpu_ns, one.memory_bytes) for guest, one in ours if guest is not None}

    async def clean(self, guests: Sequence[int]) -> None:
        """As in `gpve.node.executor.Executor`."""
        for guest in guests:
            await self._remove(guest, "")

    async def lease(self, until: float) -> bool:
        """As in `gpve.node.executor.Executor`."""
        try:
            await self._daemon.ExtendLease(pb.ExtendLeaseRequest(until_boottime_ms=int(until * 1000)), timeout=2.0)
        except grpc.RpcError as error:
            LOG.warning("the Agent Runtime does not hear of the lease: %s", error.details())
            return False
        return True

    async def end_ha(self) -> None:
        """As in `gpve.node.executor.Executor`: agents end by themselves."""

    async def restart_ha(self) -> None:
        """As in `gpve.node.executor.Executor`."""
        try:
            agents = await self._agents()
        except grpc.RpcError as error:
            LOG.warning("the Agent Runtime does not answer: %s", error.details())
            return
        for agent in agents:
            guest = guest_of(agent.id)
            wanted = self._wanted.get(str(guest))
            if guest is None or wanted is None or not agent.labels.get(HA) or not _ended_by_us(agent):
                continue
            try:
                await self._daemon.Start(pb.StartRequest(id=agent.id), timeout=START_S)
                if wanted == "paused":
                    await self._daemon.Pause(pb.PauseRequest(id=agent.id), timeout=ANSWER_S)
            except grpc.RpcError as error:
                LOG.warning("agent %s is not started again: %s", agent.id, error.details())

    async def ended(self) -> AsyncIterator[int]:
        """Agents that end for good by themselves, as it happens; for ever."""
        while True:
            try:
                request = pb.EventsRequest(follow=True, from_now=True)
                wanted_now = [int(number) for number in self._wanted]
                for lost in set(wanted_now) - set(await self.runs(wanted_now)):
                    yield lost
                async for event in self._daemon.Events(request):
                    guest = guest_of(event.agent)
                    wanted = guest is not None and str(guest) in self._wanted
                    if guest is not None and wanted and event.kind == "exited" and not _by_us(event.exit):
                        yield guest
            except grpc.RpcError as error:
                LOG.info("the Agent Runtime does not answer: %s", error.details())
            await asyncio.sleep(1.0)

    async def call(self, asked: Mapping[str, Any]) -> AsyncIterator[Frame]:
        """As in `gpve.node.executor.Executor`."""
        try:
            match asked["verb"]:
                case "logs":
                    frames = self._logs(asked)
                case "exec":
                    frames = self._exec(asked)
                case "status":
                    frames = self._status(asked)
                case other:
                    raise CallError("invalid", f"no call {other!r}")
            async for frame in frames:
                yield frame
        except grpc.RpcError as error:
            raise _call_error(error) from error

    async def _logs(self, asked: Mapping[str, Any]) -> AsyncIterator[Frame]:
        request = pb.LogsRequest(
            id=name_of(asked["guest"]), follow=bool(asked["follow"]), tail_bytes=int(asked["tail_bytes"])
        )
        async for chunk in self._daemon.Logs(request):
            yield int(chunk.stream), chunk.data, None

    async def _exec(self, asked: Mapping[str, Any]) -> AsyncIterator[Frame]:
        stdin = str(asked.get("stdin", "")).encode(errors="surrogateescape")
        begin = pb.ExecRequest.Begin(
            id=name_of(asked["guest"]),
            argv=asked["argv"],
            env=asked.get("env", {}),
            cwd=asked.get("cwd", ""),
            stdin=bool(stdin),
            timeout_ms=asked.get("timeout_ms", 0),
        )

        def messages() -> Iterator[pb.ExecRequest]:
            yield pb.ExecRequest(begin=begin)
            for at in range(0, len(stdin), CHUNK):
                yield pb.ExecRequest(stdin=stdin[at : at + CHUNK])
            if stdin:
                yield pb.ExecRequest(stdin_closed=True)

        async for reply in self._daemon.Exec(messages()):
            match reply.WhichOneof("message"):
                case "stdout":
                    yield 1, reply.stdout, None
                case "stderr":
                    yield 2, reply.stderr, None
                case "exit":
                    yield 0, b"", -reply.exit.signal if reply.exit.signal else reply.exit.code

    async def _status(self, asked: Mapping[str, Any]) -> AsyncIterator[Frame]:
        name = name_of(asked["guest"])
        agent = (await self._daemon.List(pb.ListRequest(ids=[name]), timeout=ANSWER_S)).agents[0]
        stats = (await self._daemon.Stats(pb.StatsRequest(ids=[name]), timeout=ANSWER_S)).stats
        told: dict[str, Any] = {
            "executor": "runtime",
            "state": _state(agent),
            "ready": agent.ready,
            "restarts": agent.restarts,
            "enforced": list(agent.enforced),
            "last_exit": _exit(agent.last_exit) if agent.HasField("last_exit") else None,
        }
        if stats:
            one = stats[0]
            told["uses"] = {
                "cpu_ns": one.cpu_ns,
                "memory_bytes": one.memory_bytes,
                "memory_peak_bytes": one.memory_peak_bytes,
                "pids": one.pids,
                "oom_kills": one.oom_kills,
                "limit_hits": dict(one.limit_hits),
                "denials": dict(one.denials),
            }
        yield 1, orjson.dumps(told), None


def _call_error(error: grpc.RpcError) -> CallError:
    """What the daemon refused, as a caller is told it."""
    return CallError(KINDS.get(error.code(), "unavailable"), error.details())


def _ended_by_us(agent: pb.Agent) -> bool:
    """Ended by a Stop, a Kill or the end of a lease, not by itself; or never started for want of a lease."""
    if agent.state == pb.STATE_CREATED:
        return True
    return bool(agent.state == pb.STATE_EXITED and _by_us(agent.last_exit))


def _by_us(ended: pb.Exit) -> bool:
    return ended.reason in (pb.EXIT_REASON_STOPPED, pb.EXIT_REASON_LEASE)


def _state(agent: pb.Agent) -> str:
    return str(pb.State.Name(agent.state)).removeprefix("STATE_").lower().replace("_", "-")


def _exit(ended: pb.Exit) -> dict[str, Any]:
    reason = pb.ExitReason.Name(ended.reason).removeprefix("EXIT_REASON_").lower().replace("_", "-")
    told = {"reason": reason, "code": ended.code, "signal": ended.signal, "detail": ended.detail}
    return told | {"limits_hit": list(ended.limits_hit)}
