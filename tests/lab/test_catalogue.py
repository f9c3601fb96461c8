"""Traces by name, transforms, and the commands around them."""

import json
from pathlib import Path

import numpy as np
import pytest
from gpve_sim import catalogue, transform
from gpve_sim.catalogue import ENTRIES, GENERATED, available, load, load_nodes
from typer.testing import CliRunner

from gpve.cli.nodes import nodes_app
from gpve.cli.traces import traces_app
from gpve.model import InputError
from tests.lab.test_readers_schema import small_trace
from tests.lab.traces_here import loaded, need

RUN = CliRunner()


def test_the_environment_decides_where_traces_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPVE_TRACES", str(tmp_path))
    assert set(available()) == set(GENERATED)
    with pytest.raises(InputError, match="gpve traces pull openb/default"):
        load("openb/default")
    (tmp_path / "openb").mkdir()
    pods = tmp_path / "openb" / "openb_pod_list_default.csv"
    pods.write_text("name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1,2,0,0\n")
    assert available()["openb/default"] == pods
    trace = load("openb/default")
    # Without the list of nodes beside it, the same inventory comes from the specification.
    assert (trace.name, len(trace.nodes), trace.nodes.gpu_count.sum()) == ("openb/default", 1213, 6212)
    monkeypatch.delenv("GPVE_TRACES")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert catalogue.folders()[-1] == tmp_path / "gpve" / "traces"


def test_half_a_data_set_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("agentcgroup", "weka-agent-sessions", "mooncake"):
        (tmp_path / folder).mkdir()
    (tmp_path / "weka-agent-sessions" / "trace_0001.json").write_text("{}")
    monkeypatch.setenv("GPVE_TRACES", str(tmp_path))
    assert "agents/mooncake" not in available()


def test_names_that_are_wrong() -> None:
    with pytest.raises(InputError, match="did you mean openb/default"):
        load("openb/defualt")
    with pytest.raises(InputError, match="inventory of nodes"):
        load("openb/gpu_node")
    with pytest.raises(InputError, match="no file and no cluster"):
        load_nodes("nothing")
    with pytest.raises(InputError, match="takes no guests"):
        load("openb/default", guests=3)


def test_nodes_by_name_text_and_trace() -> None:
    assert len(load_nodes("3x(4c,8G)")) == 3
    assert len(load_nodes("generated/openb-like")) == 1213
    need("openb/gpu_node")
    assert len(load_nodes("openb/gpu_node")) == 1213
    nodes = load_nodes("2x(4c,8G)")
    assert load("openb/default", nodes=nodes).nodes is nodes


def test_transforms_keep_usage_with_its_guests() -> None:
    trace = small_trace()
    assert transform.rows(trace, 1).usage is not None
    later = transform.rows(trace, 1)
    assert later.guests.ids.to_pylist() == ["b"]
    assert later.usage is not None
    assert (later.usage.guest.tolist(), later.usage.cpu_milli.tolist()) == ([0], [2])
    fast = transform.scale_time(trace, 0.5)
    assert fast.guests.departure_s.tolist() == [4.75, np.inf]
    assert fast.usage is not None
    assert fast.usage.end_s.tolist() == [3, 4.5, 4.75]
    assert transform.window(trace, 0, 5).guests.ids.to_pylist() == ["a"]
    assert transform.select(trace, cpu_milli=(1500, 3000), kinds=("vm",)).guests.ids.to_pylist() == ["b"]
    assert transform.select(trace) is trace
    for wrong in (
        lambda: transform.select(trace, kinds=("pod",)),
        lambda: transform.select(trace, gpus=(1, 8)),
        lambda: transform.select(trace, groups=("none",)),
        lambda: transform.sample(trace, 3),
        lambda: transform.scale_time(trace, 0),
        lambda: transform.window(trace, 5, 5),
        lambda: transform.window(trace, 50),
    ):
        with pytest.raises(InputError):
            wrong()


def test_transforms_of_a_real_trace() -> None:
    trace = loaded("alibaba-dlrm-2025/default")
    one = transform.select(trace, groups=("app_0",), gpus=(1, 1))
    assert set(one.guests.group.tolist()) == {trace.guests.group_names.index("app_0")}  # type: ignore[union-attr]
    drawn = [transform.sample(trace, 100, seed).guests.ids.to_pylist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_list_and_show() -> None:
    listed = json.loads(RUN.invoke(traces_app, ["list", "--json"]).stdout)
    assert {row["name"] for row in listed} == {*ENTRIES, *GENERATED}
    assert RUN.invoke(traces_app, ["list"]).exit_code == 0
    shown = json.loads(RUN.invoke(traces_app, ["show", "generated/openb-like", "--json"]).stdout)
    assert (shown["guests"], shown["gpu_milli"], shown["nodes"]) == (8152, 6_086_800, 1213)
    assert "8,152" in RUN.invoke(traces_app, ["show", "generated/openb-like"]).stdout
    nodes = json.loads(RUN.invoke(nodes_app, ["show", "generated/openb-like", "--json"]).stdout)
    assert (nodes["gpus"], nodes["kinds"][0]["count"]) == (6212, 549)
    assert "6,212" in RUN.invoke(nodes_app, ["show", "generated/openb-like"]).stdout


def test_generate_and_convert(tmp_path: Path) -> None:
    guests, nodes, out = (str(tmp_path / name) for name in ("g.parquet", "n.csv", "c.csv.gz"))
    arguments = ["generate", "peers", guests, "--guests", "1000", "--hosts", "10", "--seed", "3"]
    assert RUN.invoke(traces_app, arguments).exit_code == 0
    assert RUN.invoke(nodes_app, ["generate", "3x(4c,8G,2xT4)", nodes]).exit_code == 0
    assert load_nodes(nodes).gpu_count.tolist() == [2, 2, 2]
    options = ["--rows", "100:900", "--cpu", "0:2000", "--sample", "50", "--scale-time", "0.5"]
    assert RUN.invoke(traces_app, ["convert", guests, out, *options]).exit_code == 0
    back = load(out)
    assert (len(back.guests), len(back.nodes)) == (50, 10)
    assert back.guests.cpu_milli.max() <= 2000
    for app in (traces_app, nodes_app):
        for command in app.registered_commands:
            name = command.name or command.callback.__name__  # type: ignore[union-attr]
            assert "Example" in RUN.invoke(app, [name, "--help"]).stdout
