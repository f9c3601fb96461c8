"""The world in which a trace is played: its flows, its nodes, and one engine that nobody disturbs."""

from dataclasses import replace

import simpy

from gpve.model.columns import FOREVER, Guests, Nodes
from gpve.tasks.events import encode
from gpve.tasks.flow import Flow, Flows, Step
from gpve.tasks.flows import FLOWS
from gpve.tasks.ledger import Tx, Work
from gpve.tasks.worker import Rules
from gpve_sim.world.engine import World
from gpve_sim.world.faults import Faults
from gpve_sim.world.nodes import SimNodes
from gpve_sim.world.profile import NO_TIME, Profile
from gpve_sim.world.store import MemoryStore
from gpve_sim.world.trace_placer import TracePlacer

CALM = Rules(lease_s=1e9, sweep_s=1e9, most=1 << 30, keep_s=1e18, asks_again=False)
"""One engine that nobody disturbs: nothing has to be looked for, and the queue has its rounds (`TraceQueue`)."""


def flows_of(queue: str) -> Flows:
    """The flows of production, but that guests are created as the queue mode says."""
    change = _without_waiting if queue == "drop" else _without_deadline
    return Flows([change(flow) if flow.name.endswith("_create") else flow for flow in FLOWS])


def _without_waiting(flow: Flow) -> Flow:
    """Its placement fails instead of waiting."""
    steps: list[Step] = [replace(step, waits=False) for step in flow.steps]
    return replace(flow, steps=steps)


def _without_deadline(flow: Flow) -> Flow:
    """It does not give up after a day: how long a guest waits is for the trace to say."""
    return replace(flow, deadline_s=FOREVER)


def world_of(
    env: simpy.Environment, guests: Guests, nodes: Nodes, placer: TracePlacer, profile: Profile, queue: str
) -> World:
    """Store, nodes and flows; the engine is not started."""
    store = MemoryStore(lambda: env.now, watched=False)
    sim_nodes = SimNodes(env, list(nodes.names), Faults(), delay_s=0.0 if profile == NO_TIME else 0.001)
    sim_nodes.work_of = lambda op: profile.work_s(op, sim_nodes.at_once(op) if op.verb == "vm.transfer" else 1)
    fill(store, guests, nodes, placer)
    store.released = placer.given_back
    return World(env, store, sim_nodes, lambda: placer, flows_of(queue), rules=CALM)


def fill(store: MemoryStore, guests: Guests, nodes: Nodes, placer: TracePlacer) -> None:
    """Write the nodes into the store."""
    records = placer.state.nodes
    # What a trace has ask for nothing asks for one of it here (see `arrive`): the nodes have that much more.
    more = int((guests.cpu_milli <= 0).sum()), int((guests.memory_mib <= 0).sum())

    def write(tx: Tx) -> None:
        for n, name in enumerate(nodes.names):
            gpus = [1000] * int(nodes.gpu_count[n])
            model = nodes.gpu_model_names[nodes.gpu_model[n]] if nodes.gpu_model[n] >= 0 else ""
            cpu, memory = int(records["cpu"][n]) + more[0], int(records["mem"][n]) + more[1]
            amounts = {"cpu_milli": cpu, "memory_mib": memory}
            row = {
                "name": name,
                "open": bool(records["open"][n]),
                "alive": True,
                "gpu_model": model,
                "labels": "{}",
                "taints": "[]",
            }
            row |= {"used_cpu_milli": 0, "used_memory_mib": 0, "used_gpu_milli": encode([0] * len(gpus))}
            tx.put("node", {**row, **amounts, "gpus": encode(gpus), "version": 0})

    for error in store.transact([Work(write)]):
        if error is not None:
            raise error
