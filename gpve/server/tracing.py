"""Traces for OpenTelemetry, if an endpoint is set: a span for each request, and a trace for each task that is over.

A task outlives requests, servers and engines, so nothing is carried along with it: its spans are made from its log when
it is closed, whoever closes it. Its trace has a number that follows from the cluster and the task, so the request that
asked for it can point to it. What a task is made of (specifications, results) is not told: only names, times, reasons.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpve import __version__
from gpve.server.access import Access
from gpve.tasks.events import Event, Kind, from_rows
from gpve.tasks.ledger import Row

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

LOG = logging.getLogger(__name__)
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
MOST_WAITING = 10_000
"""Tasks whose spans are yet to be made; those beyond are not traced."""
AT_ONCE = 50
BEGINS = (Kind.STARTED, Kind.WAITING, Kind.UNDOING)
UNDOES = (Kind.UNDONE, Kind.UNDO_AGAIN)
ENDS = (Kind.DONE, Kind.REFUSED, Kind.UNKNOWN, *UNDOES)
NS = 1_000_000_000


class Tracing:
    """The traces of one server. ``cluster``: what tells clusters apart."""

    def __init__(self, provider: "TracerProvider", processor: "SpanProcessor", access: Access, cluster: str) -> None:
        self._provider, self._processor, self._access, self._cluster = provider, processor, access, cluster
        self._tracer = provider.get_tracer("gpve", __version__)
        self._waiting: asyncio.Queue[int] = asyncio.Queue(MOST_WAITING)
        self._left_out = 0

    def request(
        self,
        name: str,
        began_ns: int,
        ended_ns: int,
        headers: Mapping[str, str],
        attributes: Mapping[str, str | int],
        failed: bool,
        task: int | None,
    ) -> None:
        """A request was answered. Times are nanoseconds since 1970; ``headers`` may say whose request it is part of."""
        from opentelemetry.trace import Link, SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(headers)
        links = [] if task is None else [Link(_context(self._cluster, task, ""))]
        told = {**attributes} if task is None else {**attributes, "gpve.task": task}
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, told, links, began_ns)
        if failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_ns)

    def closed(self, tasks: Sequence[int]) -> None:
        """These tasks came to an end here."""
        for task in tasks:
            try:
                self._waiting.put_nowait(task)
            except asyncio.QueueFull:
                self._left_out += 1

    async def run(self) -> None:
        """Make the spans of tasks that are over; for ever."""
        while True:
            tasks = [await self._waiting.get()]
            while len(tasks) < AT_ONCE and not self._waiting.empty():
                tasks.append(self._waiting.get_nowait())
            if self._left_out:
                LOG.warning("%d tasks are not traced: too many ended at once", self._left_out)
                self._left_out = 0
            try:
                await self._access.read(self._export, tasks)
            except Exception:
                LOG.exception("tasks %s are not traced", tasks)

    def _export(self, tasks: Sequence[int]) -> None:
        for number in tasks:
            rows = self._access.store.rows("task", id=number)
            if rows:
                self._task(rows[0], from_rows(number, self._access.store.rows("event", task=number)))

    def _task(self, row: Row, log: Sequence[Event]) -> None:
        root = _context(self._cluster, row["id"], "")
        attributes = {
            "gpve.task": row["id"],
            "gpve.flow": row["flow"],
            "gpve.project": row["project"],
            "gpve.status": row["status"],
        }
        if row["target"] is not None:
            attributes["gpve.target"] = row["target"]
        ended = log[-1].at if row["closed_at"] is None else row["closed_at"]
        undone = row["status"] != "done"
        self._span(row["flow"], root, None, row["submitted_at"], ended, attributes, row["reason"] if undone else None)
        begun: dict[str, Event] = {}
        for at, event in enumerate(log):
            if event.kind in BEGINS:
                begun.setdefault(event.step, event)
            elif event.kind in ENDS:
                # What the store itself does has no beginning in the log: it follows what came before.
                began = begun.pop(event.step, log[at - 1])
                way = "undo" if event.kind in UNDOES else "do"
                name = event.step if way == "do" else f"undo {event.step}"
                context = _context(self._cluster, row["id"], str(at))
                told = {"gpve.step": event.step, "gpve.direction": way, "gpve.outcome": event.kind.value}
                wrong = None if event.kind in (Kind.DONE, Kind.UNDONE) else str(event.data.get("reason", ""))
                self._span(name, context, root, began.at, event.at, told, wrong)

    def _span(
        self,
        name: str,
        context: Any,
        parent: Any,
        began: float,
        ended: float,
        attributes: Mapping[str, str | int],
        wrong: str | None,
    ) -> None:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanKind, Status, StatusCode

        status = Status() if wrong is None else Status(StatusCode.ERROR, wrong)
        span = ReadableSpan(
            name,
            context,
            parent,
            self._provider.resource,
            attributes,
            kind=SpanKind.INTERNAL,
            status=status,
            start_time=int(began * NS),
            end_time=int(ended * NS),
            instrumentation_scope=InstrumentationScope("gpve", __version__),
        )
        self._processor.on_end(span)

    def end(self) -> None:
        """Send what is left; waits at most some seconds."""
        self._provider.shutdown()


def _context(cluster: str, task: int, span: str) -> Any:
    """The number of a task's trace, and of one of its spans ("": the first one)."""
    from opentelemetry.trace import SpanContext, TraceFlags

    trace_id = hashlib.sha256(f"{cluster}/{task}".encode()).digest()[:16]
    span_id = hashlib.sha256(f"{cluster}/{task}/{span}".encode()).digest()[16:24]
    sampled = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int.from_bytes(trace_id), int.from_bytes(span_id), False, sampled)


def begin(server: str, access: Access, cluster: str) -> Tracing | None:
    """Traces, if the environment says where to send them (the OTLP variables of OpenTelemetry); else None."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    told = {"service.version": __version__, "service.instance.id": server}
    if "OTEL_SERVICE_NAME" not in os.environ:
        told["service.name"] = "gpve-server"
    provider = TracerProvider(resource=Resource.create(told), shutdown_on_exit=False)
    processor = BatchSpanProcessor(OTLPSpanExporter())
    provider.add_span_processor(processor)
    return Tracing(provider, processor, access, cluster)
