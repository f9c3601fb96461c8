"""The asynchronous client."""

import asyncio
import builtins
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from gpve.client import calls
from gpve.client.calls import Call, Events, Patience, part, problem_of, submit, unreachable
from gpve.client.values import ApiError, Change, Guest, Node, Output, Task


class AsyncClient:
    """A cluster by the URLs of its servers (as https://10.0.0.1:7460); when one does not answer, another is asked.

    ``ca``: the cluster's authority, PEM; None: those that the system believes. ``patience_s``: how long a call is tried
    again while no server answers, or the database does not; then it raises `ApiError`. ``waiting`` is told after each
    failed try that is not the last what is in the way.
    """

    def __init__(
        self,
        servers: Sequence[str],
        token: str,
        ca: str | None = None,
        *,
        patience_s: float = calls.PATIENCE_S,
        waiting: Callable[[ApiError], None] | None = None,
    ) -> None:
        if not servers:
            raise ValueError("at least one server is wanted")
        self._servers, self._at = [server.rstrip("/") for server in servers], 0
        self._patience_s, self._waiting = patience_s, waiting
        verify = ssl.create_default_context(cadata=ca)
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.AsyncClient(verify=verify, headers=headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()

    def _url(self, call: Call) -> str:
        return f"{self._servers[self._at % len(self._servers)]}/api/v1{call.path}"

    async def _ask(self, call: Call) -> Any:
        """The answer (JSON). What does not change anything, or has a key, is asked again if nobody answers."""
        patience = Patience(self._patience_s if call.patience_s is None else call.patience_s)
        problem: ApiError | None = None
        while True:
            try:
                timeout = calls.timeout(patience.try_s(len(self._servers)))
                response = await self._http.request(call.method, self._url(call), **call.arguments(timeout))
                if response.status_code < 400:
                    return response.json() if response.content else None
                problem = problem_of(response)
                if response.status_code not in calls.AGAIN:
                    raise problem
            except httpx.TransportError as error:
                # A try that ran out of time says less than what a server answered before it.
                if problem is None or not isinstance(error, httpx.TimeoutException):
                    problem = unreachable(self._servers, error)
                if call.method != "GET" and call.key is None:
                    raise problem from error
            await self._pause(patience, problem)

    async def _pause(self, patience: Patience, problem: ApiError) -> None:
        """Wait before the next try, of the next server. Raises the problem when the time is over."""
        pause = patience.pause_s()
        if pause is None:
            raise problem
        if self._waiting is not None:
            self._waiting(problem)
        self._at += 1
        await asyncio.sleep(pause)

    async def _lines(self, call: Call) -> AsyncIterator[str]:
        """The lines of a stream."""
        try:
            arguments = call.arguments(calls.STREAM_TIMEOUT)
            async with self._http.stream(call.method, self._url(call), **arguments) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise problem_of(response)
                async for line in response.aiter_lines():
                    yield line
        except httpx.TransportError as error:
            raise unreachable(self._servers, error) from error

    # Guests.

    async def create(
        self, kind: str, spec: dict[str, Any], *, project: str | None = None, key: str | None = None
    ) -> Task:
        """Create a guest: ``create("vm", {"name": "web", "cpu_milli": 2000, "memory_mib": 4096})``."""
        return Task.of(await self._ask(submit("POST", f"/{kind}s", spec, key=key, project=project)))

    async def get(self, kind: str, guest: int | str, project: str | None = None) -> Guest:
        """A guest by its number, or by its name where only one (of the project) has it. Raises `ApiError`."""
        name = str(guest)
        if not (name.isascii() and name.isdigit()):
            found = [one async for one in self.list(kind, name=name, project=project)]
            return calls.only(kind, name, project, found)
        try:
            return calls.within(project, Guest.of(await self._ask(Call("GET", f"/{kind}s/{name}"))))
        except ApiError as error:
            found = [one async for one in self.list(kind, name=name)] if error.status in (404, 422) else []
            if not found:
                raise
            raise calls.named_so(name, found) from error

    async def list(self, kind: str = "guest", **equal: str | None) -> AsyncIterator[Guest]:
        """Guests by number, of a kind or of all; ``equal``: project, node, phase, name."""
        page = None
        while True:
            told = await self._ask(Call("GET", f"/{kind}s", {**equal, "page": page, "size": 1000}))
            for one in told["guests"]:
                yield Guest.of(one)
            page = told["next"]
            if page is None:
                return

    async def act(
        self,
        kind: str,
        operation: str,
        guest: int,
        arguments: dict[str, Any] | None = None,
        *,
        key: str | None = None,
        revision: int | None = None,
    ) -> Task:
        """An operation on a guest, by the name that it has for its kind: ``act("vm", "migrate", 100, {"to": "b"})``.

        ``revision``: only if the guest is still of this one.
        """
        path, method = f"/{kind}s/{guest}/{operation}", "POST"
        if operation == "delete":
            path, method = f"/{kind}s/{guest}", "DELETE"
        return Task.of(await self._ask(submit(method, path, arguments, key=key, revision=revision)))

    async def explain(self, guest: int) -> dict[str, Any]:
        """Why a guest is where it is, or why it waits."""
        told: dict[str, Any] = await self._ask(Call("GET", f"/guests/{guest}/explain"))
        return told

    async def logs(self, agent: int, *, follow: bool = False, tail_bytes: int = 0) -> AsyncIterator[Output]:
        """An agent's output: what is kept, and with ``follow`` what comes."""
        query = {"follow": follow, "tail_bytes": tail_bytes}
        async for line in self._lines(Call("GET", f"/agents/{agent}/logs", query)):
            yield calls.output(line)

    async def exec(
        self,
        agent: int,
        argv: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        stdin: bytes | str = b"",
        timeout_ms: int = 60_000,
    ) -> AsyncIterator[Output]:
        """Run one more program inside an agent; its output, and last its exit. ``stdin``: at most 256 KiB."""
        body = {"argv": [*argv], "env": env or {}, "timeout_ms": timeout_ms, **calls.stdin(stdin)}
        async for line in self._lines(Call("POST", f"/agents/{agent}/exec", body=body)):
            yield calls.output(line)

    async def agent_status(self, agent: int) -> dict[str, Any]:
        """What an agent's node says of it now."""
        told: dict[str, Any] = await self._ask(Call("GET", f"/agents/{agent}/status"))
        return told

    # Tasks.

    async def task(self, number: int) -> Task:
        """A task, with its log."""
        return Task.of(await self._ask(Call("GET", f"/tasks/{number}")))

    async def tasks(self, *, most: int = 100, **equal: str | None) -> Sequence[Task]:
        """Tasks, the newest first; ``equal``: status, project, target."""
        found: builtins.list[Task] = []
        page = None
        while len(found) < most:
            query = {**equal, "page": page, "size": min(1000, most - len(found))}
            told = await self._ask(Call("GET", "/tasks", query))
            found += [Task.of(one) for one in told["tasks"]]
            page = told["next"]
            if page is None:
                break
        return found

    async def follow(self, number: int) -> AsyncIterator[Task]:
        """A task with each of its changes, until it is over; a stream that breaks is opened anew."""
        seen, patience = -1, None
        while True:
            events = Events()
            try:
                async for line in self._lines(Call("GET", f"/tasks/{number}/follow")):
                    event = events.line(line)
                    if event is not None and event[0] == "task" and event[1]["revision"] > seen:
                        task, patience = Task.of(event[1]), None
                        seen = task.revision
                        yield task
                        if task.over:
                            return
            except ApiError as error:
                if error.status not in (0, 500, *calls.AGAIN):
                    raise
                patience = patience or Patience(self._patience_s)
                await self._pause(patience, error)
            else:
                # As a server that is stopped ends it.
                await asyncio.sleep(calls.FIRST_WAIT_S)

    async def wait(self, task: Task, progress: Callable[[Task], None] | None = None) -> Task:
        """Wait for the end of a task; ``progress`` is called with each of its changes."""
        async for each in self.follow(task.id):
            task = each
            if progress is not None:
                progress(task)
        return task

    async def cancel(self, number: int, reason: str = "") -> Task:
        """Ask for the end of a task."""
        return Task.of(await self._ask(Call("POST", f"/tasks/{number}/cancel", body={"reason": reason})))

    async def resume(self, number: int) -> Task:
        """Give a stuck task a new deadline."""
        return Task.of(await self._ask(Call("POST", f"/tasks/{number}/resume")))

    # Nodes.

    async def nodes(self) -> Sequence[Node]:
        """All nodes."""
        told = await self._ask(Call("GET", "/nodes"))
        return [Node.of(one) for one in told["nodes"]]

    async def node(self, name: str) -> Node:
        """A node, with what it says of itself."""
        return Node.of(await self._ask(Call("GET", f"/nodes/{part(name)}")))

    async def drain(
        self, name: str, *, dry_run: bool = False, key: str | None = None
    ) -> tuple[Task | None, Sequence[str]]:
        """Empty a node: the task (None in a dry run), and which guests would stay, and why."""
        told = await self._ask(submit("POST", f"/nodes/{part(name)}/drain", {"dry_run": dry_run}, key=key))
        return None if told["task"] is None else Task.of(told["task"]), told["blockers"]

    async def close_node(self, name: str, *, key: str | None = None) -> Task:
        """Close a node: it takes no more guests, and those on it stay."""
        return Task.of(await self._ask(submit("POST", f"/nodes/{part(name)}/close", key=key)))

    async def open_node(self, name: str, *, key: str | None = None) -> Task:
        """Open a node that was drained or closed."""
        return Task.of(await self._ask(submit("POST", f"/nodes/{part(name)}/open", key=key)))

    async def remove_node(self, name: str) -> None:
        """A node that carries nothing leaves for good."""
        await self._ask(Call("DELETE", f"/nodes/{part(name)}"))

    async def join_token(self, node: str | None = None, lives_s: int = 3600) -> str:
        """A token with which one node joins, once."""
        return str((await self._ask(Call("POST", "/join-tokens", body={"node": node, "lives_s": lives_s})))["token"])

    # The cluster.

    async def status(self) -> dict[str, Any]:
        """The cluster in short."""
        told: dict[str, Any] = await self._ask(Call("GET", "/status"))
        return told

    async def audit(self) -> Sequence[str]:
        """Check every invariant that can be read off the store; a sentence for each finding."""
        told: Sequence[str] = await self._ask(Call("GET", "/audit", patience_s=calls.AUDIT_S))
        return told

    async def watch(self, revision: int | None = None, tables: Sequence[str] = ()) -> AsyncIterator[Change]:
        """Changes behind a revision (None: from now on), for ever. Raises `ApiError` of kind "compacted".

        A stream that breaks is opened anew behind the last revision that was seen whole: nothing is skipped, and a
        change may be told twice.
        """
        patience = None
        while True:
            events = Events()
            try:
                query = {"revision": revision, "table": [*tables]}
                async for line in self._lines(Call("GET", "/watch", query)):
                    event = events.line(line)
                    if event is not None:
                        patience = None
                        yield Change.of(event[1])
                        revision = events.id if events.id is not None else revision
            except ApiError as error:
                if error.status not in (0, 500, *calls.AGAIN) or revision is None:
                    raise
                patience = patience or Patience(self._patience_s)
                await self._pause(patience, error)
            else:
                # As a server that is stopped ends it.
                await asyncio.sleep(calls.FIRST_WAIT_S)

    async def usage(self, node: str) -> dict[str, Any]:
        """What a node uses now: cpu_milli, memory_mib, and the same of its guests that run for real, by number."""
        told: dict[str, Any] = await self._ask(Call("GET", f"/nodes/{part(node)}/usage"))
        return told

    async def quota(self, project: str) -> dict[str, Any]:
        """What a project uses, and its limits."""
        told: dict[str, Any] = await self._ask(Call("GET", f"/projects/{part(project)}/quota"))
        return told

    async def limit(self, project: str, **limits: int | None) -> dict[str, Any]:
        """Give a project limits: guests_limit, cpu_milli_limit, memory_mib_limit; None is no limit."""
        told: dict[str, Any] = await self._ask(Call("PUT", f"/projects/{part(project)}/quota", body=limits))
        return told

    async def policies(self) -> dict[str, Any]:
        """Which policies decide: ``cluster``, ``projects`` (those that have their own), ``known``."""
        told: dict[str, Any] = await self._ask(Call("GET", "/policies"))
        return told

    async def choose_policy(self, policy: str | None, project: str | None = None) -> dict[str, Any]:
        """Have a policy decide for a project (None: for all that have none of their own); None: no choice."""
        path = "/policies/cluster" if project is None else f"/projects/{part(project)}/policy"
        told: dict[str, Any] = await self._ask(Call("PUT", path, body={"policy": policy}))
        return told

    async def make_token(self, name: str, lives_s: int | None = None) -> str:
        """A new token of the API, shown this once."""
        return str((await self._ask(Call("POST", "/tokens", body={"name": name, "lives_s": lives_s})))["token"])

    async def tokens(self) -> Sequence[dict[str, Any]]:
        """What is known of all tokens."""
        told: Sequence[dict[str, Any]] = await self._ask(Call("GET", "/tokens"))
        return told

    async def withdraw_token(self, digest: str) -> None:
        """A token is worth nothing any more."""
        await self._ask(Call("DELETE", f"/tokens/{part(digest)}"))

    async def dump(self) -> AsyncIterator[str]:
        """Everything that the simulator needs to decide again what this cluster decided: lines of JSON."""
        async for line in self._lines(Call("GET", "/dump")):
            yield line
