"""Simulated worlds for tests: nodes, an empty store, engines, and the tasks that a test wants."""

from collections.abc import Sequence
from typing import Any

import simpy
from gpve_sim.policies import load
from gpve_sim.world.engine import World
from gpve_sim.world.faults import Faults, Injection
from gpve_sim.world.nodes import SimNodes
from gpve_sim.world.store import MemoryStore
from gpve_sim.world.trial import node_row

from gpve.tasks.audit import audit
from gpve.tasks.flow import Flows
from gpve.tasks.ledger import Row, Work
from gpve.tasks.state import CLOSED, Status
from gpve.tasks.submit import request, submitting
from gpve.world.placement import SchedulerPlacer
from tests.tasks.small_flows import SMALL


def placer() -> SchedulerPlacer:
    """Best-fit."""
    return SchedulerPlacer(load("best-fit"))


def make_world(
    plan: Sequence[Injection] = (), flows: Flows = SMALL, nodes: Sequence[str] = ("a", "b"), **more: Any
) -> World:
    """A world with empty nodes and no engine yet."""
    env = simpy.Environment()
    faults = Faults(plan)
    store = MemoryStore(lambda: env.now)
    world = World(env, store, SimNodes(env, list(nodes), faults), placer, flows, faults, **more)
    for name in nodes:
        store.transact([Work(lambda tx, n=name: tx.put("node", node_row(n)))])
    return world


def submit(world: World, flow: str, body: dict[str, Any], **more: Any) -> Row:
    """Submit straight to the store, without a word to any engine."""
    (answer,) = world.store.transact([submitting(request(world.flows, flow, body, **more))])
    if isinstance(answer, Exception):
        raise answer
    row: Row = answer
    return row


def run(world: World, until: float = 20_000.0) -> list[str]:
    """Run until every task is closed or stuck, and what is on its way has arrived; what the audit finds then."""
    while world.env.now < until and not over(world):
        world.env.run(world.env.now + 10.0)
    world.stop()
    world.env.run()
    return [*world.findings, *audit(world.store.rows, world.flows)]


def over(world: World) -> bool:
    """Whether no task has anything left to do."""
    return all(row["status"] in (*CLOSED, Status.STUCK) or row["poison"] for row in world.store.rows("task"))


def statuses(world: World) -> list[str]:
    """By task, in order."""
    return [row["status"] for row in world.store.rows("task")]


def kinds(world: World, task: int) -> list[str]:
    """The log of a task in short: ``started one``, ``done one``, ..."""
    return [f"{row['kind']} {row['step']}".strip() for row in world.store.rows("event", task=task)]


def volumes(world: World) -> list[str]:
    """What is on the nodes."""
    return sorted(volume for node in world.nodes.by_name.values() for volume in node.hardware.volumes)
