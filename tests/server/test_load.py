"""Many nodes and many guests while servers are killed with -9 and nodes cut off: nothing is lost, nothing is twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.mariadb import MariaDb

BENCH = Path(__file__).parents[2] / "bench" / "server.py"


@pytest.mark.parametrize(
    ("nodes", "guests", "kind"),
    [
        (40, 400, "mariadb"),
        pytest.param(1000, 10_000, "sqlite", marks=pytest.mark.full),
        pytest.param(1000, 10_000, "mariadb", marks=pytest.mark.full),
    ],
)
@pytest.mark.xdist_group("mariadb")
def test_nothing_is_lost(nodes: int, guests: int, kind: str, request: pytest.FixtureRequest) -> None:
    command = [sys.executable, str(BENCH), "--nodes", str(nodes), "--servers", "2", "--faults", str(guests)]
    if kind == "mariadb":
        mariadb: MariaDb = request.getfixturevalue("mariadb")
        command += ["--database", mariadb.database(f"load_{nodes}")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])["faults"]
    assert told["kills"] + told["cuts"] > 0
    assert told["guests_there"] + told["tasks"].get("undone", 0) >= guests - sum(told["not_answered"].values())
    assert set(told["tasks"]) <= {"done", "undone"}, told
    assert (told["twice"], told["findings"]) == ([], []), told
