"""The asynchronous client."""

import asyncio
import builtins
import random
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from gpve.client import calls
from gpve.client.calls import Call, Events, fail, submit, unreachable
from gpve.client.values import ApiError, Change, Guest, Node, Output, Task


class AsyncClient:
    """A cluster by the URLs of its servers (as https://10.0.0.1:7460); when one does not answer, another is asked.

    ``ca``: the cluster's authority, PEM; None: those that the system believes.
    """

    def __init__(self, servers: Sequence[str], token: str, ca: str | None = None) -> None:
        if not servers:
            raise ValueError("at least one server is wanted")
        self._servers, self._at = [server.rstrip("/") for server in servers], 0
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
        last = None
        for attempt in range(calls.TRIES):
            try:
                response = await self._http.request(call.method, self._url(call), **call.arguments())
                if response.status_code not in calls.AGAIN or attempt == calls.TRIES - 1:
                    fail(response)
                    return response.json() if response.content else None
            except httpx.TransportError as error:
                last = error
                if call.method != "GET" and call.key is None:
                    break
            self._at += 1
            await asyncio.sleep(calls.wait_s(attempt) * random.uniform(0.5, 1.0))
        assert last is not None
        raise unreachable(self._servers, last) from last

    async def _lines(self, call: Call) -> AsyncIterator[str]:
        """The lines of a stream."""
        try:
            arguments = {**call.arguments(), "timeout": calls.STREAM_TIMEOUT}
            async with self._http.stream(call.method, self._url(call), **arguments) as response:
                if response.status_code >= 400:
                    await response.aread()
                    fail(response)
                async for line in response.aiter_lines():
                    yield line
        except httpx.TransportError as error:
            self._at += 1
            raise unreachable(self._servers, error) from error

    # Guests.

    async def create(
        self, kind: str, spec: dict[str, Any], *, project: str | None = None, key: str | None = None
    ) -> Task:
        """Create a guest: ``create("vm", {"name": "web", "cpu_milli": 2000, "memory_mib": 4096})``."""
        return Task.of(await self._ask(submit("POST", f"/{kind}s", spec, key=key, project=project)))

    async def get(self, kind: str, guest: int | str) -> Guest:
        """A guest by its number, or by its name where only one has it. Raises `ApiError`."""
        if isinstance(guest, int) or guest.isdigit():
            return Guest.of(await self._ask(Call("GET", f"/{kind}s/{guest}")))
        return calls.only(kind, guest, [one async for one in self.list(kind, name=guest)])

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
        stdin: str = "",
        timeout_ms: int = 60_000,
    ) -> AsyncIterator[Output]:
        """Run one more program inside an agent; its output, and last its exit."""
        body = {"argv": [*argv], "env": env or {}, "stdin": stdin, "timeout_ms": timeout_ms}
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
        seen, broken = -1, 0
        while True:
            events = Events()
            try:
                async for line in self._lines(Call("GET", f"/tasks/{number}/follow")):
                    event = events.line(line)
                    if event is not None and event[0] == "task" and event[1]["revision"] > seen:
                        task, broken = Task.of(event[1]), 0
                        seen = task.revision
                        yield task
                        if task.over:
                            return
            except ApiError as error:
                broken += 1
                if error.status not in (0, 500, *calls.AGAIN) or broken >= calls.TRIES:
                    raise
            await asyncio.sleep(calls.wait_s(broken))

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
        return Node.of(await self._ask(Call("GET", f"/nodes/{name}")))

    async def drain(
        self, name: str, *, dry_run: bool = False, key: str | None = None
    ) -> tuple[Task | None, Sequence[str]]:
        """Empty a node: the task (None in a dry run), and which guests would stay, and why."""
        told = await self._ask(submit("POST", f"/nodes/{name}/drain", {"dry_run": dry_run}, key=key))
        return None if told["task"] is None else Task.of(told["task"]), told["blockers"]

    async def close_node(self, name: str, *, key: str | None = None) -> Task:
        """Close a node: it takes no more guests, and those on it stay."""
        return Task.of(await self._ask(submit("POST", f"/nodes/{name}/close", key=key)))

    async def open_node(self, name: str, *, key: str | None = None) -> Task:
        """Open a node that was drained or closed."""
        return Task.of(await self._ask(submit("POST", f"/nodes/{name}/open", key=key)))

    async def remove_node(self, name: str) -> None:
        """A node that carries nothing leaves for good."""
        await self._ask(Call("DELETE", f"/nodes/{name}"))

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
        broken = 0
        while True:
            events = Events()
            try:
                query = {"revision": revision, "table": [*tables]}
                async for line in self._lines(Call("GET", "/watch", query)):
                    event = events.line(line)
                    if event is not None:
                        broken = 0
                        yield Change.of(event[1])
                        revision = events.id if events.id is not None else revision
            except ApiError as error:
                broken += 1
                if error.status not in (0, 500, *calls.AGAIN) or broken >= calls.TRIES or revision is None:
                    raise
            await asyncio.sleep(calls.wait_s(broken))

    async def usage(self, node: str) -> dict[str, Any]:
        """What a node uses now: cpu_milli, memory_mib, and the same of its guests that run for real, by number."""
        told: dict[str, Any] = await self._ask(Call("GET", f"/nodes/{node}/usage"))
        return told

    async def quota(self, project: str) -> dict[str, Any]:
        """What a project uses, and its limits."""
        told: dict[str, Any] = await self._ask(Call("GET", f"/projects/{project}/quota"))
        return told

    async def limit(self, project: str, **limits: int | None) -> dict[str, Any]:
        """Give a project limits: guests_limit, cpu_milli_limit, memory_mib_limit; None is no limit."""
        told: dict[str, Any] = await self._ask(Call("PUT", f"/projects/{project}/quota", body=limits))
        return told

    async def policies(self) -> dict[str, Any]:
        """Which policies decide: ``cluster``, ``projects`` (those that have their own), ``known``."""
        told: dict[str, Any] = await self._ask(Call("GET", "/policies"))
        return told

    async def choose_policy(self, policy: str | None, project: str | None = None) -> dict[str, Any]:
        """Have a policy decide for a project (None: for all that have none of their own); None: no choice."""
        path = "/policies/cluster" if project is None else f"/projects/{project}/policy"
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
        await self._ask(Call("DELETE", f"/tokens/{digest}"))

    async def dump(self) -> AsyncIterator[str]:
        """Everything that the simulator needs to decide again what this cluster decided: lines of JSON."""
        async for line in self._lines(Call("GET", "/dump")):
            yield line
