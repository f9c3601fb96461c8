"""Consolidation: every step fits, never worse than emptying the least loaded first, optimal against brute
force.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpve.scheduler.optimize.check import start_order
from gpve.scheduler.optimize.consolidate import Plan, blocked, consolidate
from gpve.scheduler.optimize.problem import Assignment, Batch, Groups
from tests.scheduler.optimize_cases import Room, batches, brute_force, make_batch

many = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def start(batch: Batch, seed: int) -> tuple[Batch, Assignment]:
    """Guests on nodes drawn among those they fit on, those of limited groups first; and the room with them
    running.
    """
    # Roomier than the batches of placement, or hardly any node could be emptied.
    batch = replace(batch, free_cpu=batch.free_cpu + 6, free_mem=batch.free_mem + 8)
    rng = np.random.default_rng(seed)
    room = Room(batch)
    placed = []
    for r in start_order(batch):
        c = int(batch.request_class[r])
        options = [n for n in range(len(batch.free_cpu)) if room.fits(c, n)]
        if options:
            n = int(rng.choice(options))
            placed.append((r, n, room.choices(c, n)[0]))
            room.take(c, n, placed[-1][2])
    running = Assignment(np.array([n for _, n, _ in placed], np.int64), tuple(d for _, _, d in placed))
    return replace(
        batch,
        free_cpu=np.array(room.cpu),
        free_mem=np.array(room.mem),
        free_gpu=np.array(room.gpu, np.int32),
        empty=~np.isin(np.arange(len(room.cpu)), running.node),
        request_class=batch.request_class[[r for r, _, _ in placed]],
        groups=batch.groups and replace(batch.groups, members=np.array(room.members)),
    ), running


def holds(batch: Batch, running: Assignment, plan: Plan, budget: int) -> None:
    assert blocked(batch, running, plan.moves) is None
    assert len(plan.moves) <= budget
    node = running.node.copy()
    for move in plan.moves:
        assert node[move.guest] == move.source
        node[move.guest] = move.target
    assert plan.active_before == len(np.unique(running.node))
    assert plan.active_after == len(np.unique(node))
    assert set(plan.emptied) == set(running.node.tolist()) - set(node.tolist())
    assert plan.memory_moved_mib == sum(batch.mem[batch.request_class[m.guest]] for m in plan.moves)


def best_by_hand(batch: Batch, running: Assignment, budget: int) -> tuple[int, int]:
    """All sets of donors; whether their guests fit elsewhere is asked of brute force."""
    active = sorted(set(running.node.tolist()))
    best = (0, 0)
    for size in range(1, len(active)):
        for donors in combinations(active, size):
            leaving = np.flatnonzero(np.isin(running.node, donors))
            if len(leaving) > budget:
                continue
            closed = np.isin(np.arange(len(batch.free_cpu)), donors) | batch.empty
            rest = replace(
                batch,
                free_cpu=np.where(closed, -1, batch.free_cpu),
                request_class=batch.request_class[leaving],
                weight=np.ones_like(batch.weight),
            )
            if brute_force(rest, "guests")[0] == len(leaving):
                best = max(best, (size, -int(batch.mem[batch.request_class[leaving]].sum())))
    return best


@many
@given(st.one_of(batches(gpus=False, groups=True), batches(gpus=True)), st.integers(0, 99), st.integers(1, 6))
def test_plans_agree_with_brute_force(batch: Batch, seed: int, budget: int) -> None:
    now, running = start(batch, seed)
    plan = consolidate(now, running, budget)
    holds(now, running, plan, budget)
    assert plan.status == "optimal"
    assert (len(plan.emptied), -plan.memory_moved_mib) == best_by_hand(now, running, budget)


def spread(seed: int, nodes: int) -> tuple[Batch, Assignment]:
    """Nodes with a few guests each, at random."""
    rng = np.random.default_rng(seed)
    classes = [(s, 4 * s, 0, 0) for s in (1, 2, 3, 4, 6, 8)]
    where = rng.integers(0, nodes, 4 * nodes)
    requests = rng.integers(0, len(classes), len(where))
    cpu = np.full(nodes, 64)
    np.subtract.at(cpu, where, np.array([c[0] for c in classes])[requests])
    keep = cpu[where] >= 0
    batch = make_batch([(int(c), 4 * int(c), []) for c in cpu], classes, requests[keep].tolist())
    running = Assignment(where[keep], ((),) * int(keep.sum()))
    return replace(batch, empty=~np.isin(np.arange(nodes), running.node)), running


def test_never_worse_than_the_least_loaded_first() -> None:
    for seed in range(3):
        batch, running = spread(seed, 30)
        heuristic = consolidate(batch, running, 25, deterministic_limit=1e-9)
        plan = consolidate(batch, running, 25, deterministic_limit=0.5)
        for p in (heuristic, plan):
            holds(batch, running, p, 25)
        assert heuristic.status in ("heuristic", "feasible")
        assert (len(plan.emptied), -plan.memory_moved_mib) >= (
            len(heuristic.emptied),
            -heuristic.memory_moved_mib,
        )
        again = consolidate(batch, running, 25, deterministic_limit=0.5)
        assert again.moves == plan.moves


def test_guests_that_must_stay_keep_their_node() -> None:
    batch = make_batch([(8, 8, []), (8, 8, [])], [(2, 2, 0, 0)], [0, 0])
    running = Assignment(np.array([0, 1]), ((), ()))
    plan = consolidate(batch, running, 5, movable=np.array([False, True]))
    assert plan.emptied == (1,)
    assert plan.levels[0].bound == 1
    assert consolidate(batch, running, 5, movable=np.array([False, False])).moves == ()


def test_a_limit_of_the_group_keeps_guests_apart() -> None:
    groups = Groups(np.array([0]), np.array([1]), np.array([[1, 1]]))
    batch = make_batch([(8, 8, []), (8, 8, [])], [(2, 2, 0, 0)], [0, 0], groups=groups)
    assert consolidate(batch, Assignment(np.array([0, 1]), ((), ())), 5).moves == ()
