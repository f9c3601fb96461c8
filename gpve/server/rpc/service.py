"""What every call has: a token, its errors told as problems, a count, a span, a line in the log."""

import contextlib
import inspect
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from gpve.server.access import Wish
from gpve.server.control import Control
from gpve.server.metrics import METRICS
from gpve.server.problems import Problem, problem_of
from gpve.v1 import cluster_pb2
from gpve.v1 import resources_pb2 as pb

LOG = logging.getLogger(__name__)
UNREADABLE = object()
"""In the place of a request that is none."""


class Service:
    """Its methods are (request, wish); `served` makes calls of them."""

    def __init__(self, control: Control) -> None:
        self.control = control


def served(service: Any) -> Any:
    """The service with each method behind a token, its errors told as problems, its calls counted."""
    for name in dir(type(service)):
        if name[0].isupper() and name in vars(type(service)):
            method = getattr(service, name)
            wrap = _streamed if inspect.isasyncgenfunction(method) else _answered
            setattr(service, name, wrap(service.control, f"{type(service).__name__}/{name}", method))
    return service


class Careful:
    """A server whose services hear of requests that cannot be read: gRPC itself would call them a defect of ours."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """What generated code does for servers that cannot do the other."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """As gRPC's."""
        careful = {
            name: handler._replace(request_deserializer=_careful(handler.request_deserializer))
            for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, careful),))
        self._server.add_registered_method_handlers(service, careful)


def _careful(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read_or_not(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return UNREADABLE

    return read_or_not


class _Call:
    """One call: on whose behalf, and what is told of it when it is over."""

    def __init__(self, name: str) -> None:
        self.name, self.request = name, uuid.uuid4().hex
        self.began, self.began_ns = time.perf_counter(), time.time_ns()
        self.wish = Wish("nobody")
        self.task: int | None = None
        self.code = grpc.StatusCode.CANCELLED
        self.failed = False


def _answered(control: Control, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        answer = None
        async with _told(control, name, request, context) as one:
            answer = await method(request, one.wish)
            one.task = _task_of(answer)
        return answer

    return call


def _streamed(control: Control, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        async with _told(control, name, request, context) as one:
            async for message in method(request, one.wish):
                yield message

    return call


@contextlib.asynccontextmanager
async def _told(control: Control, name: str, request: Any, context: Any) -> AsyncIterator[_Call]:
    one = _Call(name)
    try:
        one.wish = await _wish(control, name, context)
        if request is UNREADABLE:
            raise Problem(400, "bad-request", "the request is no message of the kind that is wanted")
        yield one
        one.code = grpc.StatusCode.OK
        METRICS.calls.labels(name, "OK").inc()
    except Exception as error:
        if isinstance(error, grpc.aio.AbortError):
            raise
        await _abort(one, context, error)
    finally:
        _trace(control, one, context)
        took = round(1000 * (time.perf_counter() - one.began), 1)
        extra = {"request": one.request, "actor": one.wish.actor, "task": one.task, "ms": took}
        LOG.info("%s %s", name, one.code.name, extra=extra)


def _task_of(answer: Any) -> int | None:
    """The task that a call made, or asked for."""
    if isinstance(answer, cluster_pb2.DrainReply):
        return answer.task.id or None
    return answer.id if isinstance(answer, pb.Task) else None


def _trace(control: Control, one: _Call, context: Any) -> None:
    if control.tracing is not None:
        said = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        service, _, method = one.name.partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": f"gpve.v1.{service}", "rpc.method": method}
        span = (f"gpve.v1.{one.name}", one.began_ns, time.time_ns(), said, attributes, one.failed, one.task)
        control.tracing.request(*span)


async def _abort(one: _Call, context: Any, error: Exception) -> None:
    problem = problem_of(error)
    one.code, one.failed = problem.code, problem.status >= 500
    if problem.status == 500:
        LOG.error("a defect in %s", one.name, exc_info=error, extra={"request": one.request})
    METRICS.calls.labels(one.name, problem.code.name).inc()
    document = json.dumps(problem.document(one.request)).encode()
    await context.abort(problem.code, str(problem), (("problem-bin", document),))


async def _wish(control: Control, name: str, context: Any) -> Wish:
    said = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    if name == "ClusterService/Join":
        return Wish("nobody")
    token = said.get("authorization", "")
    actor = await control.tokens.caller(token.removeprefix("Bearer ")) if token.startswith("Bearer ") else None
    if actor is None:
        raise Problem(401, "unauthenticated", "say authorization: Bearer TOKEN, with a token that is valid")
    match = said.get("if-match", "*").strip('"')
    if match != "*" and not match.isdigit():
        raise Problem(422, "bad-field", "if-match: a revision is wanted", [("if-match", "a revision is wanted")])
    return Wish(actor, "default", said.get("idempotency-key"), None if match == "*" else int(match))
