"""Logs of every version that a store may still hold, replayed for ever (guarantees.md, promise 18)."""

import json
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from gpve.tasks.events import from_rows
from gpve.tasks.flow import Body, without_prose
from gpve.tasks.flows import FLOWS
from gpve.tasks.replay import divergences
from gpve.tasks.state import fold
from tests.tasks.record_logs import LOGS

FILES = sorted(LOGS.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_old_logs_replay(path: Path):
    """The version is still known, its table is the one that was recorded, and every decision is taken again."""
    told = json.loads(path.read_text())
    flow = FLOWS.version(told["flow"], told["version"])
    assert flow is not None, "tasks of this version may be in somebody's store: keep it"
    table = {**told["table"], "body": without_prose(told["table"]["body"])}
    assert json.loads(json.dumps(flow.table(), default=list)) == table, "a new table needs a new version"
    assert told["logs"]
    for log in told["logs"]:
        events = from_rows(log["id"], log["events"])
        assert str(fold(events).status) == log["status"]
        body = flow.body.model_validate_json(log["body"], strict=False)
        assert list(divergences(flow, log["id"], body, events)) == []


def test_every_flow_has_its_logs():
    recorded = {path.stem for path in FILES}
    for name in FLOWS.names:
        assert f"{name}-{FLOWS.newest(name).version}" in recorded, "run python -m tests.tasks.record_logs"


def test_a_log_that_was_altered_does_not_replay():
    """The check can fail: swap two decisions, or end before the last step."""
    told = json.loads((LOGS / "vm_create-1.json").read_text())
    flow = FLOWS.newest("vm_create")
    log = told["logs"][0]
    body = flow.body.model_validate_json(log["body"], strict=False)
    events = from_rows(log["id"], log["events"])
    started = [at for at, event in enumerate(events) if event.kind == "started"]
    swapped = list(events)
    swapped[started[0]], swapped[started[-1]] = events[started[-1]], events[started[0]]
    shortened = [*events[: started[-1]], events[-1]]
    for altered in (swapped, shortened):
        assert list(divergences(flow, log["id"], body, altered))


def test_words_are_no_other_version():
    class Plain(Body):
        title: str = "x"
        size: int = 1

    class Told(Body):
        """Explained at length."""

        title: Annotated[str, Field(description="What it is called.", examples=["x"])] = "x"
        size: Annotated[int, Field(description="How large it is.")] = 1

    class Other(Body):
        size: int = 1

    plain, told, other = (without_prose(body.model_json_schema()) for body in (Plain, Told, Other))
    assert plain == told != other
    assert set(plain["properties"]) == {"title", "size"}
