"""Nodes, tasks, quotas, tokens, the cluster itself; and without a token: joining, and whether the server is well."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from prometheus_client import generate_latest
from pydantic import Field

from gpve.server.http import shapes
from gpve.server.http.answers import A_TASK, PROBLEMS, WITH_BODY, answers, told
from gpve.server.http.operation import (
    Asked,
    Cases,
    GuestNumber,
    Json,
    OnlyProject,
    OnlyStatus,
    OnlyTarget,
    Page,
    Size,
    Strict,
    TaskNumber,
    WishOf,
    accepted,
    place_of,
)
from gpve.server.http.shapes import (
    Ca,
    Drain,
    Explanation,
    Joined,
    NewToken,
    Node,
    Nodes,
    Policies,
    Quota,
    Status,
    Task,
    Tasks,
    TaskWithLog,
    Token,
    Usage,
)
from gpve.server.policies import CLUSTER

NodeName = Annotated[str, Path(description="The node's name.", pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
ProjectName = Annotated[str, Path(description="The project.", pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]
Limit = Annotated[int | None, Field(ge=0, le=1 << 53, description="The most; null: no limit.")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")]


class Cancel(Asked):
    """A wish for a task's end."""

    reason: Annotated[str, Field(max_length=191, pattern=r"^[^\x00-\x1f\x7f]*$")] = Field(
        default="", description="What its log shall say beside who asked."
    )


class DrainWish(Asked):
    """A wish for an empty node."""

    dry_run: bool = Field(default=False, description="Only say which guests would stay.")


class Limits(Asked):
    """What a project may have."""

    guests_limit: Limit = None
    cpu_milli_limit: Limit = None
    memory_mib_limit: Limit = None


class Choice(Asked):
    """A placement policy."""

    policy: Annotated[str, Field(min_length=1, max_length=63)] | None = Field(
        description="Its name; null: what decides without a choice."
    )


class TokenWish(Asked):
    """A token of the API."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[ -~]+$")] = Field(
        description="Whose it is: the actor of what is asked for with it."
    )
    lives_s: Annotated[int, Field(ge=1, le=10 * 366 * 86_400)] | None = Field(
        default=None, description="Seconds; null: until it is withdrawn."
    )


class JoinTokenWish(Asked):
    """A token with which one node joins, once."""

    node: Name | None = Field(
        default=None, description="This one alone, which may be of the cluster already; null: any that is not."
    )
    lives_s: Annotated[int, Field(ge=1, le=366 * 86_400)] = Field(default=3600, description="Seconds.")


class Join(Asked):
    """A node's wish to join."""

    token: Annotated[str, Field(min_length=1, max_length=256)] = Field(description="Its one-time token.")
    name: Name = Field(description="What it shall be called.")
    csr: Annotated[str, Field(min_length=1, max_length=16_384)] = Field(
        description="A certificate request, PEM, for a key on the curve P-256."
    )


def router() -> APIRouter:
    """What needs a token."""
    made = APIRouter(route_class=Strict)
    get, post, put, delete = ["GET"], ["POST"], ["PUT"], ["DELETE"]
    sent, some_task = WITH_BODY, (404, *A_TASK)
    for path, endpoint, methods, status, shape, tag, problems in (
        ("/tasks", _tasks, get, 200, Tasks, "tasks", ()),
        ("/tasks/{task}", _task, get, 200, TaskWithLog, "tasks", (404,)),
        ("/tasks/{task}/cancel", _cancel, post, 202, Task, "tasks", (*sent, 404, 409)),
        ("/tasks/{task}/resume", _resume, post, 202, Task, "tasks", (404, 409)),
        ("/nodes", _nodes, get, 200, Nodes, "nodes", ()),
        ("/nodes/{node}", _node, get, 200, Node, "nodes", (404,)),
        ("/nodes/{node}/usage", _usage, get, 200, Usage, "nodes", (404,)),
        ("/nodes/{node}/drain", _drain, post, 202, Drain, "nodes", (*sent, *some_task)),
        ("/nodes/{node}/close", _close, post, 202, Task, "nodes", some_task),
        ("/nodes/{node}/open", _open, post, 202, Task, "nodes", some_task),
        ("/nodes/{node}", _leave, delete, 204, None, "nodes", (404, 409)),
        ("/join-tokens", _join_token, post, 201, NewToken, "nodes", sent),
        ("/projects/{project}/quota", _quota, get, 200, Quota, "projects", ()),
        ("/projects/{project}/quota", _limit, put, 200, Quota, "projects", sent),
        ("/projects/{project}/policy", _choose, put, 200, Policies, "projects", sent),
        ("/policies", _policies, get, 200, Policies, "projects", ()),
        ("/policies/cluster", _choose_for_all, put, 200, Policies, "projects", sent),
        ("/tokens", _tokens, get, 200, list[Token], "tokens", ()),
        ("/tokens", _token, post, 201, NewToken, "tokens", sent),
        ("/tokens/{digest}", _withdraw, delete, 204, None, "tokens", (404, 409)),
        ("/status", _status, get, 200, Status, "cluster", ()),
        ("/audit", _audit, get, 200, list[str], "cluster", ()),
        ("/guests/{guest}/explain", _explain, get, 200, Explanation, "guests", (404,)),
    ):
        options: dict[str, Any] = {"methods": methods, "status_code": status, "tags": [tag]}
        if shape is not None:
            options["response_model"] = shape
        else:
            options["response_class"] = Response
        made.add_api_route(path, endpoint, **options, **told(endpoint), responses=answers(*problems))
    return made


def open_router() -> APIRouter:
    """What a node asks that is not of the cluster yet."""
    made = APIRouter(route_class=Strict)
    ca: dict[str, Any] = {"response_model": Ca, "tags": ["nodes"], "responses": {422: PROBLEMS[422]}}
    made.add_api_route("/ca", _ca, **ca, **told(_ca))
    joined: dict[str, Any] = {"response_model": Joined, "tags": ["nodes"], "responses": answers(*WITH_BODY, 409)}
    made.add_api_route("/join", _join, methods=["POST"], **joined, **told(_join))
    return made


def health_router() -> APIRouter:
    """What machines ask."""
    made = APIRouter(include_in_schema=False)
    made.add_api_route("/healthz", _healthz)
    made.add_api_route("/readyz", _readyz)
    made.add_api_route("/metrics", _metrics)
    return made


async def _tasks(
    control: Cases,
    page: Page = None,
    size: Size = 100,
    status: OnlyStatus = None,
    project: OnlyProject = None,
    target: OnlyTarget = None,
) -> Response:
    """Tasks, the newest first."""
    equal = {"status": status, "project": project, "target": target}
    wanted = {name: value for name, value in equal.items() if value is not None}
    rows = await control.tasks(None if page is None else int(page), size, **wanted)
    following = str(rows[-1]["id"]) if len(rows) == size else None
    return Json({"tasks": [shapes.task(row) for row in rows], "next": following})


async def _task(control: Cases, task: TaskNumber) -> Response:
    """A task and its log."""
    row = await control.task(task)
    events = await control.access.read(control.store.rows, "event", task=task)
    return Json(shapes.task(row) | {"body": _body(row["body"]), "log": [shapes.event(event) for event in events]})


def _body(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError:
        return {"damaged": text}


async def _cancel(control: Cases, task: TaskNumber, body: Cancel, request: Request) -> Response:
    """Ask for the end of a task: what it did is undone. Refused once its commit point is behind."""
    return accepted(await control.cancel(task, request.scope["actor"], body.reason))


async def _resume(control: Cases, task: TaskNumber) -> Response:
    """Give a stuck task a new deadline; nothing else is altered."""
    return accepted(await control.resume(task))


async def _nodes(control: Cases) -> Response:
    """All nodes."""
    rows = await control.access.read(control.store.rows, "node")
    return Json({"nodes": [shapes.node(row) for row in rows]})


async def _node(control: Cases, node: NodeName) -> Response:
    """A node, and what it says of itself."""
    return Json(shapes.node(*await control.members.node(node)))


async def _usage(control: Cases, node: NodeName) -> Response:
    """What a node uses now. It is asked for it."""
    return Json(await control.usage(node))


async def _drain(control: Cases, node: NodeName, body: DrainWish, wish: WishOf) -> Response:
    """Empty a node: it takes no more guests, and those that can move do."""
    stay = await control.members.would_stay(node)
    if body.dry_run:
        return Json({"task": None, "blockers": stay}, 202)
    row = await control.members.drain(node, wish)
    return Json({"task": shapes.task(row), "blockers": stay}, 202, place_of(row))


async def _close(control: Cases, node: NodeName, wish: WishOf) -> Response:
    """Close a node: it takes no more guests, and those on it stay."""
    return accepted(await control.members.close_node(node, wish))


async def _open(control: Cases, node: NodeName, wish: WishOf) -> Response:
    """Open a node that was drained or closed."""
    return accepted(await control.members.open_node(node, wish))


async def _leave(control: Cases, node: NodeName) -> Response:
    """A node that carries nothing leaves for good."""
    await control.members.leave(node)
    return Response(status_code=204)


async def _join_token(control: Cases, body: JoinTokenWish) -> Response:
    """A token with which one node joins, once."""
    token = await control.tokens.make(body.node or "", "join", body.lives_s)
    return Json({"token": token}, 201)


async def _quota(control: Cases, project: ProjectName) -> Response:
    """What a project uses, and its limits."""
    return Json(await control.projects.quota(project))


async def _limit(control: Cases, project: ProjectName, body: Limits) -> Response:
    """Give a project limits. What it has it keeps."""
    return Json(await control.projects.limit(project, body.model_dump()))


async def _policies(control: Cases) -> Response:
    """Which policies decide where guests go."""
    return Json(await control.projects.policies())


async def _choose(control: Cases, project: ProjectName, body: Choice) -> Response:
    """Have a policy of its own decide for a project. Guests stay where they are; other servers follow in seconds."""
    return Json(await control.projects.choose(project, body.policy))


async def _choose_for_all(control: Cases, body: Choice) -> Response:
    """Have a policy decide for all projects that have none of their own."""
    return Json(await control.projects.choose(CLUSTER, body.policy))


async def _tokens(control: Cases) -> Response:
    """What is known of all tokens."""
    return Json(await control.tokens.all())


async def _token(control: Cases, body: TokenWish) -> Response:
    """A new token of the API, shown this once."""
    return Json({"token": await control.tokens.make(body.name, "api", body.lives_s)}, 201)


async def _withdraw(
    control: Cases,
    digest: Annotated[str, Path(description="Of it, or its first 12 characters.", pattern=r"^[0-9a-f]{12,64}$")],
) -> Response:
    """A token is worth nothing any more (within five seconds on every server)."""
    await control.tokens.withdraw(digest)
    return Response(status_code=204)


async def _status(control: Cases) -> Response:
    """The cluster in short."""
    return Json(await control.status())


async def _audit(control: Cases) -> Response:
    """Check every invariant that can be read off the store; a sentence for each finding."""
    return Json(await control.audits.audit())


async def _explain(control: Cases, guest: GuestNumber) -> Response:
    """Why a guest is where it is, or why it waits."""
    return Json(await control.explain(guest))


async def _ca(control: Cases) -> Response:
    """The cluster's authority, PEM. Who asks knows its fingerprint, or believes what it is told."""
    return Json({"ca": control.authority.certificate.decode()})


async def _join(control: Cases, body: Join) -> Response:
    """A node joins with a one-time token."""
    certificate, servers = await control.members.join(body.token, body.name, body.csr.encode())
    ca = control.authority.certificate.decode()
    return Json({"certificate": certificate.decode(), "ca": ca, "servers": servers})


async def _healthz() -> Response:
    return Response("ok\n", media_type="text/plain")


async def _readyz(control: Cases) -> Response:
    problem = await control.not_ready()
    if problem:
        return Response(f"not ready: {problem}\n", 503, media_type="text/plain")
    return Response("ready\n", media_type="text/plain")


async def _metrics() -> Response:
    return Response(generate_latest(), media_type="text/plain; version=0.0.4")
