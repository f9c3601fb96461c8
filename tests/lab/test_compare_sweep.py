"""Comparisons, sweeps (killed, resumed, on Dask), clusters that change."""

import json
import os
import signal
import subprocess
import sys
import time

import gpve_sim as lab
import numpy as np
import pandas as pd
import pytest
from gpve_sim import whatif
from gpve_sim.comparison import vary
from gpve_sim.sweep import cells_of, read_sweep, run_sweep

from gpve.model import InputError

SWEEP = """traces = ["generated/openb-like"]
policies = ["fgd", "first-fit", "random"]
seeds = 4
departures = false
"""


def test_compare(tmp_path):
    """Means, deviations and paired intervals agree with pandas by hand; the report is whole and alone."""
    trace = lab.load("generated/openb-like", guests=1500)
    found = lab.compare(trace, ["fgd", "best-fit", "random"], seeds=4)
    assert len(found.runs) == 12
    one = found.runs[found.runs.row == "fgd"]
    assert found.table().at["fgd", "gpu_pct"] == pytest.approx(one.gpu_pct.mean())
    assert found.deviations().at["fgd", "gpu_pct"] == pytest.approx(one.gpu_pct.std())
    delta = found.runs[found.runs.row == "random"].gpu_pct.to_numpy() - one.gpu_pct.to_numpy()
    told = found.differences().set_index(["measure", "row"]).loc[("gpu_pct", "random")]
    assert told["mean"] == pytest.approx(delta.mean())
    assert (told["high"] - told["low"]) / 2 == pytest.approx(3.182446 * delta.std(ddof=1) / 2, rel=1e-5)  # t(3), n = 4
    again = lab.compare(trace, ["fgd", "best-fit", "random"], seeds=4, workers=1)
    same = ["row", "seed", "placements_sha256"]
    pd.testing.assert_frame_equal(found.runs[same], again.runs[same])
    text = found.report(tmp_path / "r.html").read_text()
    assert "data:image/png;base64," in text
    assert "http" not in text.replace("http-equiv", "")
    with pytest.raises(InputError, match="baseline"):
        lab.compare(trace, ["fgd"], baseline="best-fit", seeds=1)


def test_seeds_vary_what_they_say():
    """Nothing else moves."""
    trace = lab.load("generated/openb-like", guests=500)
    arrivals, nodes = vary(trace, trace.nodes, 1, ("arrivals",), departs=False)
    assert arrivals.guests.ids.to_pylist() != trace.guests.ids.to_pylist()
    assert sorted(arrivals.guests.ids.to_pylist()) == sorted(trace.guests.ids.to_pylist())
    assert nodes.names == trace.nodes.names
    same, ties = vary(trace, trace.nodes, 1, ("ties",), departs=False)
    assert same.guests is trace.guests
    assert sorted(ties.names) == sorted(trace.nodes.names)
    assert ties.names != trace.nodes.names
    lives = lab.load("generated/azure-like", guests=500)
    unmoved, _ = vary(lives, lives.nodes, 1, ("arrivals",), departs=True)
    assert unmoved is lives


def test_compare_clusters(gpve, tmp_path):
    """More GPUs take more of the same guests; `gpve compare` between clusters says so."""
    trace = lab.load("generated/openb-like")
    more = whatif.with_more(trace.nodes, lab.load_nodes("50x(96c,384G,8xG2)"))
    found = lab.compare(trace, ["fgd"], clusters=[trace.nodes, more], seeds=2)
    placed = found.table()["placed_pct"]
    assert placed["fgd on cluster 2"] > placed["fgd on cluster 1"]
    told = gpve(
        "compare", "generated/openb-like", "--policy", "fgd,random", "--seeds", "2", "--json", "--out", tmp_path
    )
    rows = {r["row"]: r for r in json.loads(told.out)["rows"]}
    assert rows["fgd"]["gpu_pct"] > rows["random"]["gpu_pct"]
    assert (tmp_path / "report.html").exists()
    apart = next(d for d in json.loads(told.out)["differences"] if (d["measure"], d["row"]) == ("gpu_pct", "random"))
    assert apart["mean"] == pytest.approx(rows["random"]["gpu_pct"] - rows["fgd"]["gpu_pct"])
    assert apart["low"] < apart["mean"] < apart["high"] < 0
    written = pd.read_csv(tmp_path / "differences.csv").set_index(["measure", "row"])
    assert written.at[("gpu_pct", "random"), "high"] == pytest.approx(apart["high"])
    assert pd.read_csv(tmp_path / "deviations.csv", index_col="row").at["fgd", "gpu_pct"] > 0
    shown = gpve("compare", "generated/openb-like", "--policy", "fgd,random", "--seeds", "2").out
    assert "difference from fgd: 95 % interval, paired by seed" in shown
    assert " ± " in shown


def test_drains_failures_growth():
    """Every guest of a drained node runs elsewhere; failures take who runs there; growth adds."""
    trace = lab.load("generated/azure-like", guests=3000)
    end = float(trace.guests.arrival_s.max())
    drains = whatif.rolling_drain(trace.nodes, 0.3 * end, 0.01 * end, at_once=3)
    run = lab.replay(trace, "best-fit", events=drains)
    events = run.events
    moved, blocked = (events.event == "moved").sum(), (events.event == "blocked").sum()
    assert run.summary["migrated"] == moved > 0
    assert run.timeline.open_nodes.min() >= len(trace.nodes) - 3
    failure = whatif.rack_failure(trace.nodes, 0.5 * end, size=10, seed=3, repair_s=0.1 * end)
    lost = lab.replay(trace, "worst-fit", events=failure)
    assert (lost.events.event == "evicted").sum() == (lost.events.event == "restarted").sum() + lost.summary["lost"] > 0
    assert blocked >= 0
    grown = whatif.growth(trace.nodes, first=5, every_s=0.05 * end, step=2)
    waits = lab.replay(trace, "best-fit", nodes=grown, queue="backfill")
    assert waits.timeline.open_nodes.is_monotonic_increasing
    assert waits.timeline.open_nodes.iloc[0] >= 5
    assert np.isclose(waits.summary["arrivals"], waits.summary["placed"] + waits.summary["waiting"])
    with pytest.raises(InputError):
        whatif.rack_failure(trace.nodes, 0, size=10**6, seed=0)


def test_sweep_killed_and_resumed(tmp_path):
    """kill -9 in the middle, then again to the end: the bytes of an undisturbed sweep."""
    file = tmp_path / "sweep.toml"
    file.write_text(SWEEP)
    whole = run_sweep(read_sweep(file), tmp_path / "whole.parquet").read_bytes()
    out = tmp_path / "killed.parquet"
    command = [sys.executable, "-m", "gpve", "sweep", str(file), "--out", str(out), "--workers", "1"]
    process = subprocess.Popen(command, start_new_session=True)
    parts = tmp_path / "killed.parquet.parts"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not parts.exists() or len(list(parts.glob("*.json"))) < 3):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(parts.glob("*.json")))
    assert 3 <= done < 12
    assert not out.exists()
    seen = []
    run_sweep(read_sweep(file), out, progress=lambda d, n: seen.append((d, n)))
    assert seen[0] == (done, 12)
    assert out.read_bytes() == whole
    assert not parts.exists()


def test_sweep_on_dask(tmp_path):
    """Two workers, one of which is killed: the same bytes as on this machine's cores."""
    distributed = pytest.importorskip("distributed")
    file = tmp_path / "sweep.toml"
    file.write_text(SWEEP)
    whole = run_sweep(read_sweep(file), tmp_path / "whole.parquet").read_bytes()
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, local_directory=str(tmp_path)
    ) as cluster:
        killed = []

        def kill_one(done, total):
            if done >= 2 and not killed:
                process = next(iter(cluster.workers.values())).process
                killed.append(process.pid)
                os.kill(process.pid, signal.SIGKILL)

        out = run_sweep(read_sweep(file), tmp_path / "dask.parquet", dask=cluster.scheduler_address, progress=kill_one)
        assert killed
    assert out.read_bytes() == whole


def test_bad_sweeps(gpve, tmp_path):
    """Unknown keys, wrong types, an address that nobody answers: one sentence, exit code 2."""
    file = tmp_path / "sweep.toml"
    for text, words in (
        (SWEEP + "polices = 3\n", "line 5, column polices: unknown key"),
        ("policies = ['fgd']\n", "column traces: is missing"),
        (SWEEP.replace("seeds = 4", "seeds = -1"), "line 3, column seeds"),
        (SWEEP.replace("false", "'no'"), "true or false"),
        (SWEEP.replace('"random"', '"randm"'), "unknown policy 'randm'"),
        ("traces = [", "is not TOML"),
    ):
        file.write_text(text)
        told = gpve("sweep", file, "--out", tmp_path / "o.parquet")
        assert told.code == 2
        assert words in told.err
        assert told.err.count("\n") == 1
    file.write_text(SWEEP)
    told = gpve("sweep", file, "--out", tmp_path / "o.parquet", "--dask", "tcp://127.0.0.1:9")
    assert told.code == 2
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in told.err
    assert len(cells_of(read_sweep(file))) == 12
