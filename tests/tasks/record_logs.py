"""Record logs of every flow's present version: ``python -m tests.tasks.record_logs``.

A file is written once for a version and stays as long as tasks of that version may be in somebody's store. A flow whose
table of steps changes gets a new version, and a new file beside the old one.
"""

import json
from pathlib import Path

from gpve_sim.world.engine import World
from gpve_sim.world.faults import Fault, Injection
from gpve_sim.world.trial import run_trial

from gpve.tasks.flow import Flow
from gpve.tasks.flows import FLOWS
from tests.tasks.worlds import placer

LOGS = Path(__file__).parent / "logs"
KEPT = ("seq", "kind", "step", "at", "epoch", "data")


def logs_of(flow: Flow) -> list[dict[str, object]]:
    """A run that is done, one for each step that is refused, and one whose engine dies."""
    plans: list[list[Injection]] = [[]]
    for step in flow.steps:
        plans.append([Injection(step.name, "do", Fault.REFUSE)])
    if flow.steps:
        plans.append([Injection(flow.steps[0].name, "do", Fault.CRASH_AFTER_RECORD)])
    logs = []
    for plan in plans:
        worlds: list[World] = []

        def kept(*arguments, worlds=worlds, **options):
            worlds.append(World(*arguments, **options))
            return worlds[0]

        trial = run_trial(flow.name, plan, placer, 7, make_world=kept)
        if plan and not trial.fired:
            continue
        row = worlds[0].store.rows("task")[0]
        events = [{name: event[name] for name in KEPT} for event in trial.log if event["task"] == row["id"]]
        told = {name: row[name] for name in ("id", "target", "body", "status")}
        logs.append({**told, "events": events})
    return logs


def main() -> None:
    """Write what is missing."""
    LOGS.mkdir(exist_ok=True)
    for name in FLOWS.names:
        flow = FLOWS.newest(name)
        assert flow is not None
        path = LOGS / f"{name}-{flow.version}.json"
        if not path.exists():
            told = {"flow": name, "version": flow.version, "table": flow.table(), "logs": logs_of(flow)}
            path.write_text(json.dumps(told, separators=(",", ":"), default=list) + "\n")
            print(f"recorded {path.name}: {len(told['logs'])} logs")


if __name__ == "__main__":
    main()
