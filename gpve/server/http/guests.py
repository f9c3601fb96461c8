"""Guests of all kinds: /vms, /vclusters, /agents with an operation for each of their flows, and /guests for all."""

import inspect
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Query, Response
from pydantic import BaseModel, create_model

from gpve.model.kinds import KINDS
from gpve.model.phases import MOVES
from gpve.server.access import flow_of
from gpve.server.control import Control, operations
from gpve.server.http import shapes
from gpve.server.http.answers import A_TASK, WITH_BODY, answers, told
from gpve.server.http.operation import (
    Cases,
    ConditionOf,
    GuestNumber,
    Json,
    OnlyName,
    OnlyNode,
    OnlyPhase,
    OnlyProject,
    Page,
    Size,
    Strict,
    WishOf,
    accepted,
)
from gpve.server.http.shapes import Guest, Guests, Task
from gpve.tasks import flow as flows
from gpve.tasks.flows.create import Created

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "It is still of the revision that was named."}}
Kind = Literal["vm", "vcluster", "agent"]
OnlyKind = Annotated[Kind | None, Query(description="Only of this kind.")]
A = {"vm": "a VM", "vcluster": "a vCluster", "agent": "an agent"}
A_TASK_MADE: dict[str, Any] = {"status_code": 202, "response_model": Task}
CHARGED = ("clone", "resize")
"""Operations that take of the project's quota."""


def router() -> APIRouter:
    """All of it."""
    made = APIRouter(route_class=Strict)
    many: dict[str, Any] = {"response_model": Guests, "tags": ["guests"], "responses": answers()}
    made.add_api_route("/guests", _list_guests, **many, **told(_list_guests))
    one: dict[str, Any] = {"response_model": Guest, "tags": ["guests"], "responses": answers(404) | NOT_MODIFIED}
    made.add_api_route("/guests/{guest}", _get_guest, **one, **told(_get_guest))
    for kind in KINDS:
        _add_kind(made, kind)
    return made


def _add_kind(made: APIRouter, kind: str) -> None:
    def add(path: str, endpoint: Callable[..., Awaitable[Response]], name: str, **more: Any) -> None:
        made.add_api_route(f"/{kind}s{path}", endpoint, tags=[f"{kind}s"], operation_id=f"{kind}_{name}", **more)

    many = A[kind].split()[1] + "s"
    add(
        "",
        _create(kind),
        "create",
        methods=["POST"],
        summary=f"Create {A[kind]}",
        description=f"{_of_flow(kind, 'create')} A name that is taken is refused (409).",
        responses=answers(*WITH_BODY, *A_TASK, 403, 404),
        **A_TASK_MADE,
    )
    add(
        "",
        _list(kind),
        "list",
        summary=f"List {many}",
        description=f"All {many}, by number, a page at a time; the answer's `revision` is where to watch from.",
        responses=answers(),
        response_model=Guests,
    )
    add(
        "/{guest}",
        _show(kind),
        "get",
        summary=f"Get {A[kind]}",
        description="What the store knows of it. Its `ETag` is its revision: `If-Match` guards a change by it.",
        responses=answers(404) | NOT_MODIFIED,
        response_model=Guest,
    )
    for operation in operations(kind):
        path, method = f"/{{guest}}/{operation}", "POST"
        if operation == "delete":
            path, method = "/{guest}", "DELETE"
        takes = _without_guest(flow_of(f"{kind}_{operation}").body)
        problems = [*A_TASK, 404, 412, *(WITH_BODY if takes else ()), *((403,) if operation in CHARGED else ())]
        before = " or ".join(sorted(MOVES[kind][operation].before))
        add(
            path,
            _act(kind, operation, takes),
            operation,
            methods=[method],
            summary=f"{operation.capitalize()} {A[kind]}",
            description=f"{_of_flow(kind, operation)} It begins while the guest is {before}.",
            responses=answers(*problems),
            **A_TASK_MADE,
        )


def _of_flow(kind: str, operation: str) -> str:
    """What a flow does, in its own words: the first paragraph of its file."""
    text = inspect.getdoc(import_module(f"gpve.tasks.flows.{kind}_{operation}")) or ""
    return " ".join(text.partition("\n\n")[0].split())


async def _list_guests(
    control: Cases,
    page: Page = None,
    size: Size = 100,
    kind: OnlyKind = None,
    project: OnlyProject = None,
    node: OnlyNode = None,
    phase: OnlyPhase = None,
    name: OnlyName = None,
) -> Response:
    """Guests of all kinds, by number, a page at a time; the answer's `revision` is where to watch from."""
    return await _listed(control, page, size, kind=kind, project=project, node=node, phase=phase, name=name)


async def _listed(control: Control, page: str | None, size: int, **equal: str | None) -> Response:
    wanted = {name: value for name, value in equal.items() if value is not None}
    rows, revision = await control.guests(None if page is None else int(page), size, **wanted)
    following = str(rows[-1]["id"]) if len(rows) == size else None
    return Json({"guests": [shapes.guest(row) for row in rows], "next": following, "revision": revision})


def _list(kind: str) -> Callable[..., Awaitable[Response]]:
    async def list_(
        control: Cases,
        page: Page = None,
        size: Size = 100,
        project: OnlyProject = None,
        node: OnlyNode = None,
        phase: OnlyPhase = None,
        name: OnlyName = None,
    ) -> Response:
        return await _listed(control, page, size, kind=kind, project=project, node=node, phase=phase, name=name)

    return list_


IfNoneMatch = Annotated[str | None, Header(description="An ETag: answer 304 if it is still that.")]


async def _get_guest(control: Cases, guest: GuestNumber, if_none_match: IfNoneMatch = None) -> Response:
    """A guest of any kind, as the store knows it."""
    return await _got(control, None, guest, if_none_match)


def _show(kind: str) -> Callable[..., Awaitable[Response]]:
    async def show(control: Cases, guest: GuestNumber, if_none_match: IfNoneMatch = None) -> Response:
        return await _got(control, kind, guest, if_none_match)

    return show


async def _got(control: Control, kind: str | None, number: int, if_none_match: str | None) -> Response:
    row = await control.guest(number, kind)
    tag = f'"{row["revision"]}"'
    if if_none_match is not None and tag in (part.strip() for part in if_none_match.split(",")):
        return Response(status_code=304, headers={"ETag": tag})
    return Json(shapes.guest(row, await control.waits_for(row)), headers={"ETag": tag})


EXAMPLES: dict[str, dict[str, Any]] = {
    "vm": {
        "small": {"summary": "A VM of two cores", "value": {"name": "web", "cpu_milli": 2000, "memory_mib": 4096}},
        "safe": {
            "summary": "One that is restarted elsewhere when its node dies",
            "value": {
                "name": "shop",
                "cpu_milli": 4000,
                "memory_mib": 8192,
                "disks": [{"pool": "ceph", "size_gib": 40}],
                "ha": True,
                "priority": 10,
            },
        },
    },
    "vcluster": {
        "small": {
            "summary": "A vCluster",
            "value": {"name": "team-a", "cpu_milli": 1000, "memory_mib": 2048, "version": "v1.31.0"},
        },
    },
    "agent": {
        "confined": {
            "summary": "An agent that reaches one host",
            "value": {
                "name": "helper",
                "cpu_milli": 500,
                "memory_mib": 256,
                "program": {
                    "argv": ["/usr/bin/python3", "-m", "http.server"],
                    "policy": '[network]\negress = ["api.example.org:443"]\n',
                    "restart": {"when": "always"},
                },
            },
        },
    },
}
"""Of bodies to create guests with, by kind."""


def _create(kind: str) -> Callable[..., Awaitable[Response]]:
    async def create(control: Cases, wish: WishOf, body: Created) -> Response:
        return accepted(await control.create(kind, body, wish))

    create.__annotations__["body"] = Annotated[flow_of(f"{kind}_create").body, Body(openapi_examples=EXAMPLES[kind])]
    return create


def _act(kind: str, operation: str, takes: type[flows.Body] | None) -> Callable[..., Awaitable[Response]]:
    async def act(control: Cases, wish: ConditionOf, guest: GuestNumber) -> Response:
        return accepted(await control.act(kind, operation, guest, {}, wish))

    async def act_with(control: Cases, wish: ConditionOf, guest: GuestNumber, body: BaseModel) -> Response:
        return accepted(await control.act(kind, operation, guest, body.model_dump(exclude_unset=True), wish))

    if takes is None:
        return act
    needed = any(field.is_required() for field in takes.model_fields.values())
    act_with.__annotations__["body"] = takes if needed else Annotated[takes, Body(default_factory=takes)]
    return act_with


def _without_guest(body: type[flows.Body]) -> type[flows.Body] | None:
    """The model of a request whose path names the guest; None: nothing is left."""
    fields: dict[str, Any] = {
        name: (Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation, field)
        for name, field in body.model_fields.items()
        if name != "guest"
    }
    if not fields:
        return None
    doc = (body.__doc__ or "").strip()
    made: type[flows.Body] = create_model(f"{body.__name__}Wish", __base__=flows.Body, __doc__=doc, **fields)
    return made
