"""The API as an enemy uses it: everything that its description allows, and what it does not."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from gpve.client import Client
from gpve.client.contexts import Context, Contexts, keep
from gpve.node.identity import Identity, join, load
from gpve.v1 import cluster_pb2, cluster_pb2_grpc, guest_pb2, guest_pb2_grpc, node_pb2, node_pb2_grpc
from tests.server.cluster import Cluster, done, refused

VM = {"name": "web", "cpu_milli": 500, "memory_mib": 256}
STREAMS = ("/watch", "/follow", "/logs", "/exec", "/dump")


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("examples", [3, pytest.param(100, marks=pytest.mark.full)])
def test_every_operation_as_it_is_described(cluster: Cluster, mode: GenerationMode, examples: int) -> None:
    """schemathesis: no 5xx, no status and no shape that is not in the description, whatever is sent."""
    server = cluster.server("s")
    cluster.node("a")
    token = cluster.token()
    described = httpx.get(f"{server.url}/api/v1/openapi.json", verify=False).json()
    count = 0
    for result in schemathesis.openapi.from_dict(described).get_all_operations():
        operation = result.ok()
        if operation.path.endswith(STREAMS):
            # They never end; their errors are tried below.
            continue
        try:
            cases = operation.as_strategy(generation_mode=mode)
        except Exception:
            # Nothing can be wrong about an operation without parameters.
            assert mode is GenerationMode.NEGATIVE
            continue

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases)
        def attempt(case: Any) -> None:
            nonlocal count
            count += 1
            case.call_and_validate(
                base_url=server.url, headers={"Authorization": f"Bearer {token}"}, verify=False, checks=CHECKS
            )

        with contextlib.suppress(Unsatisfiable):
            # Of some there is nothing to be got wrong.
            attempt()
    assert count > 60
    assert cluster.client().audit() == []
    assert cluster.defects() == []


BAD: list[tuple[dict[str, Any], str]] = [
    ({**VM, "sped": 1}, "sped"),
    ({**VM, "cpu_milli": "many"}, "cpu_milli"),
    ({**VM, "cpu_milli": 1.5}, "cpu_milli"),
    ({**VM, "cpu_milli": -1}, "cpu_milli"),
    ({**VM, "cpu_milli": 1 << 41}, "cpu_milli"),
    ({**VM, "cpu_milli": 9000}, "cpu_milli"),
    ({**VM, "memory_mib": 9000}, "memory_mib"),
    ({**VM, "gpu_count": 1, "gpu_milli": 100}, "gpu_count"),
    ({**VM, "name": "a\x00b"}, "name"),
    ({**VM, "name": "a\nb"}, "name"),
    ({**VM, "name": "x" * 65}, "name"),
    ({**VM, "name": None}, "name"),
    ({**VM, "disks": []}, "disks"),
    ({**VM, "disks": [{"size_gib": 0}]}, "disks.0.size_gib"),
    ({**VM, "networks": ["lan"] * 17}, "networks"),
    ({**VM, "autostart": "yes"}, "autostart"),
    ({**VM, "priority": 1001}, "priority"),
    ({"name": "web"}, "cpu_milli"),
]


@pytest.mark.parametrize(("body", "field"), BAD, ids=[f"{at}-{field}" for at, (_, field) in enumerate(BAD)])
def test_bad_input_names_the_field_and_leaves_nothing(http: httpx.Client, body: dict[str, Any], field: str) -> None:
    before = http.get("/status").json()["guests"]
    answer = http.post("/vms", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert field in [one["field"] for one in told["errors"]], told
    assert told["instance"].removeprefix("urn:gpve:request:") == answer.headers["x-request-id"]
    assert http.get("/status").json()["guests"] == before


def test_bodies_that_are_too_large_too_deep_or_no_json(http: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    assert http.post("/vms", content=b'{"name": "' + b"x" * (10 << 20) + b'"}', headers=headers).status_code == 413

    def drip() -> Iterator[bytes]:
        for _ in range(160):
            yield b" " * 65_536

    assert http.post("/vms", content=drip(), headers=headers).status_code == 413
    for deep in (b"[" * 100_000, b'{"a":' * 50_000, b'{"name": ' + b"[" * 40 + b"]" * 40 + b"}"):
        answer = http.post("/vms", content=deep, headers=headers)
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"] == [{"field": "body", "problem": "too deep"}]
    for broken in (b"{", b"\xff\xfe", b'{"a": 1} x', b"NaN", b'"' + b'\\"' * 200_000):
        assert http.post("/vms", content=broken, headers=headers).status_code in (400, 422)
    assert http.post("/vms", content=b"name=web", headers={"Content-Type": "text/plain"}).status_code == 415
    assert http.put("/vms", json=VM).status_code == 405
    assert http.get("/nowhere").status_code == 404


def test_a_query_parameter_that_is_unknown_is_no_wish_that_came_true(http: httpx.Client) -> None:
    for method, path in (("GET", "/vms?projct=team-a"), ("POST", "/vms?projct=team-a"), ("GET", "/status?verbose=1")):
        said = http.request(method, path, json=None if method == "GET" else VM)
        name = path.partition("?")[2].partition("=")[0]
        assert (said.status_code, said.json()["errors"][0]["field"]) == (422, name), said.text
    assert http.get("/vms?project=default").status_code == 200


def test_without_a_token_nothing_is_told(api: Cluster) -> None:
    url = f"{api.servers['s'].url}/api/v1"
    paths = [path.removeprefix("/api/v1") for path in httpx.get(f"{url}/openapi.json", verify=False).json()["paths"]]
    tried = 0
    for path in paths:
        if path in ("/join", "/ca"):
            continue
        for token in (None, "gpve_" + "A" * 43):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            concrete = path.replace("{guest}", "100").replace("{task}", "1").replace("{node}", "a")
            concrete = concrete.replace("{project}", "p").replace("{digest}", "0" * 12)
            for method in ("GET", "POST", "PUT", "DELETE"):
                answer = httpx.request(method, f"{url}{concrete}", verify=False, headers=headers)
                assert answer.status_code in (401, 405), (method, path, answer.status_code)
                tried += answer.status_code == 401
    assert tried > 80


def test_one_key_is_one_task_and_an_etag_is_a_condition(client: Client) -> None:
    body = {**VM, "name": "keyed"}
    first = client.create("vm", body, key="once")
    assert client.create("vm", body, key="once").id == first.id
    with refused(409, "key-reused", "once"):
        client.create("vm", {**body, "cpu_milli": 600}, key="once")
    done(client, first)
    guest = client.get("vm", "keyed")
    with refused(412, "changed", str(guest.revision)):
        client.act("vm", "stop", guest.id, revision=guest.revision - 1)
    done(client, client.act("vm", "stop", guest.id, revision=guest.revision))
    done(client, client.act("vm", "delete", guest.id))


def test_a_page_after_the_other(http: httpx.Client, client: Client) -> None:
    tasks = [client.create("agent", {**VM, "name": f"page{at}", "autostart": False}) for at in range(7)]
    for task in tasks:
        done(client, task)
    seen, page = [], None
    while True:
        told = http.get("/agents", params={"size": 3, **({"page": page} if page else {})}).json()
        seen += [one["name"] for one in told["guests"]]
        page = told["next"]
        if page is None:
            break
    assert [name for name in seen if name.startswith("page")] == [f"page{at}" for at in range(7)]
    for guest in list(client.list("agent")):
        tag = http.get(f"/agents/{guest.id}").headers["etag"]
        assert http.get(f"/agents/{guest.id}", headers={"If-None-Match": tag}).status_code == 304
        done(client, client.act("agent", "delete", guest.id))


def test_a_watch_resumes_and_skips_nothing(http: httpx.Client, client: Client) -> None:
    revision = http.get("/guests").json()["revision"]
    done(client, client.create("vcluster", {**VM, "name": "watched"}))
    guest = client.get("vcluster", "watched")
    phases, events = [], []
    for change in client.watch(revision, ["guest", "event"]):
        assert change.revision >= revision
        revision = change.revision
        if change.table == "guest" and change.row is not None:
            phases.append(change.row["phase"])
        elif change.row is not None:
            events.append(change.row["kind"])
        if phases and phases[-1] == "running":
            break
    assert phases[0] == "creating"
    assert events[:3] == ["submitted", "claimed", "began"]
    done(client, client.act("vcluster", "stop", guest.id))
    rest = []
    for change in client.watch(revision, ["guest"]):
        assert change.row is not None
        rest.append(change.row["phase"])
        if rest[-1] == "stopped":
            break
    assert rest == ["stopping", "stopped"]
    with refused(422, "bad-field", "revision"):
        next(client.watch(1 << 40))
    with http.stream("GET", "/watch", params={"table": "token"}) as answer:
        assert answer.status_code == 422
    done(client, client.act("vcluster", "delete", guest.id))


def test_a_quota_holds(client: Client) -> None:
    client.limit("small", guests_limit=1)
    done(client, client.create("vm", {**VM, "name": "one"}, project="small"))
    with refused(403, "over-quota", "guests", "1 of 1"):
        client.create("vm", {**VM, "name": "two"}, project="small")
    guest = client.get("vm", "one")
    done(client, client.act("vm", "stop", guest.id))
    done(client, client.act("vm", "delete", guest.id))
    assert client.quota("small")["guests"] == 0


def test_what_waits_says_why_and_the_more_important_goes_first(client: Client) -> None:
    big = {"cpu_milli": 5000, "memory_mib": 256}
    done(client, client.create("vm", {**big, "name": "first"}))
    low = client.create("vm", {**big, "name": "low"})
    high = client.create("vm", {**big, "name": "high", "priority": 10})
    for task in client.follow(high.id):
        if task.status == "waiting":
            assert task.reason == "1 node: not enough CPU left"
            break
    told = client.explain(client.get("vm", "high").id)
    assert told["nodes"] == {"not enough CPU left": 1}
    assert "node a lacks least: 2000 milli-CPU short" in told["sentence"]
    first = client.get("vm", "first")
    done(client, client.act("vm", "stop", first.id))
    done(client, client.act("vm", "delete", first.id))
    done(client, high)
    assert client.task(low.id).status == "waiting"
    client.cancel(low.id, "enough")
    assert client.wait(low).status == "undone"
    guest = client.get("vm", "high")
    done(client, client.act("vm", "stop", guest.id))
    done(client, client.act("vm", "delete", guest.id))


def test_a_guest_is_explained_by_its_name_where_only_one_has_it(
    api: Cluster, client: Client, gpve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = api.servers["s"]
    monkeypatch.setitem(os.environ, "GPVE_CONFIG", str(tmp_path / "contexts.yaml"))
    keep(Contexts("x", {"x": Context((server.url,), api.token(), (server.directory / "ca.pem").read_text())}))
    done(client, client.create("vm", {**VM, "name": "known"}))
    number = client.get("vm", "known").id
    by_name, by_number = gpve("explain", "known", "--json"), gpve("explain", str(number), "--json")
    assert json.loads(by_name.out) == json.loads(by_number.out)
    assert json.loads(by_name.out)["guest"] == number
    done(client, client.create("vm", {**VM, "name": "known"}, project="elsewhere"))
    both = [one.id for one in client.list("vm", name="known")]
    refused_by_name = gpve("explain", "known")
    assert refused_by_name.code == 2
    which = f"guests {both[0]} (project default), {both[1]} (project elsewhere)"
    assert f"{which} have the name 'known': say the project, or the number" in refused_by_name.err
    assert json.loads(gpve("explain", "known", "--project", "elsewhere", "--json").out)["guest"] == both[1]
    assert "no guest has the name 'nobody'" in gpve("explain", "nobody").err
    for guest in both:
        done(client, client.act("vm", "stop", guest))
        done(client, client.act("vm", "delete", guest))


def test_a_token_is_worth_nothing_once_it_is_withdrawn(api: Cluster, client: Client) -> None:
    token = client.make_token("for a while")
    (one,) = [each for each in client.tokens() if each["name"] == "for a while"]
    assert token not in json.dumps(client.tokens())
    other = Client([api.servers["s"].url], token, (api.servers["s"].directory / "ca.pem").read_text())
    assert other.status()["nodes"] == 1
    client.withdraw_token(one["digest"][:12])
    with refused(401, "unauthenticated"):
        other.status()
    other.close()


def test_the_same_over_grpc(api: Cluster) -> None:
    server = api.servers["s"]
    ca = (server.directory / "ca.pem").read_bytes()
    address = f"127.0.0.1:{server.ports[1]}"
    metadata = (("authorization", f"Bearer {api.token()}"),)
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca)) as channel:
        guests, tasks = guest_pb2_grpc.GuestServiceStub(channel), cluster_pb2_grpc.TaskServiceStub(channel)
        spec = guest_pb2.VmSpec(name="by-grpc", cpu_milli=100, memory_mib=64, disks=[guest_pb2.Disk(size_gib=2)])
        task = guests.Create(guest_pb2.CreateGuestRequest(vm=spec), metadata=metadata)
        *_, last = tasks.Follow(cluster_pb2.TaskRef(id=task.id), metadata=metadata)
        assert last.status == "done"
        guest = guests.Get(guest_pb2.GuestRef(id=int(task.target)), metadata=metadata)
        assert (guest.name, guest.phase, guest.node) == ("by-grpc", "running", "a")
        assert json.loads(guest.spec_json)["cpu_milli"] == 100
        for stub, request, code in (
            (guests.Get, guest_pb2.GuestRef(id=guest.id), grpc.StatusCode.UNAUTHENTICATED),
            (guests.Get, guest_pb2.GuestRef(id=9999), grpc.StatusCode.NOT_FOUND),
            (guests.Get, guest_pb2.GuestRef(id=-1), grpc.StatusCode.NOT_FOUND),
            (guests.Create, guest_pb2.CreateGuestRequest(), grpc.StatusCode.INVALID_ARGUMENT),
            (
                guests.Create,
                guest_pb2.CreateGuestRequest(vm=guest_pb2.VmSpec(name="A\x00")),
                grpc.StatusCode.INVALID_ARGUMENT,
            ),
            (guests.Delete, guest_pb2.GuestRef(id=guest.id), grpc.StatusCode.FAILED_PRECONDITION),
            (guests.List, guest_pb2.ListGuestsRequest(size=-5), grpc.StatusCode.INVALID_ARGUMENT),
            (guests.List, guest_pb2.ListGuestsRequest(page="x"), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as error:
                stub(request, metadata=() if code is grpc.StatusCode.UNAUTHENTICATED else metadata)
            assert error.value.code() is code, error.value
            problem = dict(error.value.trailing_metadata())["problem-bin"]
            assert json.loads(problem)["type"].startswith("urn:gpve:problem:")
        reference = guest_pb2.GuestRef(id=guest.id)
        stopped = guests.Stop(guest_pb2.StopGuestRequest(guest=reference), metadata=metadata)
        assert [*tasks.Follow(cluster_pb2.TaskRef(id=stopped.id), metadata=metadata)][-1].status == "done"
        gone = guests.Delete(reference, metadata=metadata)
        assert [*tasks.Follow(cluster_pb2.TaskRef(id=gone.id), metadata=metadata)][-1].status == "done"


def test_a_vcluster_is_scaled_over_grpc(api: Cluster, client: Client) -> None:
    """Its node has that much less left. A kubeconfig is refused: the simulated executor has no API server."""
    server = api.servers["s"]
    ca = (server.directory / "ca.pem").read_bytes()
    metadata = (("authorization", f"Bearer {api.token()}"),)
    used = client.node("a").used_cpu_milli
    done(client, client.create("vcluster", {**VM, "name": "scaled"}))
    guest = client.get("vcluster", "scaled")
    target = f"127.0.0.1:{server.ports[1]}"
    with grpc.secure_channel(target, grpc.ssl_channel_credentials(ca)) as channel:
        vclusters, tasks = guest_pb2_grpc.VClusterServiceStub(channel), cluster_pb2_grpc.TaskServiceStub(channel)
        reference = guest_pb2.GuestRef(id=guest.id)

        def scale(cpu_milli: int) -> Any:
            wish = guest_pb2.UpdateGuestRequest(guest=reference, cpu_milli=cpu_milli)
            task = vclusters.Scale(wish, metadata=metadata)
            return [*tasks.Follow(cluster_pb2.TaskRef(id=task.id), metadata=metadata)][-1]

        assert scale(VM["cpu_milli"] + 700).status == "done"
        assert client.node("a").used_cpu_milli == used + VM["cpu_milli"] + 700
        too_much = scale(1 << 30)
        assert too_much.status == "undone"
        assert "are needed" in too_much.reason
        with pytest.raises(grpc.RpcError, match="of this size"):
            scale(VM["cpu_milli"] + 700)
        with pytest.raises(grpc.RpcError, match="no API server") as error:
            vclusters.GetKubeconfig(reference, metadata=metadata)
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    done(client, client.act("vcluster", "stop", guest.id))
    done(client, client.act("vcluster", "delete", guest.id))
    assert client.node("a").used_cpu_milli == used


def test_hostile_nodes(api: Cluster, client: Client) -> None:
    """Strangers, other people's certificates, and a node that says what no node says: no state, no crash."""
    server = api.servers["s"]
    ca = (server.directory / "ca.pem").read_bytes()
    address, options = f"127.0.0.1:{server.ports[2]}", [("grpc.ssl_target_name_override", "gpve-server")]
    home = api.nodes["a"].directory
    me = load(home)
    assert me is not None
    key, certificate = me.key, me.certificate
    before = [node.revision for node in client.nodes()]
    nobody = grpc.ssl_channel_credentials(ca)
    with grpc.secure_channel(address, nobody, options) as channel, pytest.raises(grpc.RpcError):
        list(node_pb2_grpc.NodeServiceStub(channel).Session(iter([node_pb2.FromNode()]), timeout=10))
    mutual = grpc.ssl_channel_credentials(ca, key, certificate)
    hello = node_pb2.Hello(protocol=1, boot="x", cpu_milli=1, memory_mib=1)
    for first in (
        node_pb2.FromNode(),
        node_pb2.FromNode(beat=node_pb2.Beat(number=1)),
        node_pb2.FromNode(hello=node_pb2.Hello(protocol=99)),
        node_pb2.FromNode(hello=node_pb2.Hello(protocol=1)),
        node_pb2.FromNode(hello=node_pb2.Hello(protocol=1, boot="x", cpu_milli=-5, memory_mib=1)),
        node_pb2.FromNode(hello=node_pb2.Hello(protocol=1, boot="x\n", cpu_milli=5, memory_mib=1)),
        node_pb2.FromNode(
            hello=node_pb2.Hello(protocol=1, boot="x", cpu_milli=5, memory_mib=1, facts_json="[" * 100_000)
        ),
        node_pb2.FromNode(hello=node_pb2.Hello(protocol=1, boot="x", cpu_milli=5, memory_mib=1, gpus=[-1])),
    ):
        with grpc.secure_channel(address, mutual, options) as channel, pytest.raises(grpc.RpcError) as error:
            list(node_pb2_grpc.NodeServiceStub(channel).Session(iter([first]), timeout=10))
        assert error.value.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)
    assert [node.revision for node in client.nodes()] == before
    with grpc.secure_channel(address, mutual, options) as channel, pytest.raises(grpc.RpcError) as error:
        node_pb2_grpc.PeerServiceStub(channel).Hint(node_pb2.HintRequest(), timeout=10)
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED, "a node is no server"
    del hello
    with refused(422, "bad-field", "csr"):
        client._ask(_join("x", "gpve_" + "A" * 43, "no request"))
    with refused(401, "unauthenticated"):
        client._ask(_join("stranger", "gpve_" + "A" * 43, _csr()))
    token = client.join_token()
    with refused(409, "not-now", "a token made for node a"):
        client._ask(_join("a", token, _csr()))
    client._ask(_join("newcomer", token, _csr()))
    with refused(401, "unauthenticated"):
        client._ask(_join("twice", token, _csr()))
    client.remove_node("newcomer")
    assert [node.name for node in client.nodes()] == ["a"]


def test_a_certificate_is_worth_nothing_once_its_node_joined_anew_or_left(api: Cluster, client: Client) -> None:
    server = api.servers["s"]
    address, options = f"127.0.0.1:{server.ports[2]}", [("grpc.ssl_target_name_override", "gpve-server")]
    hello = node_pb2.FromNode(hello=node_pb2.Hello(protocol=1, boot="x", cpu_milli=5, memory_mib=1, facts_json="{}"))

    def refused_with(me: Identity) -> grpc.StatusCode | None:
        """What a session of this identity is refused with; None: it is welcome."""
        mutual = grpc.ssl_channel_credentials(me.ca, me.key, me.certificate)
        with grpc.secure_channel(address, mutual, options) as channel:
            try:
                first = next(node_pb2_grpc.NodeServiceStub(channel).Session(iter([hello]), timeout=10))
            except grpc.RpcError as error:
                return error.code()
        assert first.HasField("welcome")
        return None

    first = join(server.url, client.join_token("brief"), "brief")
    assert refused_with(first) is None
    second = join(server.url, client.join_token("brief"), "brief")
    assert refused_with(first) is grpc.StatusCode.PERMISSION_DENIED
    assert refused_with(second) is None
    client.remove_node("brief")
    assert refused_with(second) is grpc.StatusCode.PERMISSION_DENIED
    assert [node.name for node in client.nodes()] == ["a"]


def _csr() -> str:
    from gpve.node.identity import new_key, request_of

    return request_of("whatever", new_key()[0]).decode()


def _join(name: str, token: str, csr: str) -> Any:
    from gpve.client.calls import Call

    return Call("POST", "/join", body={"token": token, "name": name, "csr": csr}, key="k")


def test_both_clients_are_the_same() -> None:
    """Method by method: names, parameters and documentation."""
    import inspect

    from gpve.client import AsyncClient

    def public(kind: type) -> dict[str, tuple[list[str], str | None]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {
            name: ([*inspect.signature(method).parameters], method.__doc__)
            for name, method in methods
            if not name.startswith("_")
        }

    assert public(Client) == public(AsyncClient)


def test_the_command_line_has_the_operations_of_the_flows() -> None:
    from gpve.cli.guests import OPERATIONS
    from gpve.server.access import flow_of
    from gpve.server.control import operations

    for kind, told in OPERATIONS.items():
        assert sorted(told) == sorted(operations(kind))
        for operation, takes in told.items():
            fields = flow_of(f"{kind}_{operation}").body.model_fields
            assert {name: field.is_required() for name, field in fields.items() if name != "guest"} == {
                name: not asked.option for name, asked in takes.items()
            }, (kind, operation)
            for name, asked in takes.items():
                said = {str: "1", int: 1, float: 1.0}[asked.plain]
                assert ("int" in str(fields[name].annotation)) == isinstance(asked.read(said), int), name
