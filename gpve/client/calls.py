"""Calls of the API as data, and what is read from their answers: what both clients share."""

import base64
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from gpve.client.values import ApiError, Guest, Output

AGAIN = (429, 502, 503, 504)
"""Answers after which the same is asked again, of another server if there is one."""
TRIES = 6
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 3.0
PATIENCE_S = 30.0
AUDIT_S = 900.0
"""How long the audit of a large cluster may take."""
STREAM_TIMEOUT = httpx.Timeout(30.0, read=60.0)
"""A server that streams says something every ten seconds."""


def wait_s(failed: int) -> float:
    """How long to wait before the same is asked again that has failed so often already, after the first time (0)."""
    return float(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**failed))


@dataclass(frozen=True)
class Call:
    """One call. One that changes something has a key of its own, so that asking again is not asking twice."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    key: str | None = None
    revision: int | None = None
    patience_s: float = PATIENCE_S

    def headers(self) -> dict[str, str]:
        """Of the request, besides the token."""
        told = {}
        if self.key is not None:
            told["Idempotency-Key"] = self.key
        if self.revision is not None:
            told["If-Match"] = f'"{self.revision}"'
        return told

    def arguments(self) -> dict[str, Any]:
        """For httpx."""
        query = {name: value for name, value in self.query.items() if value is not None}
        timeout = httpx.Timeout(self.patience_s, connect=5.0)
        told: dict[str, Any] = {"params": query, "headers": self.headers(), "timeout": timeout}
        if self.body is not None:
            told["json"] = self.body
        return told


def submit(
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str | None,
    project: str | None = None,
    revision: int | None = None,
) -> Call:
    """A call that submits a task."""
    return Call(method, path, {"project": project}, body, key or uuid.uuid4().hex, revision)


def fail(response: httpx.Response) -> None:
    """Raise `ApiError` for an answer that is none."""
    if response.status_code < 400:
        return
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    raise ApiError(response.status_code, problem if isinstance(problem, dict) else {})


def unreachable(servers: Iterable[str], error: Exception) -> ApiError:
    """No server was reached."""
    told = f"no server answers at {', '.join(servers)} ({type(error).__name__}: {error})"
    return ApiError(0, {"type": "urn:gpve:problem:unreachable", "detail": told})


def only(kind: str, name: str, found: Sequence[Guest]) -> Guest:
    """The one guest that has a name. Raises `ApiError` if there is none, or one in each of several projects."""
    if not found:
        raise ApiError(404, {"type": "urn:gpve:problem:not-found", "detail": f"no {kind} has the name {name!r}"})
    if len(found) > 1:
        numbers = ", ".join(str(guest.id) for guest in found)
        told = f"{kind}s {numbers} have the name {name!r}: say which number"
        raise ApiError(422, {"type": "urn:gpve:problem:bad-field", "detail": told})
    return found[0]


class Events:
    """Server-sent events, line by line."""

    def __init__(self) -> None:
        self._kind, self._data = "", ""
        self.id: int | None = None
        """Of the last event that had one: where to resume."""

    def line(self, line: str) -> tuple[str, Any] | None:
        """The event that this line ends: its kind and its data. Raises `ApiError` if it says why the stream broke."""
        if line.startswith("id: "):
            self.id = int(line.removeprefix("id: "))
        elif line.startswith("event: "):
            self._kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            self._data += line.removeprefix("data: ")
        elif not line and self._data:
            kind, data = self._kind, json.loads(self._data)
            self._kind, self._data = "", ""
            if kind == "problem":
                raise ApiError(data.get("status", 500), data)
            return kind, data
        return None


def output(line: str) -> Output:
    """A line of an agent's output. Raises `ApiError` if it says why the stream broke."""
    told = json.loads(line)
    if "problem" in told:
        raise ApiError(told["problem"].get("status", 500), told["problem"])
    if "exit" in told:
        return Output("exit", exit=told["exit"])
    data = base64.b64decode(told["base64"]) if "base64" in told else told["data"].encode()
    return Output(told["stream"], data)
