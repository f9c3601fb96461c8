"""One run told by names and paths: what the command line, run.json, comparisons and sweeps share."""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpve.model.columns import Nodes
from gpve.model.errors import InputError
from gpve.scheduler.fragmentation import Typical, typical_requests
from gpve.scheduler.policy import Policy
from gpve_sim.catalogue import load, load_nodes
from gpve_sim.driver import Progress, Replayed, Settings, replay_trace
from gpve_sim.orders import arrive_in_order, order_nodes, read_names
from gpve_sim.policies import OR_TOOLS, Batching, find_decider
from gpve_sim.trace import Trace

NO_MOMENT = (
    f"the policy {OR_TOOLS} decides whole batches, each guest together with the others: there is no moment at which "
    "the nodes answered for one"
)


@dataclass(frozen=True)
class Experiment:
    """A trace, a policy, a cluster, and how to replay."""

    trace: str
    policy: str = "best-fit"
    nodes: str | None = None
    """Name or path of a cluster; None: the trace's own."""
    reader: str | None = None
    mapping: str | None = None
    """Columns of a user's own CSV; see docs/how-to/own-trace.md."""
    departures: bool | None = None
    """None: as the trace has it, and without if ``arrivals`` is given."""
    queue: str = "drop"
    arrivals: str | None = None
    node_order: str | None = None
    seed: int = 0
    batch_window: float | None = None
    """Seconds of a batch, and arrivals of one: for the policy ``or-tools`` alone (`gpve_sim.batched`)."""
    batch_size: int | None = None

    def arguments(self) -> dict[str, Any]:
        """As run.json keeps it, so that the run can be repeated."""
        return asdict(self)


def inputs(experiment: Experiment) -> tuple[Trace, Nodes, Trace]:
    """(trace to replay, cluster, trace as it was read)."""
    chosen = None if experiment.nodes is None else load_nodes(experiment.nodes)
    original = load(
        experiment.trace,
        reader=experiment.reader,
        mapping=experiment.mapping,
        seed=experiment.seed,
        nodes=chosen,
    )
    nodes = original.nodes
    trace = original
    sources = dict(original.sources)
    if experiment.arrivals is not None:
        file = Path(experiment.arrivals)
        trace = arrive_in_order(original, read_names(file), file)
        sources[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    if experiment.node_order is not None:
        file = Path(experiment.node_order)
        nodes = order_nodes(nodes, read_names(file), file)
        sources[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return replace(trace, sources=sources), nodes, original


def run(experiment: Experiment, progress: Progress | None = None, limit: int = -1) -> Replayed:
    """Replay it; ``limit`` stops before that arrival."""
    decider = find_decider(experiment.policy)
    if isinstance(decider, Batching):
        if limit >= 0:
            raise InputError(NO_MOMENT)
        decider = Batching(experiment.batch_window, experiment.batch_size)
    elif experiment.batch_window is not None or experiment.batch_size is not None:
        raise InputError(f"batches are decided by the policy {OR_TOOLS} alone; {experiment.policy} decides one by one")
    trace, nodes, original = inputs(experiment)
    departures = experiment.departures
    if departures is None:
        departures = trace.departures
    settings = Settings(queue=experiment.queue, departures=departures, seed=experiment.seed, limit=limit)
    typical = typical_requests(original.guests, nodes.gpu_model_names)
    return replay_under(trace, decider, nodes=nodes, settings=settings, typical=typical, progress=progress)


def replay_under(
    trace: Trace,
    decider: Policy | Batching,
    *,
    nodes: Nodes,
    settings: Settings,
    typical: Typical,
    progress: Progress | None = None,
) -> Replayed:
    """Replay ``trace`` over ``nodes``, decided guest by guest or in batches."""
    if isinstance(decider, Batching):
        from gpve_sim.batched import replay_batched  # and with it the optimizer

        return replay_batched(
            trace, nodes=nodes, settings=settings, batching=decider, typical=typical, progress=progress
        )[0]
    return replay_trace(trace, decider, nodes=nodes, settings=settings, typical=typical, progress=progress)
