"""Same seed, same log, whichever Python runs it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import parquet

REPO = Path(__file__).parents[2]
RUN = "from gpve.cli.main import main; main()"
NODES = "name,cpu_milli,memory_mib,gpu_count,gpu_model\nn0,8000,16384,2,A10\nn1,4000,8192,1,A10\n"
LIFE = ["--fidelity", "lifecycle", "--node-mtbf", "40", "--node-mttr", "10", "--agent-mtbf", "30", "--seed", "5"]


def other_python() -> str | None:
    """An interpreter of another version than ours that GPVE runs on."""
    for minor in range(11, 20):
        if minor == sys.version_info.minor:
            continue
        name = f"python3.{minor}"
        kept = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{name}"))
        for found in filter(None, [shutil.which(name), *map(str, kept)]):
            probe = subprocess.run([found, "-c", "import venv, ensurepip"], capture_output=True, check=False)
            if probe.returncode == 0:
                return found
    return None


def said_by(python: str, directory: Path) -> tuple[list[str], str]:
    """Digests of chaos's logs, seed by seed, and one of a replay's whole log, as this interpreter makes them."""
    env = {**os.environ, "PYTHONHASHSEED": "random"}
    gpve = [python, "-c", RUN]
    chaos = subprocess.run(
        [*gpve, "chaos", "--seeds", "40", "--json", "--out", str(directory / "chaos")],
        cwd=directory,
        env=env,
        capture_output=True,
        check=True,
    )
    trace, nodes, out = directory / "trace.csv", directory / "nodes.csv", directory / "out"
    kinds = ("vm", "agent", "vcluster")
    rows = [f"g{i},{kinds[i % 3]},{i},{i + 25},{500 * (1 + i % 3)},1024,0,0" for i in range(80)]
    header = "id,kind,arrival_s,departure_s,cpu_milli,memory_mib,gpu_count,gpu_milli"
    trace.write_text("\n".join([header, *rows]) + "\n")
    nodes.write_text(NODES)
    replay = ["replay", str(trace), "--nodes", str(nodes), "--policy", "best-fit", "--no-plots", "--out", str(out)]
    subprocess.run([*gpve, *replay, *LIFE], cwd=directory, env=env, capture_output=True, check=True)
    log = parquet.read_table(out / "log.parquet").to_pylist()
    assert len(log) > 500
    return [row["log"] for row in json.loads(chaos.stdout)], hashlib.sha256(json.dumps(log).encode()).hexdigest()


@pytest.mark.full
def test_same_seed_same_log_on_two_versions_of_python(tmp_path):
    found = other_python()
    if found is None:
        pytest.skip("there is no second Python of version 3.11 or newer here")
    subprocess.run([found, "-m", "venv", tmp_path / "venv"], check=True)
    theirs = str(tmp_path / "venv/bin/python")
    # A copy: an editable installation of the same tree is ours already, and building writes into it.
    tree = tmp_path / "tree"
    shutil.copytree(
        REPO, tree, ignore=shutil.ignore_patterns(".git", ".venv", "target", "out", "__pycache__", ".*_cache")
    )
    installed = [theirs, "-m", "pip", "install", "--quiet", "-c", str(tree / "constraints.txt"), str(tree)]
    subprocess.run(installed, check=True)
    version = subprocess.run([theirs, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True)
    assert int(version.stdout) != sys.version_info.minor
    mine, others = tmp_path / "mine", tmp_path / "others"
    mine.mkdir()
    others.mkdir()
    assert said_by(sys.executable, mine) == said_by(theirs, others)
