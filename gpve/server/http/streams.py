"""What goes on for a while: watching, following a task, an agent's output, a program inside an agent."""

import asyncio
import base64
import binascii
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Self

import orjson
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field, field_validator, model_validator

from gpve.server import watch
from gpve.server.control import Control, whole
from gpve.server.dump import dump
from gpve.server.http import shapes
from gpve.server.http.answers import WITH_BODY, answers, told
from gpve.server.http.operation import Asked, Cases, GuestNumber, Json, Strict, TaskNumber
from gpve.server.problems import problem_of
from gpve.tasks.flows.agent_program import Folder, Variable, Word, Words

LOG = logging.getLogger(__name__)

EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `id` is a revision to resume behind, `data` is JSON.",
        "content": {"text/event-stream": {}},
    }
}
OUTPUT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Lines of JSON: `stream` (stdout, stderr, note) with `data` (text) or `base64`, or `exit`.",
        "content": {"application/x-ndjson": {}},
    }
}
LINES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Lines of JSON.", "content": {"application/x-ndjson": {}}},
}
NOTHING_YET = b'{"stream":"note","data":""}\n'
NAMES = {1: "stdout", 2: "stderr", 3: "note"}


class Exec(Asked):
    """One more program inside an agent, under the same policy."""

    argv: Words = Field(description="The program, found inside the sandbox, and its arguments.")
    env: Annotated[
        dict[Variable, Word],
        Field(default_factory=dict, max_length=1024, description="All of it: nothing is inherited."),
    ]
    cwd: Folder = Field(default="", description="Inside; empty: the workspace.")
    stdin: Annotated[str, Field(max_length=262_144)] = Field(default="", description="What it reads: text.")
    stdin_base64: Annotated[str, Field(max_length=349_528, pattern=r"^[A-Za-z0-9+/]*={0,2}$")] = Field(
        default="", description="What it reads, if that is no text: base64, instead of `stdin`."
    )
    timeout_ms: Annotated[int, Field(ge=0, le=86_400_000)] = Field(
        default=60_000, description="After so long it is killed; 0: never."
    )

    @field_validator("stdin_base64")
    @classmethod
    def _decodes(cls, text: str) -> str:
        try:
            base64.b64decode(text, validate=True)
        except binascii.Error:
            raise ValueError("base64 is wanted, with its padding") from None
        return text

    @model_validator(mode="after")
    def _one_stdin(self) -> Self:
        if self.stdin and self.stdin_base64:
            raise ValueError("stdin or stdin_base64, not both")
        return self

    def asked(self) -> dict[str, Any]:
        """What the node is asked: bytes that are no UTF-8 stand in ``stdin`` as surrogates."""
        told = self.model_dump(exclude={"stdin_base64"})
        if self.stdin_base64:
            told["stdin"] = base64.b64decode(self.stdin_base64).decode(errors="surrogateescape")
        return told


def router() -> APIRouter:
    """All of it."""
    made = APIRouter(route_class=Strict)
    for path, endpoint, tag, body, problems in (
        ("/watch", _watch, "cluster", EVENTS, (410,)),
        ("/tasks/{task}/follow", _follow, "tasks", EVENTS, (404,)),
        ("/agents/{guest}/logs", _logs, "agents", OUTPUT, (404, 409)),
        ("/agents/{guest}/exec", _exec, "agents", OUTPUT, (*WITH_BODY, 404, 409)),
        ("/dump", _dump, "cluster", LINES, ()),
    ):
        described: dict[str, Any] = {"responses": answers(*problems) | body, "tags": [tag], **told(endpoint)}
        methods = ["POST" if endpoint is _exec else "GET"]
        made.add_api_route(path, endpoint, methods=methods, response_class=StreamingResponse, **described)
    described = {"responses": answers(404, 409), "tags": ["agents"], **told(_status)}
    made.add_api_route("/agents/{guest}/status", _status, response_model=dict[str, Any], **described)
    return made


def _event(kind: str, data: Mapping[str, Any], revision: int | None = None) -> bytes:
    head = f"id: {revision}\n" if revision is not None else ""
    return f"{head}event: {kind}\ndata: ".encode() + orjson.dumps(data) + b"\n\n"


async def _stream(request: Request, events: AsyncIterator[bytes]) -> Response:
    """Begin to send; what goes wrong before the first event is an answer of its own, later it is the last event."""
    first = await anext(events)

    async def all_of_them() -> AsyncIterator[bytes]:
        yield first
        try:
            async for event in events:
                yield event
        except Exception as error:
            yield _event("problem", _problem(request, error))

    headers = {"Cache-Control": "no-store"}
    return StreamingResponse(all_of_them(), headers=headers, media_type="text/event-stream")


def _problem(request: Request, error: Exception) -> dict[str, Any]:
    """What broke a stream, with the id of the request that it answers."""
    problem = problem_of(error)
    if problem.status == 500:
        LOG.error("a defect", exc_info=error, extra={"request": request.scope["request_id"]})
    return problem.document(request.scope["request_id"])


async def _watch(
    request: Request,
    control: Cases,
    revision: Annotated[int | None, Query(description="Only what comes behind it; absent: from now on.", ge=0)] = None,
    table: Annotated[list[watch.Table], Query(description="Only these; none: all.", max_length=8)] = [],  # noqa: B006
    last_event_id: Annotated[
        str | None, Header(description="As `revision`, and before it.", pattern=r"^[0-9]{1,15}$")
    ] = None,
) -> Response:
    """Changes of guests, nodes, volumes, networks, alarms and tasks, in the order of their commits."""
    after = int(last_event_id) if last_event_id is not None else revision

    async def events() -> AsyncIterator[bytes]:
        async for change, complete in watch.changes(control.pulse, after, table or list(watch.TABLES)):
            if change is None:
                yield b": nothing yet\n\n"
            else:
                # Only the last change of a revision has an id: who resumes behind it has seen all of it.
                yield _event("change", change, change["revision"] if complete else None)

    return await _stream(request, events())


async def _follow(request: Request, control: Cases, task: TaskNumber) -> Response:
    """A task with each of its changes, until it is over or stuck."""

    async def events() -> AsyncIterator[bytes]:
        async for row in watch.task(control.pulse, task):
            yield b": nothing yet\n\n" if row is None else _event("task", shapes.task(row), row["revision"])

    return await _stream(request, events())


def _line(frame: Any) -> bytes:
    if frame.HasField("exit_code"):
        return orjson.dumps({"exit": frame.exit_code}) + b"\n"
    told: dict[str, str] = {"stream": NAMES.get(frame.stream, "stdout")}
    try:
        told["data"] = frame.data.decode()
    except UnicodeDecodeError:
        told["base64"] = base64.b64encode(frame.data).decode()
    return orjson.dumps(told) + b"\n"


async def _output(request: Request, control: Control, guest: int, open_: dict[str, Any]) -> Response:
    frames = await control.call(guest, open_)

    async def lines() -> AsyncIterator[bytes]:
        try:
            async for frame in _never_quiet(frames):
                if frame is None:
                    yield NOTHING_YET
                elif frame.data or frame.HasField("exit_code"):
                    yield _line(frame)
        except Exception as error:
            yield orjson.dumps({"problem": _problem(request, error)}) + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


async def _never_quiet(frames: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The frames, and None whenever none has come for so long that a reader might take the stream for broken."""
    following = asyncio.ensure_future(anext(frames, None))
    try:
        while True:
            done, _ = await asyncio.wait([following], timeout=watch.QUIET_S)
            if not done:
                yield None
                continue
            frame = following.result()
            if frame is None:
                return
            yield frame
            following = asyncio.ensure_future(anext(frames, None))
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await following
        await frames.aclose()  # type: ignore[attr-defined]


async def _logs(
    request: Request,
    control: Cases,
    guest: GuestNumber,
    follow: Annotated[bool, Query(description="Stay, and send what comes.")] = False,
    tail_bytes: Annotated[int, Query(description="Only so much of what is kept; 0: all.", ge=0, le=1 << 30)] = 0,
) -> Response:
    """An agent's output: what is kept, and with `follow` what comes."""
    return await _output(request, control, guest, {"verb": "logs", "follow": follow, "tail_bytes": tail_bytes})


async def _exec(request: Request, control: Cases, guest: GuestNumber, body: Exec) -> Response:
    """Run one more program inside an agent; its output, and last its exit code (minus the signal that ended it)."""
    return await _output(request, control, guest, {"verb": "exec", **body.asked()})


async def _dump(control: Cases) -> Response:
    """What the simulator needs to decide again what this cluster decided. Tokens and keys are not in it."""
    return StreamingResponse(dump(control), media_type="application/x-ndjson")


async def _status(control: Cases, guest: GuestNumber) -> Response:
    """What an agent's node says of it now: its state, how often it was restarted, how it ended last, what it uses."""
    return Json(json.loads(await whole(await control.call(guest, {"verb": "status"}))))
