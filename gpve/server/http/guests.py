"""Guests of all kinds: /vms, /vclusters, /agents with an operation for each of their flows, and /guests for all."""

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Response
from pydantic import BaseModel, create_model

from gpve.model.kinds import KINDS
from gpve.server.access import flow_of
from gpve.server.control import Control, operations
from gpve.server.http import shapes
from gpve.server.http.operation import Cases, GuestNumber, Json, Page, Size, Strict, Text, WishOf, accepted
from gpve.server.http.shapes import Guest, Guests, Task
from gpve.tasks import flow as flows
from gpve.tasks.flows.create import Created

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "It is still of the revision that was named."}}
Kind = Literal["vm", "vcluster", "agent"]
A = {"vm": "a VM", "vcluster": "a vCluster", "agent": "an agent"}


def router() -> APIRouter:
    """All of it."""
    made = APIRouter(route_class=Strict)
    made.add_api_route("/guests", _list_guests, response_model=Guests, tags=["guests"], summary="Guests of all kinds")
    made.add_api_route("/guests/{guest}", _get_guest, response_model=Guest, tags=["guests"], responses=NOT_MODIFIED)
    for kind in KINDS:
        _add_kind(made, kind)
    return made


def _add_kind(made: APIRouter, kind: str) -> None:
    base, show, list_ = f"/{kind}s", _show(kind), _list(kind)
    tags: list[str | Enum] = [f"{kind}s"]
    named: dict[str, Any] = {"tags": tags, "operation_id": f"{kind}_create", "status_code": 202, "response_model": Task}
    made.add_api_route(base, _create(kind), methods=["POST"], summary=f"Create {A[kind]}", **named)
    made.add_api_route(base, list_, tags=tags, operation_id=f"{kind}_list", response_model=Guests)
    made.add_api_route(
        f"{base}/{{guest}}",
        show,
        tags=tags,
        operation_id=f"{kind}_get",
        response_model=Guest,
        responses=NOT_MODIFIED,
    )
    for operation in operations(kind):
        path, method = f"{base}/{{guest}}/{operation}", "POST"
        if operation == "delete":
            path, method = f"{base}/{{guest}}", "DELETE"
        made.add_api_route(
            path,
            _act(kind, operation),
            methods=[method],
            tags=tags,
            operation_id=f"{kind}_{operation}",
            summary=f"{operation.capitalize()} {A[kind]}",
            status_code=202,
            response_model=Task,
        )


async def _list_guests(
    control: Cases,
    page: Page = None,
    size: Size = 100,
    kind: Kind | None = None,
    project: Text = None,
    node: Text = None,
    phase: Text = None,
    name: Text = None,
) -> Response:
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
        project: Text = None,
        node: Text = None,
        phase: Text = None,
        name: Text = None,
    ) -> Response:
        return await _listed(control, page, size, kind=kind, project=project, node=node, phase=phase, name=name)

    return list_


IfNoneMatch = Annotated[str | None, Header(description="An ETag: answer 304 if it is still that.")]


async def _get_guest(control: Cases, guest: GuestNumber, if_none_match: IfNoneMatch = None) -> Response:
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


def _create(kind: str) -> Callable[..., Awaitable[Response]]:
    async def create(control: Cases, wish: WishOf, body: Created) -> Response:
        return accepted(await control.create(kind, body, wish))

    create.__annotations__["body"] = flow_of(f"{kind}_create").body
    return create


def _act(kind: str, operation: str) -> Callable[..., Awaitable[Response]]:
    model = _without_guest(flow_of(f"{kind}_{operation}").body)

    async def act(control: Cases, wish: WishOf, guest: GuestNumber) -> Response:
        return accepted(await control.act(kind, operation, guest, {}, wish))

    async def act_with(control: Cases, wish: WishOf, guest: GuestNumber, body: BaseModel) -> Response:
        return accepted(await control.act(kind, operation, guest, body.model_dump(exclude_unset=True), wish))

    if model is None:
        return act
    needed = any(field.is_required() for field in model.model_fields.values())
    act_with.__annotations__["body"] = model if needed else Annotated[model, Body(default_factory=model)]
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
