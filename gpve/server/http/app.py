"""The application: who may ask, how much one may send, what an error looks like, what is measured."""

import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpve import __version__
from gpve.model.errors import InputError
from gpve.server.control import Control
from gpve.server.http import cluster, guests, pages, streams
from gpve.server.http.operation import Json, authenticated
from gpve.server.metrics import METRICS
from gpve.server.problems import Problem, problem_of
from gpve.server.sentences import sentence
from gpve.tasks.errors import TaskError
from gpve.tasks.retention import Compacted
from gpve.world.store import StoreDown

LOG = logging.getLogger(__name__)
PREFIX = "/api/v1"
LONGEST_BODY = 1 << 20
"""Bytes."""
TASK = re.compile(PREFIX + r"/tasks/([0-9]+)")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def build(control: Control) -> FastAPI:
    """The application of one server."""
    app = FastAPI(
        title="GPVE",
        version=__version__,
        description="Virtual machines, virtual Kubernetes clusters and AI agents under one scheduler.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        default_response_class=Json,
        redirect_slashes=False,
    )
    app.state.control = control
    app.state.methods = []
    known = [Depends(authenticated)]
    for router in (guests.router(), cluster.router(), streams.router()):
        app.include_router(router, prefix=PREFIX, dependencies=known)
        app.state.methods += _methods(PREFIX, router)
    opened, health = cluster.open_router(), cluster.health_router()
    app.include_router(opened, prefix=PREFIX)
    app.include_router(health)
    app.state.methods += [*_methods(PREFIX, opened), *_methods("", health)]
    app.include_router(pages.router(app.title, f"{PREFIX}/openapi.json"), prefix=f"{PREFIX}/docs")
    app.add_exception_handler(RequestValidationError, _unfit)
    app.add_exception_handler(HTTPException, _unknown)
    app.add_exception_handler(Problem, _told)
    for kind in (TaskError, InputError, Compacted, StoreDown, TimeoutError):
        app.add_exception_handler(kind, _told)
    app.add_middleware(Bounds, control=control)
    return app


def _methods(prefix: str, router: APIRouter) -> list[tuple[re.Pattern[str], set[str]]]:
    """What paths look like, and the methods that each route has for them."""
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    return [(compile_path(prefix + route.path)[0], set(route.methods or ())) for route in routes]


def _response(request: Request, problem: Problem) -> Response:
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        orjson.dumps(problem.document(request.scope.get("request_id", ""))),
        problem.status,
        headers,
        "application/problem+json",
    )


async def _told(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    if problem.status == 500:
        LOG.error("a defect", exc_info=error, extra={"request": request.scope.get("request_id")})
    return _response(request, problem)


async def _unfit(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = []
    for one in error.errors()[:16]:
        place = [str(part) for part in one["loc"] if part not in ("body", "query", "path", "header")]
        errors.append((".".join(place) or "body", sentence(one)))
    detail = "; ".join(f"{name}: {problem}" for name, problem in errors)
    if any(one["type"] == "json_invalid" for one in error.errors()):
        return _response(request, Problem(400, "bad-request", detail, errors))
    return _response(request, Problem(422, "bad-field", detail, errors))


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, Problem):
        # Raised while the body was read.
        return _response(request, error.__cause__)
    if error.status_code == 405:
        routes = [methods for path, methods in request.app.state.methods if path.match(request.url.path)]
        allowed = set().union(*routes)
        told = ", ".join(sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))
        response = _response(request, Problem(405, "not-allowed", f"no {request.method} here; there is {told}"))
        response.headers["Allow"] = told
        return response
    if error.status_code == 404:
        return _response(request, Problem(404, "not-found", f"nothing is served at {request.url.path}"))
    return _response(request, Problem(error.status_code, "bad-request", str(error.detail)))


class Enough(OSError):
    """Of a stream whose reader wants its head alone: as if it had hung up."""


class Bounds:
    """Outermost: an id for each request, a bound on its body, a line in the log, a count in the metrics."""

    def __init__(self, app: ASGIApp, control: Control) -> None:
        self._app, self._control = app, control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, headers = scope["method"], dict(scope["headers"])
        if method == "HEAD":
            # As GET, without what it would send.
            scope = {**scope, "method": "GET"}
        asked = headers.get(b"x-request-id", b"").decode("latin-1")
        scope["request_id"] = asked if REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        began, began_ns, status, place = time.perf_counter(), time.time_ns(), 0, ""

        async def answer(message: Message) -> None:
            nonlocal status, place
            if message["type"] == "http.response.start":
                status = message["status"]
                told = MutableHeaders(scope=message)
                told["X-Request-Id"], place = scope["request_id"], told.get("Location", "")
            elif method == "HEAD":
                await send({"type": "http.response.body"})
                if message.get("more_body"):
                    raise Enough
                return
            await send(message)

        try:
            await self._bounded(scope, headers, receive, answer)
        except Exception as error:
            if not status:
                await (await _told(Request(scope), error))(scope, receive, answer)
            elif method != "HEAD":
                raise
        finally:
            took = time.perf_counter() - began
            route = _route(scope)
            METRICS.requests.labels(method, route, str(status)).inc()
            METRICS.request_s.labels(method, route).observe(took)
            made = TASK.fullmatch(place)
            task = None if made is None else int(made[1])
            self._trace(scope, began_ns, route, status, task)
            told = {"request": scope["request_id"], "actor": scope.get("actor"), "task": task}
            LOG.info("%s %s %d", method, scope["path"], status, extra={**told, "ms": round(1000 * took, 1)})

    def _trace(self, scope: Scope, began_ns: int, route: str, status: int, task: int | None) -> None:
        if self._control.tracing is None or not scope["path"].startswith(PREFIX):
            return
        attributes: dict[str, str | int] = {
            "http.request.method": scope["method"],
            "http.route": route,
            "http.response.status_code": status,
            "gpve.request": scope["request_id"],
        }
        self._control.tracing.request(
            f"{scope['method']} {route}",
            began_ns,
            time.time_ns(),
            {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]},
            attributes,
            status >= 500,
            task,
        )

    async def _bounded(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, answer: Callable[[Message], Awaitable[None]]
    ) -> None:
        told = headers.get(b"content-length", b"0")
        if not told.isdigit() or int(told) > LONGEST_BODY:
            await self._refuse(scope, receive, answer, _too_large())
            return
        if int(told) or b"transfer-encoding" in headers:
            kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if kind != b"application/json":
                wrong = Problem(415, "wrong-type", "Content-Type: application/json is wanted")
                await self._refuse(scope, receive, answer, wrong)
                return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > LONGEST_BODY:
                raise _too_large()
            return message

        await self._app(scope, counted, answer)

    async def _refuse(self, scope: Scope, receive: Receive, answer: Any, problem: Problem) -> None:
        response = _response(Request(scope), problem)
        response.headers["Connection"] = "close"
        await response(scope, receive, answer)


def _route(scope: Scope) -> str:
    """The operation's path as it is described; ``other``: there is none."""
    path = getattr(scope.get("route"), "path", "other")
    inside = scope["path"].startswith(PREFIX) and path != "other" and not path.startswith(PREFIX)
    return f"{PREFIX}{path}" if inside else path


def _too_large() -> Problem:
    return Problem(413, "too-large", f"a body has at most {LONGEST_BODY} bytes", [("body", "too large")])
