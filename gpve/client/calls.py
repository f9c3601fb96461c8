"""Calls of the API as data, and what is read from their answers: what both clients share."""

import base64
import json
import random
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from gpve.client.values import ApiError, Guest, Output

NOT_FOUND = "urn:gpve:problem:not-found"
AGAIN = (429, 502, 503, 504)
"""Answers after which the same is asked again, of another server if there is one."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 3.0
PATIENCE_S = 30.0
"""How long a call is tried, if its client was told nothing else: a server that is started anew is there by then."""
SHORTEST_TRY_S = 1.0
AUDIT_S = 900.0
"""How long the audit of a large cluster may take."""
STREAM_TIMEOUT = httpx.Timeout(30.0, read=60.0)
"""A server that streams says something every ten seconds."""
MOST_STDIN = 262_144
"""Bytes that a program inside an agent can be given."""


class Patience:
    """What is left of the time in which something is tried, again and again."""

    def __init__(self, seconds: float) -> None:
        self._until, self._failed = time.monotonic() + seconds, 0

    def try_s(self, servers: int) -> float:
        """How long one more try may take: of so many servers each is asked, also if the first ones say nothing."""
        rest = self._until - time.monotonic()
        return max(SHORTEST_TRY_S, rest / max(1, servers - self._failed))

    def pause_s(self) -> float | None:
        """How long to wait before the next try; None: the time is over."""
        pause = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**self._failed) * random.uniform(0.5, 1.0)
        self._failed += 1
        return pause if time.monotonic() + pause < self._until else None


@dataclass(frozen=True)
class Call:
    """One call. One that changes something has a key of its own, so that asking again is not asking twice."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    key: str | None = None
    revision: int | None = None
    patience_s: float | None = None
    """How long it is tried; None: as long as the client's other calls."""

    def headers(self) -> dict[str, str]:
        """Of the request, besides the token."""
        told = {}
        if self.key is not None:
            told["Idempotency-Key"] = self.key
        if self.revision is not None:
            told["If-Match"] = f'"{self.revision}"'
        return told

    def arguments(self, timeout: httpx.Timeout) -> dict[str, Any]:
        """For httpx."""
        query = {name: value for name, value in self.query.items() if value is not None}
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


def timeout(seconds: float) -> httpx.Timeout:
    """Of one try."""
    return httpx.Timeout(seconds, connect=min(seconds, 5.0))


def part(name: str) -> str:
    """A name as a part of a path."""
    return quote(name, safe="")


def problem_of(response: httpx.Response) -> ApiError:
    """What an answer says that is none."""
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    return ApiError(response.status_code, problem if isinstance(problem, dict) else {})


def unreachable(servers: Iterable[str], error: Exception) -> ApiError:
    """No server was reached."""
    told = f"no server answers at {', '.join(servers)} ({': '.join(filter(None, (type(error).__name__, str(error))))})"
    return ApiError(0, {"type": "urn:gpve:problem:unreachable", "detail": told})


def only(kind: str, name: str, project: str | None, found: Sequence[Guest]) -> Guest:
    """The one guest that has a name. Raises `ApiError` if there is none, or one in each of several projects."""
    if not found:
        where = "" if project is None else f" in project {project!r}"
        raise ApiError(404, {"type": NOT_FOUND, "detail": f"no {kind} has the name {name!r}{where}"})
    if len(found) > 1:
        which = ", ".join(f"{guest.id} (project {guest.project})" for guest in found)
        told = f"{kind}s {which} have the name {name!r}: say the project, or the number"
        raise ApiError(422, {"type": "urn:gpve:problem:bad-field", "detail": told})
    return found[0]


def within(project: str | None, guest: Guest) -> Guest:
    """A guest that was found by its number. Raises `ApiError` if it is of another project."""
    if project not in (None, guest.project):
        told = f"{guest.kind} {guest.id} is of project {guest.project!r}, not of {project!r}"
        raise ApiError(404, {"type": NOT_FOUND, "detail": told})
    return guest


def named_so(number: str, found: Sequence[Guest]) -> ApiError:
    """There is no guest of this number, and some have it for their name."""
    told = ", ".join(f"{guest.kind} {guest.id} (project {guest.project})" for guest in found)
    detail = f"nothing here has the number {number}; it is the name of {told}: say that number"
    return ApiError(404, {"type": NOT_FOUND, "detail": detail})


def stdin(given: bytes | str) -> dict[str, str]:
    """What a program inside an agent is given to read, as a part of a body. Raises `ApiError` if it is too much."""
    plain = given.encode() if isinstance(given, str) else given
    if len(plain) > MOST_STDIN:
        told = f"stdin: {len(plain):,} bytes are too many, {MOST_STDIN:,} are the most that one exec takes"
        raise ApiError(413, {"type": "urn:gpve:problem:too-large", "detail": told})
    return {"stdin_base64": base64.b64encode(plain).decode()} if plain else {}


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
