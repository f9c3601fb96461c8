"""What a caller is told when something does not go: RFC 9457 problem details, the same over HTTP and gRPC."""

from dataclasses import dataclass, field
from typing import Any

import grpc

from gpve.model.errors import InputError
from gpve.model.phases import INTERNAL, MOVES
from gpve.tasks.errors import BadBody, Forbidden, KeyReused, NotFound, OverQuota, UnknownFlow
from gpve.tasks.retention import Compacted
from gpve.world.store import StoreDown, StoreFull

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.RESOURCE_EXHAUSTED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    410: grpc.StatusCode.OUT_OF_RANGE,
    412: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
TITLES = {
    "bad-request": "The request cannot be read",
    "unauthenticated": "No valid token",
    "over-quota": "The project would have more than it may",
    "not-found": "There is no such thing",
    "not-now": "Its state does not allow it",
    "key-reused": "The idempotency key belongs to another request",
    "compacted": "The revision is not kept any more",
    "changed": "It has changed since",
    "too-large": "The request is too large",
    "bad-field": "A field is wrong",
    "too-many": "Too many requests at once",
    "store-away": "The database does not answer",
    "node-away": "The node is not connected",
    "defect": "A defect of GPVE",
    "not-allowed": "The method is not allowed here",
    "wrong-type": "The media type is not application/json",
}
OPERATIONS = frozenset().union(*MOVES.values()) - INTERNAL
"""On guests, of any kind."""


@dataclass
class Problem(Exception):
    """``kind``: one of `TITLES`. ``errors``: (field, what is wrong with it), where fields are concerned."""

    status: int
    kind: str
    detail: str
    errors: list[tuple[str, str]] = field(default_factory=list)
    allowed: tuple[str, ...] = ()
    """Operations on the same guest that would be possible now, by the names that they have in the API."""
    retry_after_s: int | None = None

    def __str__(self) -> str:
        return self.detail

    @property
    def code(self) -> grpc.StatusCode:
        """For gRPC."""
        return grpc.StatusCode.ALREADY_EXISTS if self.kind == "key-reused" else CODES[self.status]

    def document(self, instance: str) -> dict[str, Any]:
        """The problem details; ``instance``: the id of the request."""
        told: dict[str, Any] = {
            "type": f"urn:gpve:problem:{self.kind}",
            "title": TITLES[self.kind],
            "status": self.status,
            "detail": self.detail,
            "instance": f"urn:gpve:request:{instance}",
        }
        if self.errors:
            told["errors"] = [{"field": name, "problem": problem} for name, problem in self.errors]
        if self.allowed:
            told["allowed"] = list(self.allowed)
        return told


def problem_of(error: BaseException) -> Problem:
    """What to tell of an error; one that nobody thought of is a defect."""
    told = str(error)
    match error:
        case Problem():
            return error
        case UnknownFlow() | NotFound():
            return Problem(404, "not-found", told)
        case BadBody(_, name, problem):
            return Problem(422, "bad-field", f"{name}: {problem}", [(name, problem)])
        case InputError(problem, _, _, column):
            return Problem(422, "bad-field", told, [(column, problem)] if column else [])
        case KeyReused():
            return Problem(409, "key-reused", told)
        case Forbidden():
            # What else would do ("another name") stands in the sentence.
            return Problem(409, "not-now", told, allowed=tuple(name for name in error.allowed if name in OPERATIONS))
        case OverQuota():
            return Problem(403, "over-quota", told, [(error.resource, told)])
        case Compacted():
            return Problem(410, "compacted", told)
        case StoreFull():
            full = "the disk of the database is full; try again when there is room"
            return Problem(503, "store-away", full, retry_after_s=30)
        case StoreDown() | TimeoutError():
            return Problem(503, "store-away", "the database does not answer; try again", retry_after_s=2)
    return Problem(500, "defect", "a defect of GPVE; the server's log has more under the id of this request")
