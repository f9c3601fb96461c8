"""What every call has: a token, its errors told as problems, a count, a span."""

import inspect
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from gpve.server.access import Wish
from gpve.server.control import Control
from gpve.server.metrics import METRICS
from gpve.server.problems import Problem, problem_of
from gpve.v1 import resources_pb2 as pb

LOG = logging.getLogger(__name__)


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


def _answered(control: Control, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        began, answer, failed = time.time_ns(), None, False
        try:
            wish = await _wish(control, name, context)
            answer = await method(request, wish)
            METRICS.calls.labels(name, "OK").inc()
            return answer
        except Exception as error:
            problem = problem_of(error)
            failed = problem.status >= 500
            await _abort(name, context, error, problem)
        finally:
            _trace(control, name, context, began, answer.id if isinstance(answer, pb.Task) else None, failed)

    return call


def _streamed(control: Control, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        began, failed = time.time_ns(), False
        try:
            wish = await _wish(control, name, context)
            async for message in method(request, wish):
                yield message
            METRICS.calls.labels(name, "OK").inc()
        except Exception as error:
            problem = problem_of(error)
            failed = problem.status >= 500
            await _abort(name, context, error, problem)
        finally:
            _trace(control, name, context, began, None, failed)

    return call


def _trace(control: Control, name: str, context: Any, began_ns: int, task: int | None, failed: bool) -> None:
    if control.tracing is not None:
        said = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        service, _, method = name.partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": f"gpve.v1.{service}", "rpc.method": method}
        control.tracing.request(f"gpve.v1.{name}", began_ns, time.time_ns(), said, attributes, failed, task)


async def _abort(name: str, context: Any, error: Exception, problem: Problem) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    request = uuid.uuid4().hex
    if problem.status == 500:
        LOG.error("a defect in %s", name, exc_info=error, extra={"request": request})
    METRICS.calls.labels(name, problem.code.name).inc()
    document = json.dumps(problem.document(request)).encode()
    await context.abort(problem.code, str(problem), (("problem-bin", document),))


async def _wish(control: Control, name: str, context: Any) -> Wish:
    said = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
    if name == "ClusterService/Join":
        return Wish("nobody")
    token = said.get("authorization", "")
    actor = await control.tokens.caller(token.removeprefix("Bearer ")) if token.startswith("Bearer ") else None
    if actor is None:
        raise Problem(401, "unauthenticated", "say authorization: Bearer TOKEN, with a token that is valid")
    match = said.get("if-match")
    if match is not None and not match.strip('"').isdigit():
        raise Problem(422, "bad-field", "if-match: a revision is wanted", [("if-match", "a revision is wanted")])
    return Wish(actor, "default", said.get("idempotency-key"), None if match is None else int(match.strip('"')))
