"""gpve consolidate: a plan within its budget, and bad input in one sentence."""

import json


def test_plan(gpve, tmp_path):
    """Worst-fit spreads guests: moves within the budget empty nodes, and never more than they say."""
    out = tmp_path / "run"
    assert gpve("replay", "generated/azure-like", "--policy", "worst-fit", "--no-plots", "--out", out).code == 0
    told = gpve("consolidate", out, "--at", "60000", "--budget", "8", "--json")
    assert told.code == 0, told.err
    plan = json.loads(told.out)
    assert 0 < len(plan["moves"]) <= 8
    assert plan["active_before"] - plan["active_after"] == len(plan["emptied"]) > 0
    assert {m["from"] for m in plan["moves"]} == set(plan["emptied"])
    assert not {m["to"] for m in plan["moves"]} & set(plan["emptied"])
    assert "active nodes" in gpve("consolidate", out, "--at", "60000", "--budget", "2").out
    for arguments, words in (
        ((out, "--budget", "0"), "at least 1 migration"),
        ((out, "--budget", "3", "--at", "-5"), "nothing has arrived"),
        ((tmp_path, "--budget", "3"), "no run.json"),
    ):
        told = gpve("consolidate", *arguments)
        assert told.code == 2
        assert words in told.err
