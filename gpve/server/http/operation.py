"""What all operations share: how a body is read, who asks and on which conditions, pages, numbers of things."""

import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import orjson
from fastapi import Depends, Header, Path, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict

from gpve.server.access import Wish
from gpve.server.control import Control
from gpve.server.http import shapes
from gpve.server.problems import Problem
from gpve.server.wishes import PHASES, STATUSES

DEEPEST = 32
"""Levels of a JSON document."""
BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)
"""Strings and brackets; a string that does not end goes to the end, or hostile bodies take a time that is quadratic."""
GuestNumber = Annotated[int, Path(description="The guest's number.", ge=1, le=1 << 53)]
Page = Annotated[str | None, Query(description="`next` of the page before.", pattern=r"^[0-9]{1,15}$")]
Size = Annotated[int, Query(description="Rows of a page.", ge=1, le=1000)]
ASCII = r"^[ -~]*$"
OnlyProject = Annotated[str | None, Query(description="Only of this project.", max_length=191, pattern=ASCII)]
OnlyNode = Annotated[str | None, Query(description="Only on this node.", max_length=191, pattern=ASCII)]
OnlyName = Annotated[str | None, Query(description="Only of this name.", max_length=191, pattern=ASCII)]
OnlyTarget = Annotated[
    str | None, Query(description="Only about this guest (its number) or node.", max_length=191, pattern=ASCII)
]
OnlyPhase = Annotated[str | None, Query(description="Only in this phase.", json_schema_extra={"enum": [*PHASES]})]
OnlyStatus = Annotated[str | None, Query(description="Only of this status.", json_schema_extra={"enum": [*STATUSES]})]
TaskNumber = Annotated[int, Path(description="The task's number.", ge=1, le=1 << 53)]


class Json(JSONResponse):
    """JSON, made by orjson."""

    def render(self, content: Any) -> bytes:
        """Bytes of it."""
        return orjson.dumps(content)


class Strict(APIRoute):
    """A route whose JSON bodies are read with a bound on their depth, and that knows its query parameters."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI's."""
        handle = super().get_route_handler()
        known = _queries(self.dependant)

        async def handler(request: Request) -> Response:
            for name in request.query_params:
                if name not in known:
                    wanted = ", ".join(sorted(known)) or "none"
                    raise Problem(
                        422, "bad-field", f"query: no parameter {name!r} here; known: {wanted}", [(name, "unknown")]
                    )
            return await handle(_Shallow(request.scope, request.receive))

        return handler


def _queries(dependant: Dependant) -> set[str]:
    """The query parameters of an operation and of what it depends on."""
    ours = {field.alias for field in dependant.query_params}
    return ours.union(*map(_queries, dependant.dependencies))


class _Shallow(Request):
    async def json(self) -> Any:
        """The body; what is no JSON, or too deep, is a `Problem`."""
        body = await self.body()
        if _depth(body) > DEEPEST:
            raise Problem(422, "bad-field", f"body: deeper than {DEEPEST} levels", [("body", "too deep")])
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Problem(400, "bad-request", f"body: no JSON: {error}", [("body", str(error))]) from None


def _depth(body: bytes) -> int:
    """How deep brackets are nested at the most, strings left out; broken documents may count for more."""
    depth = deepest = 0
    for bracket in BRACKETS.findall(body):
        if bracket in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in (b"]", b"}"):
            depth -= 1
    return deepest


class Asked(BaseModel):
    """A request's body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


def accepted(row: dict[str, Any]) -> Response:
    """202: the task has begun, or waits for its turn."""
    return Json(shapes.task(row), 202, place_of(row))


def place_of(row: dict[str, Any]) -> dict[str, str]:
    """The header that says where a task is."""
    return {"Location": f"/api/v1/tasks/{row['id']}"}


bearer = HTTPBearer(auto_error=False, description="A token of the API: `gpve token create NAME`.")


async def authenticated(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> str:
    """Whose token it is; else 401."""
    control: Control = request.app.state.control
    name = None if credentials is None else await control.tokens.caller(credentials.credentials)
    if name is None:
        raise Problem(401, "unauthenticated", "say Authorization: Bearer TOKEN, with a token that is valid")
    request.scope["actor"] = name
    return name


async def control_of(request: Request) -> Control:
    """The use cases behind this application."""
    control: Control = request.app.state.control
    return control


Cases = Annotated[Control, Depends(control_of)]
IdempotencyKey = Annotated[
    str | None, Header(description="The same key is the same task.", min_length=1, max_length=128, pattern=r"^[!-~]+$")
]
IfMatch = Annotated[
    str | None,
    Header(
        description='Only if this is the guest\'s ETag, as `"57"`; `*`: whatever it is.',
        pattern=r'^(\*|(W/)?"[0-9]{1,15}")$',
    ),
]


Project = Annotated[str, Query(description="On whose account.", max_length=191, pattern=ASCII)]


async def wish_of(request: Request, idempotency_key: IdempotencyKey = None, project: Project = "default") -> Wish:
    """On whose behalf a change is made."""
    return Wish(request.scope["actor"], project, idempotency_key)


async def condition_of(request: Request, idempotency_key: IdempotencyKey = None, if_match: IfMatch = None) -> Wish:
    """On whose behalf a guest is changed, and on which condition; its project is the guest's own."""
    revision = None if if_match in (None, "*") else int(if_match.removeprefix("W/").strip('"'))
    return Wish(request.scope["actor"], "default", idempotency_key, revision)


WishOf = Annotated[Wish, Depends(wish_of)]
"""For what is new, or is no guest."""
ConditionOf = Annotated[Wish, Depends(condition_of)]
"""For guests that are there."""
