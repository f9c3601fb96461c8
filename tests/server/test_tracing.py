"""Traces and metrics of a live server, as a collector sees them."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gpve.v1 import cluster_pb2, cluster_pb2_grpc
from tests.server.cluster import Cluster, done, refused, until

VM = {"cpu_milli": 100, "memory_mib": 64}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """What was exported by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.raw = b""
        told = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                told.raw += body
                for resource in request.resource_spans:
                    names = {one.key: one.value.string_value for one in resource.resource.attributes}
                    assert names["service.name"] == "gpve-server"
                    for scope in resource.scope_spans:
                        told.spans += scope.spans
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def named(self, name: str) -> list[Span]:
        return [span for span in list(self.spans) if span.name == name]

    def end(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    made = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    yield made
    made.end()


def _told(span: Span) -> dict[str, str | int]:
    return {
        one.key: one.value.int_value if one.value.WhichOneof("value") == "int_value" else one.value.string_value
        for one in span.attributes
    }


def test_a_request_and_its_task_are_traced(cluster: Cluster, collector: Collector) -> None:
    """The request is part of its caller's trace and points to its task's, whose steps are spans, failed ones too."""
    cluster.server("s")
    cluster.node("a", ("--cpu", "8000", "--memory", "8192"))
    client, token = cluster.client(), cluster.token()
    headers = {"Authorization": f"Bearer {token}", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    url = f"{cluster.servers['s'].url}/api/v1"
    secret = {"argv": ["/bin/true"], "env": {"KEY": "hunter2"}}
    answer = httpx.post(f"{url}/agents", json={**VM, "name": "a", "program": secret}, headers=headers, verify=False)
    assert answer.status_code == 202, answer.text
    number = answer.json()["id"]
    client.wait(client.task(number))
    (task,) = until(lambda: collector.named("agent_create"), 20.0)
    (request,) = until(lambda: collector.named("POST /api/v1/agents"), 20.0)
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert [(link.trace_id, link.span_id) for link in request.links] == [(task.trace_id, task.span_id)]
    assert _told(request)["gpve.task"] == number
    assert _told(request)["gpve.request"] == answer.headers["x-request-id"]
    assert {key: _told(task)[key] for key in ("gpve.flow", "gpve.status", "gpve.project")} == {
        "gpve.flow": "agent_create",
        "gpve.status": "done",
        "gpve.project": "default",
    }
    steps = until(lambda: [span for span in list(collector.spans) if span.parent_span_id == task.span_id], 10.0)
    assert {span.name for span in steps} >= {"place", "workspace", "sandbox", "start"}
    for span in steps:
        assert span.trace_id == task.trace_id
        assert task.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= task.end_time_unix_nano
    # What is undone says why; the request that asked for it was right.
    done(client, client.create("vm", {**VM, "name": "v"}))
    large = client.create("vm", {**VM, "cpu_milli": 8000, "name": "large"})
    until(lambda: client.task(large.id).status == "waiting", 20.0)
    client.cancel(large.id, "no room")
    failed = client.wait(large)
    (undone,) = until(lambda: [s for s in collector.named("vm_create") if _told(s)["gpve.task"] == large.id], 20.0)
    assert _told(undone)["gpve.status"] == failed.status == "undone"
    assert (undone.status.code, undone.status.message) == (Status.STATUS_CODE_ERROR, failed.reason)
    with refused(404, "not-found"):
        client.get("vm", 10_000)
    until(
        lambda: [s for s in collector.named("GET /api/v1/vms/{guest}") if _told(s)["http.response.status_code"] == 404]
    )
    assert all(
        span.status.code != Status.STATUS_CODE_ERROR
        for span in list(collector.spans)
        if span.kind == Span.SPAN_KIND_SERVER
    )
    ca = (cluster.servers["s"].directory / "ca.pem").read_bytes()
    address = f"127.0.0.1:{cluster.servers['s'].ports[1]}"
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca)) as channel:
        stub = cluster_pb2_grpc.ClusterServiceStub(channel)
        stub.Status(cluster_pb2.StatusRequest(), metadata=[("authorization", f"Bearer {token}")], timeout=10)
    until(lambda: collector.named("gpve.v1.ClusterService/Status"), 20.0)
    assert cluster.servers["s"].stop() == 0
    assert b"hunter2" not in collector.raw
    assert token.encode() not in collector.raw


def test_a_server_whose_collector_is_away_serves(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    cluster.server("s")
    cluster.node("a", ("--cpu", "8000", "--memory", "8192"))
    client = cluster.client()
    done(client, client.create("vm", {**VM, "name": "v"}))
    assert cluster.servers["s"].stop() == 0


def test_metrics_count_tasks_and_decisions(cluster: Cluster) -> None:
    cluster.server("s")
    cluster.node("a", ("--cpu", "500", "--memory", "8192"))
    client = cluster.client()
    done(client, client.create("vm", {**VM, "name": "v"}))
    waiting = client.create("vm", {**VM, "cpu_milli": 500, "name": "w"})
    until(lambda: client.task(waiting.id).status == "waiting", 20.0)

    def says() -> dict[str, float]:
        lines = client._http.get(f"{cluster.servers['s'].url}/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    told = until(lambda: (found := says()).get("gpve_tasks_in_hand") == 1 and found, 20.0)
    assert told['gpve_tasks_total{status="done"}'] == 1
    assert told['gpve_placements_total{outcome="placed",policy="best-fit"}'] == 1
    assert told['gpve_placements_total{outcome="nowhere",policy="best-fit"}'] >= 1
    assert told["gpve_decide_seconds_count"] >= 2
    assert told["gpve_node_sessions"] == 1
    assert told["gpve_store_up"] == 1
