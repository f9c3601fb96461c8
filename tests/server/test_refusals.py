"""What is refused, over HTTP and gRPC: with the field, with what would be right, and with nothing that is not there."""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from gpve.client import Client
from gpve.model.kinds import KINDS
from gpve.model.phases import MOVES, STEADY, TRANSITIONAL
from gpve.server.control import operations
from gpve.server.http.app import build
from gpve.server.http.streams import Exec
from gpve.server.problems import problem_of
from gpve.tasks.errors import Forbidden
from gpve.tasks.flows.guests import announce
from gpve.v1 import cluster_pb2, cluster_pb2_grpc, guest_pb2, guest_pb2_grpc
from gpve.v1 import resources_pb2 as pb
from tests.server.cluster import Cluster, done, until

VM = {"name": "web", "cpu_milli": 500, "memory_mib": 256}
AGENT = {**VM, "autostart": False}


def agent(policy: str) -> dict[str, Any]:
    return {**AGENT, "program": {"argv": ["/bin/true"], "policy": policy}}


def lines(api: Cluster) -> list[dict[str, Any]]:
    """The log of the server. A line that is no JSON is an error; of the last one only a part may be there yet."""
    whole, _, _ = api.servers["s"].said().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


BAD = [
    ("/vms", {**VM, "networks": ["nosuch"]}, 404, "networks", "no network nosuch"),
    ("/vms", {**VM, "node": "nosuch"}, 404, "node", "no node nosuch"),
    ("/vms", {**VM, "name": "123"}, 422, "name", "a letter is wanted"),
    ("/vms", {**VM, "gpu_milli": 500}, 422, "gpu_milli", "gpu_count"),
    ("/agents", agent("bogus = ["), 422, "program.policy", "no TOML"),
    ("/agents", agent('{"version": 1'), 422, "program.policy", "no JSON"),
    ("/agents", agent("[limits]\nmemori = 5"), 422, "program.policy", "did you mean memory?"),
    ("/agents", agent('[limits]\nmemory = "1GB"'), 422, "program.policy", "a number with a unit"),
    ("/agents", agent('[files]\nread = "/srv"'), 422, "program.policy", "files.read: a list is wanted"),
    ("/agents", agent('level = "L9"'), 422, "program.policy", "one of 'L1', 'L2', 'L3' is wanted"),
]


@pytest.mark.parametrize(("path", "body", "status", "field", "word"), BAD, ids=[field for *_, field, _ in BAD])
def test_the_field_at_fault_is_named(
    http: httpx.Client, path: str, body: dict[str, Any], status: int, field: str, word: str
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert word in error["problem"]


def test_what_is_named_in_an_operation_and_not_there(http: httpx.Client, client: Client) -> None:
    done(client, client.create("vm", {**VM, "name": "here"}))
    guest = client.get("vm", "here").id
    for operation, body, status, field in (
        ("migrate", {"to": "nosuch"}, 404, "to"),
        ("clone", {"name": "42"}, 422, "name"),
    ):
        answer = http.post(f"/vms/{guest}/{operation}", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field), answer.text
    # Named in the path: no field of anything.
    assert "errors" not in http.get("/vms/99999").json()
    done(client, client.act("vm", "stop", guest))
    done(client, client.act("vm", "delete", guest))


def test_a_policy_that_is_right_is_let_through(http: httpx.Client, client: Client) -> None:
    policy = '[limits]\nmemory = "64MiB"\ncpus = 0.5\n[network]\negress = ["example.org:443"]\n'
    task = http.post("/agents", json=agent(policy))
    assert task.status_code == 202, task.text
    number = int(task.json()["target"])
    done(client, client.task(task.json()["id"]))
    done(client, client.act("agent", "delete", number))


@pytest.mark.parametrize("path", ["/vms?phase=nosuch", "/guests?phase=nosuch", "/tasks?status=foo"])
def test_a_filter_that_nothing_can_match_is_refused(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    name = re.split("[?=]", path)[1]
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, name)
    assert {"phase": "running", "status": "undone"}[name] in answer.json()["detail"]
    assert http.get(path.partition("=")[0] + {"phase": "=running", "status": "=done"}[name]).status_code == 200


def test_the_operations_that_a_refusal_offers_are_those_that_would_be_let_through() -> None:
    """Over all kinds and phases, and each is a route."""
    routes = [(path, methods) for path, methods in build(None).state.methods]  # type: ignore[arg-type]

    def is_route(kind: str, operation: str) -> bool:
        path = f"/api/v1/{kind}s/100" + ("" if operation == "delete" else f"/{operation}")
        method = "DELETE" if operation == "delete" else "POST"
        return any(shape.match(path) and method in methods for shape, methods in routes)

    for kind in KINDS:
        for phase in STEADY[kind]:
            may = [name for name in operations(kind) if phase in MOVES[kind][name].before]
            guest = {"id": 100, "kind": kind, "phase": phase, "task": None}
            with pytest.raises(Forbidden) as refused:
                announce(None, guest, "create", 1)  # type: ignore[arg-type]
            problem = problem_of(refused.value)
            assert sorted(problem.allowed) == sorted(may)
            assert all(is_route(kind, name) for name in problem.allowed), problem.allowed
            assert all(name in str(problem) for name in may)
        for phase in TRANSITIONAL[kind]:
            guest = {"id": 100, "kind": kind, "phase": phase, "task": 24}
            with pytest.raises(Forbidden) as refused:
                announce(None, guest, "delete", 1)  # type: ignore[arg-type]
            assert problem_of(refused.value).allowed == ()
            assert "cancel task 24" in str(refused.value)


def test_what_else_would_do_stands_in_the_sentence_alone() -> None:
    problem = problem_of(Forbidden("create vm 'web'", "the name of guest 100", ("another name",)))
    assert (problem.allowed, "another name" in str(problem)) == ((), True)


def test_a_path_says_all_its_methods_and_has_head_where_it_has_get(http: httpx.Client) -> None:
    for path, allow in (("/vms/101", "DELETE, GET, HEAD"), ("/vms", "GET, HEAD, POST"), ("/vms/101/start", "POST")):
        answer = http.request("PATCH", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    got, head = http.get("/status"), http.head("/status")
    assert (head.status_code, head.content, head.headers["content-type"]) == (200, b"", got.headers["content-type"])
    assert http.head("/vms/99999").status_code == 404
    assert http.head("/watch").status_code == 200
    assert http.head("/join").status_code == 405


def test_any_revision_will_do_for_a_star(http: httpx.Client) -> None:
    for tag, status in (("*", 404), ('"5"', 404), ("5", 422), ("**", 422)):
        assert http.post("/vms/99999/start", headers={"If-Match": tag}).status_code == status, tag


def test_a_watch_behind_what_is_yet_to_come_is_refused_with_the_id_of_the_request(http: httpx.Client) -> None:
    answer = http.get("/watch?revision=99999999999", headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.json()["instance"]) == (422, "urn:gpve:request:mine")


def test_who_cancelled_stands_in_the_log(http: httpx.Client, client: Client) -> None:
    for at, (reason, told) in enumerate((("enough", "by first: enough"), ("", "by first"), ("x" * 191, "by first: x"))):
        first = client.create("vm", {**VM, "name": f"first{at}", "cpu_milli": 8000})
        until(lambda task=first: client.task(task.id).status in ("done", "waiting"))
        second = client.create("vm", {**VM, "name": f"second{at}", "cpu_milli": 8000})
        until(lambda task=second: client.task(task.id).status == "waiting")
        assert client.cancel(second.id, reason).cancel.startswith(told)
        assert client.wait(second).status == "undone"
        guest = client.get("vm", f"first{at}").id
        done(client, client.act("vm", "stop", guest))
        done(client, client.act("vm", "delete", guest))


def test_each_line_of_the_log_is_json_and_tells_of_the_task(api: Cluster, http: httpx.Client, client: Client) -> None:
    made = http.post("/vms", json={**VM, "name": "logged", "cpu_milli": 8000})
    task = made.json()["id"]
    done(client, client.task(task))
    waits = client.create("vm", {**VM, "name": "undone", "cpu_milli": 8000})
    until(lambda: client.task(waits.id).status == "waiting")
    drained = http.post("/nodes/a/drain", json={})
    client.cancel(waits.id)
    client.cancel(drained.json()["task"]["id"])
    assert client.wait(waits).status == "undone"

    (asked,) = [line for line in lines(api) if line.get("request") == made.headers["x-request-id"]]
    assert (asked["task"], asked["actor"]) == (task, "first")
    until(lambda: any(line.get("status") == "undone" and line["task"] == waits.id for line in lines(api)), 20.0)
    (ended,) = [line for line in lines(api) if line.get("status") and line["task"] == waits.id]
    assert (ended["level"], ended["flow"], ended["target"]) == ("warning", "vm_create", waits.target)
    assert f"task {waits.id}: vm_create of {waits.target} is undone: " in ended["text"]
    assert "by first" in ended["text"]
    drain = [line for line in lines(api) if line.get("request") == drained.headers["x-request-id"]]
    assert drain[0]["task"] == drained.json()["task"]["id"]
    assert not [line for line in lines(api) if line.get("status") == "done"], "at the level debug"
    client.wait(client.task(drained.json()["task"]["id"]))
    guest = int(made.json()["target"])
    done(client, client.open_node("a"))
    done(client, client.act("vm", "stop", guest))
    done(client, client.act("vm", "delete", guest))


@pytest.fixture
def channel(api: Cluster) -> Iterator[grpc.Channel]:
    server = api.servers["s"]
    credentials = grpc.ssl_channel_credentials((server.directory / "ca.pem").read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{server.ports[1]}", credentials) as made:
        yield made


def test_over_grpc(api: Cluster, channel: grpc.Channel) -> None:
    metadata = (("authorization", f"Bearer {api.token()}"),)
    guests, tasks = guest_pb2_grpc.GuestServiceStub(channel), cluster_pb2_grpc.TaskServiceStub(channel)
    ref = guest_pb2.GuestRef(id=99999)
    garbage = channel.unary_unary("/gpve.v1.GuestService/Get")
    streamed = channel.unary_stream("/gpve.v1.GuestService/WatchStatus")
    spec = guest_pb2.VmSpec(name="x", cpu_milli=1, memory_mib=1, networks=["nosuch"])
    for call, request, code, field in (
        (guests.List, guest_pb2.ListGuestsRequest(kind=99), "INVALID_ARGUMENT", "kind"),
        (guests.List, guest_pb2.ListGuestsRequest(phase="nosuch"), "INVALID_ARGUMENT", "phase"),
        (tasks.List, cluster_pb2.ListTasksRequest(status="foo"), "INVALID_ARGUMENT", "status"),
        (guests.WatchStatus, pb.WatchRequest(tables=["node"]), "INVALID_ARGUMENT", "tables"),
        (guests.Create, guest_pb2.CreateGuestRequest(vm=spec), "NOT_FOUND", "networks"),
        (garbage, b"\xff\xff\xff", "INVALID_ARGUMENT", None),
        (streamed, b"\xff\xff\xff", "INVALID_ARGUMENT", None),
        (guests.Start, ref, "NOT_FOUND", None),
    ):
        with pytest.raises(grpc.RpcError) as error:
            list(call(request, metadata=(*metadata, ("if-match", "*"))))
        assert error.value.code().name == code, error.value
        problem = json.loads(dict(error.value.trailing_metadata())["problem-bin"])
        assert [one["field"] for one in problem.get("errors", [])] == ([] if field is None else [field])
        number = problem["instance"].rpartition(":")[2]
        (told,) = until(lambda number=number: [line for line in lines(api) if line.get("request") == number])
        assert told["text"].endswith(code)
    assert not [line for line in lines(api) if line["level"] == "error"]


def test_an_agent_is_checkpointed_over_grpc(api: Cluster, client: Client, channel: grpc.Channel) -> None:
    metadata = (("authorization", f"Bearer {api.token()}"),)
    agents = guest_pb2_grpc.AgentServiceStub(channel)
    done(client, client.create("agent", {**VM, "name": "kept"}))
    guest = client.get("agent", "kept").id
    wish = guest_pb2.SnapshotRequest(guest=guest_pb2.GuestRef(id=guest), name="first")
    done(client, client.task(agents.Checkpoint(wish, metadata=metadata).id))
    done(client, client.act("agent", "stop", guest))
    done(client, client.task(agents.Restore(wish, metadata=metadata).id))
    wish.name = "second"
    with pytest.raises(grpc.RpcError, match="no snapshot of agent") as error:
        agents.Restore(wish, metadata=metadata)
    problem = json.loads(dict(error.value.trailing_metadata())["problem-bin"])
    assert problem["errors"][0]["field"] == "name"
    done(client, client.act("agent", "delete", guest))


def test_standard_input_that_is_no_text() -> None:
    data = bytes(range(256))
    asked = Exec(argv=["cat"], stdin_base64=base64.b64encode(data).decode()).asked()
    assert asked["stdin"].encode(errors="surrogateescape") == data
    assert "stdin_base64" not in asked
    for wrong in ({"stdin": "x", "stdin_base64": "eA=="}, {"stdin_base64": "eA="}, {"stdin_base64": "?"}):
        with pytest.raises(ValueError, match=r"base64|pattern"):
            Exec(argv=["cat"], **wrong)
