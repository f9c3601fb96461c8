"""Explain a guest of a finished run: repeat the run up to its arrival, then ask every node."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from gpve.model.errors import InputError
from gpve.scheduler.explain import NearestMiss, explain
from gpve_sim.experiment import NO_MOMENT, Experiment, inputs, run
from gpve_sim.policies import OR_TOOLS
from gpve_sim.results import arrival_order, device_text
from gpve_sim.workload import sorted_or_order


def read_experiment(directory: Path) -> Experiment:
    """The run that left ``directory``; `InputError` if none did."""
    path = directory / "run.json"
    try:
        return Experiment(**json.loads(path.read_text())["arguments"])
    except FileNotFoundError:
        raise InputError("not the directory of a run: it has no run.json", file=directory) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot be read as the record of a run: {error}", file=path) from None


def explain_guest(directory: Path, guest: str, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """What every node answered when ``guest`` arrived, as a dictionary ready for JSON.

    Raises `InputError` for a guest that the run does not have, and for a run that decided batches.
    """
    experiment = read_experiment(directory)
    if experiment.policy == OR_TOOLS:
        raise InputError(NO_MOMENT)
    trace, nodes, _ = inputs(experiment)
    row = int(pc.index(trace.guests.ids, guest).as_py())
    if row < 0:
        raise InputError(f"the trace {trace.name!r} has no guest {guest!r}", column="GUEST")
    order = sorted_or_order(trace.guests.arrival_s)
    place = row if not len(order) else int((order == row).argmax())
    replayed = run(experiment, progress, limit=place)
    requests = replayed.requests
    c = int(requests.of_guest[row])
    rule = int(requests.rule_of_guest[row]) if len(requests.rule_of_guest) else -1
    found = explain(replayed.state, replayed.policy, c, rule)
    then = run(experiment, progress, limit=place + 1)
    node = int(then.run.node[row])
    if node >= 0:
        answer = f"got {nodes.names[node]}"
        if len(then.run.devices) and then.run.devices[row]:
            answer += f", devices {device_text(int(then.run.devices[row]))}"
    else:
        answer = "fitted nowhere"
    cls = requests.classes[c]
    request = f"{cls['cpu']} milli-CPU, {cls['mem']} MiB"
    if cls["gpu_count"]:
        request += f", {cls['gpu_count']} x {cls['gpu_milli']} milli-GPU"
    assert int(arrival_order(replayed)[place]) == row
    return {
        "guest": guest,
        "policy": experiment.policy,
        "time_s": float(trace.guests.arrival_s[row]),
        "request": request,
        "answer": answer,
        "node": nodes.names[node] if node >= 0 else None,
        "nodes_by_reason": {
            reason.sentence: count for reason, count in sorted(found.counts.items(), key=lambda item: -item[1])
        },
        "best": [{"node": nodes.names[n], "score": score} for n, score in found.best],
        "nearest_miss": None if found.nearest is None else _nearest(found.nearest, nodes.names),
    }


def _nearest(miss: NearestMiss, names: tuple[str, ...]) -> dict[str, Any]:
    lacks = []
    if miss.cpu_milli:
        lacks.append(f"{miss.cpu_milli} milli-CPU")
    if miss.memory_mib:
        lacks.append(f"{miss.memory_mib} MiB")
    if miss.gpus:
        lacks.append(f"{miss.gpus} GPU{'s' if miss.gpus > 1 else ''} with enough left")
    what = f"lacks {', '.join(lacks)}" if lacks else miss.reason.sentence
    return {
        "node": names[miss.node],
        "reason": miss.reason.name.lower(),
        "cpu_milli": miss.cpu_milli,
        "memory_mib": miss.memory_mib,
        "gpus": miss.gpus,
        "sentence": f"{names[miss.node]} {what}",
    }
