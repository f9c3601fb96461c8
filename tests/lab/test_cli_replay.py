"""The command line: what it leaves, that it is repeatable, and what it says to bad input."""

import csv
import gzip
import json
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

GUESTS = """id,kind,arrival_s,departure_s,cpu_milli,memory_mib,gpu_count,gpu_milli,gpu_models
a,vm,0,100,4000,4096,0,0,
b,agent,1,50,1000,1024,1,500,
c,agent,2,,1000,1024,1,600,A10|T4
d,vm,3,90,64000,1024,0,0,
e,vm,60,70,6000,4096,0,0,
"""
NODES = """name,cpu_milli,memory_mib,gpu_count,gpu_model
n1,8000,8192,1,A10
n2,8000,8192,1,T4
"""


@pytest.fixture
def files(tmp_path):
    guests, nodes = tmp_path / "guests.csv", tmp_path / "nodes.csv"
    guests.write_text(GUESTS)
    nodes.write_text(NODES)
    return guests, nodes


def test_files(gpve, files, tmp_path):
    """The example by hand: best-fit of four that fit, one that is larger than any node."""
    out = tmp_path / "out"
    told = gpve("replay", files[0], "--nodes", files[1], "--policy", "best-fit", "--out", out, "--json")
    assert told.code == 0, told.err
    summary = json.loads((out / "summary.json").read_text())
    assert json.loads(told.out) == summary | {"peak_rss_mib": json.loads(told.out)["peak_rss_mib"]}
    assert (summary["arrivals"], summary["placed"], summary["failed"], summary["waiting"]) == (5, 4, 1, 0)
    assert summary["failed_by_reason"] == {"too_large": 1}
    rows = list(csv.DictReader((out / "placements.csv").open()))
    assert [r["guest"] for r in rows] == ["a", "b", "c", "d", "e"]
    assert rows[3] == {"guest": "d", "node": "", "devices": ""}
    # a went to n1; b packs beside it; c asks for 600 of a device and finds it on n2 only; e packs onto what is fuller.
    assert [r["node"] for r in rows] == ["n1", "n1", "n2", "", "n2"]
    assert [r["devices"] for r in rows] == ["", "0", "0", "", ""]
    assert summary["used_gpu_milli"] == 600
    assert summary["used_gpu_milli_peak"] == 1100
    names = {p.name for p in out.iterdir()}
    assert names == {
        "placements.csv", "summary.json", "run.json", "timeline.parquet", "events.parquet",
        "allocation.png", "nodes.png", "fragmentation.png",
    }  # fmt: skip
    assert pq.read_table(out / "timeline.parquet").num_rows > 100
    failed = pq.read_table(out / "events.parquet").to_pylist()
    assert failed == [{"time_s": 3.0, "guest": "d", "event": "failed", "node": None, "reason": "too_large"}]
    for name in ("allocation.png", "nodes.png", "fragmentation.png"):
        assert (out / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("policy", ["random", "fgd"])
def test_same_seed_same_bytes(gpve, policy, tmp_path):
    """Twice the same command: the same placements, byte for byte; another seed: others."""
    seen = []
    for i, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(i)
        command = ("replay", "generated/openb-like", "--policy", policy, "--seed", seed, "--out", out, "--no-plots")
        assert gpve(*command).code == 0
        seen.append((out / "placements.csv").read_bytes())
    assert seen[0] == seen[1] != seen[2]


def test_arrivals_and_node_order(gpve, files, tmp_path):
    """Copies by name, in the order given; the first node of the order wins ties."""
    arrivals, order = tmp_path / "arrivals.txt.gz", tmp_path / "order.txt"
    arrivals.write_bytes(gzip.compress(b"b\na\nb-tuned-1\nb-tuned-2\n"))
    order.write_text("n2\nn1\n")
    out = tmp_path / "out"
    command = ("replay", files[0], "--nodes", files[1], "--policy", "first-fit", "--out", out, "--no-plots")
    assert gpve(*command, "--arrivals", arrivals, "--node-order", order).code == 0
    rows = list(csv.DictReader((out / "placements.csv").open()))
    assert [(r["guest"], r["node"]) for r in rows] == [
        ("b", "n2"),
        ("a", "n2"),
        ("b-tuned-1", "n2"),
        ("b-tuned-2", "n1"),
    ]
    kept = json.loads((out / "run.json").read_text())
    assert {"arrivals.txt.gz", "order.txt", "guests.csv"} <= set(kept["inputs_sha256"])


def test_explain(gpve, files, tmp_path):
    """Reasons counted, the nearest miss named, the place taken told."""
    out = tmp_path / "out"
    assert gpve("replay", files[0], "--nodes", files[1], "--out", out, "--no-plots").code == 0
    told = json.loads(gpve("explain", out, "d", "--json").out)
    assert told["node"] is None
    assert told["nodes_by_reason"] == {"larger than the whole node": 2}
    assert told["nearest_miss"]["sentence"] == "n2 lacks 57000 milli-CPU"
    told = json.loads(gpve("explain", out, "c", "--json").out)
    assert (told["node"], told["nodes_by_reason"]) == ("n2", {"too few GPUs with enough left": 1, "fits": 1})
    bad = gpve("explain", out, "zz")
    assert bad.code == 2
    assert "has no guest 'zz'" in bad.err
    bad = gpve("explain", tmp_path, "a")
    assert bad.code == 2
    assert "no run.json" in bad.err


BAD = {
    "unknown column": (GUESTS.replace("kind", "kinds", 1), "line 1"),
    "negative": (GUESTS.replace("a,vm,0,100,4000", "a,vm,0,100,-4000"), "line 2"),
    "not a number": (GUESTS.replace("b,agent,1", "b,agent,soon"), "line 3"),
    "departure first": (GUESTS.replace("a,vm,0,100", "a,vm,200,100"), "line 2"),
    "twice": (GUESTS + "a,vm,70,80,1000,1024,0,0,\n", "line 7"),
    "unknown model": (GUESTS.replace("A10|T4", "A10|T5"), "'T5'"),
    "empty": (GUESTS.splitlines()[0] + "\n", "guests"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_traces(gpve, files, tmp_path, case):
    """One sentence with the place, exit code 2, nothing left."""
    text, place = BAD[case]
    files[0].write_text(text)
    out = tmp_path / "out"
    told = gpve("replay", files[0], "--nodes", files[1], "--out", out)
    assert told.code == 2
    assert told.err.startswith("gpve: ")
    assert told.err.count("\n") == 1
    assert place in told.err
    assert not out.exists() or not any(out.iterdir())


def test_other_bad_input(gpve, files, tmp_path):
    """Truncated gz, unknown names, a policy that is none, a directory that cannot be written."""
    broken = tmp_path / "guests.csv.gz"
    broken.write_bytes(gzip.compress(GUESTS.encode() * 50)[:-20])
    (tmp_path / "file").write_text("")
    for arguments, words in (
        ((broken,), "guests.csv.gz"),
        (("no-such-trace",), "no-such-trace"),
        ((files[0], "--policy", "bestfit"), "best-fit"),
        ((files[0], "--queue", "wait-a-bit"), "backfill"),
        ((files[0], "--seed", "-1"), "a seed is"),
        (("generated/azure-like", "--seed", "-1"), "a seed is"),
        (("generated/azure-like", "--reader", "openb"), "is generated"),
        ((files[0], "--out", tmp_path / "file" / "out"), "cannot write"),
        ((files[0], "--nodes", tmp_path / "none.csv"), "none.csv"),
        ((files[0], "--arrivals", files[1]), "line 1"),
    ):
        told = gpve("replay", *arguments)
        assert told.code == 2, arguments
        assert words in told.err
        assert told.err.count("\n") == 1


def test_directory_that_cannot_be_made(gpve, files):
    """Not even root can make a directory there."""
    told = gpve("replay", files[0], "--out", "/proc/gpve-out")
    assert told.code == 2
    assert "/proc/gpve-out: cannot write" in told.err


def test_interrupted_leaves_nothing(tmp_path):
    """A replay that is interrupted ends by itself and leaves no half-written file."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gpve", "replay", "azure-vm-2017/dev" if _has_azure() else "generated/azure-like"]
    process = subprocess.Popen([*command, "--policy", "random", "--out", str(out)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not out.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    # Ended by its own hand, by the signal itself (inside a reader in C++), or done before it came.
    assert process.returncode in (130, -signal.SIGINT, 0), err
    left = sorted(p.name for p in out.iterdir())
    assert not [name for name in left if name.endswith(".tmp")]
    if process.returncode:
        assert left == []


def _has_azure() -> bool:
    from gpve_sim.catalogue import available

    return "azure-vm-2017/dev" in available()


def test_help_has_examples(gpve):
    """Every command explains itself with an example."""
    for command in ("replay", "lab", "compare", "explain", "size", "sweep", "doctor", "traces list", "traces show",
                    "traces pull", "traces generate", "traces convert", "nodes show", "nodes generate"):  # fmt: skip
        told = gpve(*command.split(), "--help")
        assert told.code == 0
        assert "Example" in told.out, command


def test_doctor(gpve):
    """The doctor finds what this test runs on."""
    findings = {f["check"]: f for f in json.loads(gpve("doctor", "--json").out)}
    assert findings["numba"]["ok"]
    assert findings["Python"]["found"].startswith("3.")


def test_size(gpve):
    """The answer suffices, one node less does not, and no answer is below the bound."""
    found = json.loads(gpve("size", "generated/azure-like", "--node", "64c,512G", "--json").out)
    assert found["nodes"] >= found["lower_bound"] > 0
    assert found["failed_with_one_less"] > 0
    told = gpve("size", "generated/azure-like", "--node", "2c,4G")
    assert told.code == 2
    assert "no number of these nodes takes guest" in told.err
