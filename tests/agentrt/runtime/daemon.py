"""The real daemon, started and killed by tests, and a small client of it."""

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from tests.agentrt.runtime.host import leaked_files, look
from tests.agentrt.runtime.stubs import load

pb, pb_grpc = load()
REPO = Path(__file__).parents[3]


def programs() -> Path:
    """Where gpve-agentrt and gpve-spawner were built: the newest build there is, or GPVE_AGENTRT_BIN."""
    if given := os.environ.get("GPVE_AGENTRT_BIN"):
        return Path(given)
    target = REPO / "agentrt/target"
    builds = [target / p for p in ("x86_64-unknown-linux-musl/release", "release", "debug")]
    built = [b for b in builds if (b / "gpve-agentrt").exists() and (b / "gpve-spawner").exists()]
    if not built:
        raise FileNotFoundError("gpve-agentrt is not built: make agentrt")
    return max(built, key=lambda b: (b / "gpve-agentrt").stat().st_mtime)


class Daemon:
    """One daemon over one directory. It may be killed and started again; agents are the daemon's, not the test's."""

    def __init__(self, root: Path, spawners: int = 2, user: int | None = None) -> None:
        self.root = root
        self.user = user
        #: What the daemon is started by.
        self.before: list[str] = []
        #: What it is told beside where it works.
        self.options: list[str] = []
        self.socket = root / "d.sock"
        self.spawners = spawners
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: grpc.Channel | None = None
        self.errors = root.with_name(root.name + ".err")

    def start(self) -> "Daemon":
        self.root.mkdir(exist_ok=True)
        if self.user is not None:
            os.chown(self.root, self.user, self.user)
        args = [programs() / "gpve-agentrt", "daemon", "--root", self.root, "--socket", self.socket]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*self.before, *map(str, args), "--spawners", str(self.spawners), *self.options],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )
        deadline = time.monotonic() + 20
        while True:
            self.connect()
            try:
                self.call.Info(pb.InfoRequest(), timeout=5)
                return self
            except grpc.RpcError as error:
                if self.process.poll() is not None:
                    raise RuntimeError(f"the daemon did not start: {self.said()}") from error
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def connect(self) -> None:
        self.hang_up()
        # The path of the socket is no host name: without this the authority is refused as malformed.
        options = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(f"unix:{self.socket}", options=options)
        self.call = pb_grpc.RuntimeServiceStub(self.channel)

    def hang_up(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """kill -9: the daemon gets no chance to say good-bye."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.hang_up()

    def stop(self) -> None:
        """SIGTERM: the daemon ends, its agents live on."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=20)
        self.hang_up()

    def leave_nothing(self) -> None:
        """End it with all its agents. Nothing may be left on the host, and it may not have panicked."""
        self.clear()
        self.stop()
        deadline = time.monotonic() + 10
        while (left := look(self.root)) and not left.empty() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left.empty(), left
        assert not leaked_files(left), leaked_files(left)
        assert "panicked" not in self.said(), self.said()
        shutil.rmtree(self.root.parent)

    def said(self) -> str:
        return self.errors.read_text(errors="replace")

    def spawner_pids(self) -> list[int]:
        """Spawners of this daemon's directory, by their arguments."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                args = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if args[0] == b"gpve-spawner" and args[1] == str(self.root).encode():
                status = (entry / "status").read_text()
                # An agent's init is a fork of the spawner, but process 1 of a namespace of its own.
                if len(status.split("NSpid:")[1].split("\n")[0].split()) == 1:
                    found.append(int(entry.name))
        return sorted(found)

    def clear(self) -> None:
        """Deletes all agents and templates."""
        for agent in self.call.List(pb.ListRequest()).agents:
            self.delete(agent.id)
        for template in self.call.ListTemplates(pb.ListTemplatesRequest()).templates:
            self.call.DeleteTemplate(pb.DeleteTemplateRequest(name=template.name), timeout=60)

    # Short forms of the verbs.

    def create(
        self,
        *argv: str,
        id: str = "",
        request_id: str = "",
        policy: str = "",
        secrets: dict[str, str] | None = None,
        **spec: Any,
    ) -> str:
        agent = pb.AgentSpec(argv=argv or SLEEP, policy=policy, **spec)
        request = pb.CreateRequest(id=id, request_id=request_id, spec=agent, secrets=secrets)
        return str(self.call.Create(request, timeout=30).agent.id)

    def start_agent(self, id: str, request_id: str = "") -> Any:
        return self.call.Start(pb.StartRequest(id=id, request_id=request_id), timeout=60).agent

    def run(self, *argv: str, **spec: Any) -> str:
        id = self.create(*argv, **spec)
        self.start_agent(id)
        return id

    def agent(self, id: str) -> Any:
        return self.call.List(pb.ListRequest(ids=[id]), timeout=30).agents[0]

    def wait(self, id: str, until: int = 0, timeout: float = 20) -> Any:
        return self.call.Wait(pb.WaitRequest(id=id, until=until, timeout_ms=int(timeout * 1000))).agent

    def template(self, name: str, **spec: Any) -> Any:
        request = pb.CreateTemplateRequest(name=name, spec=pb.TemplateSpec(**spec))
        return self.call.CreateTemplate(request, timeout=60).template

    def claim(self, template: str, *argv: str, **claim: Any) -> Any:
        return self.call.Claim(pb.ClaimRequest(template=template, argv=argv, **claim), timeout=60).agent

    def delete(self, id: str, request_id: str = "") -> None:
        self.call.Delete(pb.DeleteRequest(id=id, force=True, request_id=request_id), timeout=60)

    def logs(self, id: str, **request: Any) -> bytes:
        return b"".join(chunk.data for chunk in self.call.Logs(pb.LogsRequest(id=id, **request), timeout=60))

    def exec(self, id: str, *argv: str, stdin: bytes | None = None, **begin: Any) -> tuple[int, bytes, bytes]:
        """Exit code (or minus the signal), standard output and error of a program in the agent."""

        def messages() -> Iterator[Any]:
            yield pb.ExecRequest(begin=pb.ExecRequest.Begin(id=id, argv=argv, stdin=stdin is not None, **begin))
            if stdin is not None:
                yield pb.ExecRequest(stdin=stdin)
                yield pb.ExecRequest(stdin_closed=True)

        out, err, code = b"", b"", 0
        for reply in self.call.Exec(messages(), timeout=60):
            out += reply.stdout
            err += reply.stderr
            if reply.HasField("exit"):
                code = -reply.exit.signal if reply.exit.signal else reply.exit.code
        return code, out, err

    def stats(self, id: str) -> Any:
        return self.call.Stats(pb.StatsRequest(ids=[id]), timeout=30).stats[0]

    def events(self, after: int = 0, **request: Any) -> list[Any]:
        return list(self.call.Events(pb.EventsRequest(after=after, **request), timeout=60))


SLEEP = ("/bin/sleep", "100000")


def new_id() -> str:
    return uuid.uuid4().hex
