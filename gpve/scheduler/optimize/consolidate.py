"""Empty as many nodes as a budget of migrations allows.

A plan picks donors, nodes whose guests all leave, and moves those guests onto other nodes in use (never onto
a donor, nor onto an empty node). That restriction makes plans executable: the nodes that receive only ever
receive, so their load at any step is at most their load at the end, and what fits at the end fits at each
step, in every order (where groups have limits: in ascending order of the limits, `problem.Groups`). What it
gives up: plans that first make room by moving guests between nodes that stay.

CP-SAT: y[n] donor, and the variables of `formulation` for what nodes receive, with every node by itself.
Receivers: x[n, c] <= fit (1 - y[n]). Conservation: for each class, received = sum over donors of its guests
there. Budget: guests of donors <= budget. Objective: most nodes emptied, then the least memory moved. The
heuristic (least loaded nodes first, best fit) is the hint, and the answer where CP-SAT has no better one.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpve.scheduler.optimize.bins import Bin, Fill, assignment_of, fills_of, make_bins
from gpve.scheduler.optimize.place import Level, solve_levels
from gpve.scheduler.optimize.problem import Assignment, Batch, Bools, Ints, node_classes

if TYPE_CHECKING:
    from gpve.scheduler.optimize.formulation import Formulation


@dataclass(frozen=True)
class Move:
    """One migration."""

    guest: int
    source: int
    target: int
    devices: tuple[int, ...]
    """On the target."""


@dataclass(frozen=True)
class Plan:
    """Moves in an order in which each fits when it is made, what they cost and what they reach."""

    moves: tuple[Move, ...]
    emptied: tuple[int, ...]
    """Nodes that run nothing afterwards, in node order."""
    memory_moved_mib: int
    active_before: int
    active_after: int
    status: Literal["optimal", "feasible", "heuristic"]
    """As in `place.Placement`; optimal among plans of this form with these candidates."""
    levels: tuple[Level, ...]
    """emptied (nodes, to be maximised) and memory (MiB moved, to be minimised)."""
    fuse_blown: bool
    deterministic_time: float
    wall_s: float


def consolidate(
    batch: Batch,
    running: Assignment,
    budget: int,
    *,
    movable: Bools | None = None,
    candidates: int = 100,
    deterministic_limit: float = 5.0,
    wall_limit_s: float = 120.0,
) -> Plan:
    """The best plan of at most ``budget`` migrations.

    ``batch.request_class`` are the guests that run, ``running`` where; its ``free_*`` columns and members of
    groups are those with them running, ``empty`` the nodes without guests. A node with a guest that is not
    ``movable`` (G,) is no donor. Donors are sought among the ``candidates`` nodes with fewest guests.
    """
    donors = _candidates(batch, running, budget, movable, candidates)
    chosen, hint = _least_loaded_first(batch, donors, budget)
    hint_worth = _worth(batch, donors, chosen)
    most = int(np.searchsorted(np.cumsum(sorted(len(g) for g in donors.values())), budget, side="right"))
    best = (most, 0)
    from gpve.scheduler.optimize.formulation import Formulation  # half a second to import

    leaving = [g for guests in donors.values() for g in guests]
    sub = _only(batch, leaving)
    bins = make_bins(sub, [k for k in node_classes(sub, apart=True) if not k.empty], spare_devices=False)
    formulation = _Donors(Formulation(sub, bins, "guests", False), batch, donors, budget)
    formulation.chosen = chosen
    moved = Assignment(np.array([hint.node[g] for g in leaving], np.int64), tuple(hint.devices[g] for g in leaving))
    formulation.hint(fills_of(sub, bins, moved))
    solved = solve_levels(formulation, hint_worth, best, deterministic_limit, wall_limit_s)

    moves, worth = _moves(batch, running, donors, chosen, hint), hint_worth
    if solved.answer is not None and (found_worth := _worth(batch, donors, formulation.chosen)) > hint_worth:
        found = _moves(
            batch, running, donors, formulation.chosen, _answer(batch, donors, bins, formulation, solved.answer)
        )
        if blocked(batch, running, found) is None:
            moves, worth, chosen = found, found_worth, formulation.chosen
    proven = tuple(solved.bounds) == worth
    in_use = int((~batch.empty).sum())
    return Plan(
        moves=moves,
        emptied=tuple(sorted(chosen)),
        memory_moved_mib=-worth[1],
        active_before=in_use,
        active_after=in_use - len(chosen),
        status="optimal" if proven else "heuristic" if solved.answer is None else "feasible",
        levels=tuple(
            Level(name, abs(value), None if bound is None else abs(bound))
            for name, value, bound in zip(("emptied", "memory"), worth, solved.bounds, strict=True)
        ),
        fuse_blown=solved.fuse_blown,
        deterministic_time=solved.deterministic_time,
        wall_s=solved.wall_s,
    )


def blocked(batch: Batch, running: Assignment, moves: tuple[Move, ...]) -> str | None:
    """None if each move fits at the time it is made (it needs room on its target before it frees its
    source).
    """
    cpu, mem, gpu = batch.free_cpu.copy(), batch.free_mem.copy(), batch.free_gpu.copy()
    members = None if batch.groups is None else batch.groups.members.copy()
    for step, move in enumerate(moves):
        c = int(batch.request_class[move.guest])
        n, k, milli = move.target, int(batch.gpu_count[c]), int(batch.gpu_milli[c])
        fits = batch.cpu[c] <= cpu[n] and batch.mem[c] <= mem[n] and len(set(move.devices)) == k
        fits = fits and all(gpu[n, d] >= milli for d in move.devices)
        if not (fits and batch.eligible[c, batch.node_type[n]] and n != move.source):
            return f"move {step} of guest {move.guest} does not fit on node {n}"
        group = -1 if batch.groups is None else int(batch.groups.group[c])
        if members is not None and group >= 0:
            if 0 < batch.limit[c] <= members[group, n]:
                return f"move {step} of guest {move.guest} exceeds the limit of its group on node {n}"
            members[group, n] += 1
            members[group, move.source] -= 1
        for node, devices, sign in ((n, move.devices, -1), (move.source, running.devices[move.guest], 1)):
            cpu[node] += sign * batch.cpu[c]
            mem[node] += sign * batch.mem[c]
            gpu[node, list(devices)] += sign * milli
    return None


class _Donors:
    """`Formulation` of what nodes receive, with the choice of donors."""

    def __init__(self, received: "Formulation", batch: Batch, donors: dict[int, list[int]], budget: int) -> None:
        self.received = received
        self.model = model = received.model
        self.leaves = {n: model.new_bool_var(f"y{n}") for n in donors}
        self.chosen: frozenset[int] = frozenset()
        """Donors of the hint, then of the last answer read."""
        terms = list(self.leaves.items())
        model.add(sum(len(donors[n]) * y for n, y in terms) <= budget)
        for b, x in zip(received.bins, received.x, strict=True):
            if (y := self.leaves.get(b.nodes[0])) is not None:
                for c, variable in x.items():
                    model.add(variable <= b.node_class.fit[c] * (1 - y))
        guests = {n: np.bincount(batch.request_class[donors[n]], minlength=len(batch.cpu)) for n in donors}
        for c in np.flatnonzero(received.batch.count).tolist():
            left = [int(guests[n][c]) * y for n, y in terms if guests[n][c] > 0]
            model.add(sum(received.of_class.get(c, [])) == sum(left))
        memory = sum(_memory(batch, donors[n]) * y for n, y in terms)
        self.levels: list[tuple[str, Any]] = [("emptied", sum(self.leaves.values())), ("memory", 0 - memory)]

    def hint(self, fills: list[Fill]) -> None:
        """Make the fills and the chosen donors the hint."""
        self.received.hint(fills)
        for n, y in self.leaves.items():
            self.model.add_hint(y, int(n in self.chosen))

    def read(self, solver: Any) -> list[Fill]:
        """What nodes receive; the donors go to ``chosen``."""
        self.chosen = frozenset(n for n, y in self.leaves.items() if solver.value(y))
        return self.received.read(solver)


def _candidates(
    batch: Batch, running: Assignment, budget: int, movable: Bools | None, most: int
) -> dict[int, list[int]]:
    """Guests of each node that may be a donor, least loaded first: fewest guests, then least memory, then
    node order.
    """
    guests: dict[int, list[int]] = {}
    for g, n in enumerate(running.node.tolist()):
        guests.setdefault(n, []).append(g)
    able = [n for n, here in guests.items() if len(here) <= budget and (movable is None or bool(movable[here].all()))]
    able.sort(key=lambda n: (len(guests[n]), _memory(batch, guests[n]), n))
    return {n: guests[n] for n in able[:most]}


def _memory(batch: Batch, guests: list[int]) -> int:
    return int(batch.mem[batch.request_class[guests]].sum())


def _worth(batch: Batch, donors: dict[int, list[int]], chosen: frozenset[int]) -> tuple[int, int]:
    return len(chosen), -sum(_memory(batch, donors[n]) for n in chosen)


def _only(batch: Batch, guests: list[int]) -> Batch:
    return replace(batch, request_class=batch.request_class[np.array(guests, np.int64)])


def _least_loaded_first(batch: Batch, donors: dict[int, list[int]], budget: int) -> tuple[frozenset[int], Assignment]:
    """The heuristic: each donor in turn leaves if all its guests find room, largest first on the fullest
    node.
    """
    cpu, mem, gpu = batch.free_cpu.copy(), batch.free_mem.copy(), batch.free_gpu.copy()
    members = None if batch.groups is None else batch.groups.members.copy()
    node = np.full(len(batch.request_class), -1, np.int64)
    devices: list[tuple[int, ...]] = [()] * len(node)
    may_take = ~batch.empty
    receives = np.zeros(len(cpu), bool)
    chosen = []
    for n, guests in donors.items():
        if receives[n] or len(guests) > budget:
            continue
        may_take[n] = False
        before = cpu.copy(), mem.copy(), gpu.copy(), None if members is None else members.copy()
        found: list[tuple[int, int, tuple[int, ...]]] = []
        for g in sorted(guests, key=lambda g: _by_limit_and_size(batch, g)):
            c = int(batch.request_class[g])
            k, milli = int(batch.gpu_count[c]), int(batch.gpu_milli[c])
            fits = may_take & batch.eligible[c, batch.node_type] & (batch.cpu[c] <= cpu) & (batch.mem[c] <= mem)
            if k > 0:
                fits &= (gpu >= milli).sum(axis=1) >= k
            if members is not None and batch.groups is not None and batch.limit[c] > 0:
                fits &= members[batch.groups.group[c]] < batch.limit[c]
            options = np.flatnonzero(fits)
            if len(options) == 0:
                break
            to = int(options[np.lexsort((mem[options], cpu[options]))[0]])
            fitting = [d for d in np.argsort(gpu[to], kind="stable").tolist() if gpu[to, d] >= milli]
            taken = tuple(sorted(fitting[:k]))
            _take(batch, cpu, mem, gpu, members, c, to, taken)
            found.append((g, to, taken))
        if len(found) < len(guests):
            cpu, mem, gpu, members = before
            may_take[n] = True
            continue
        for g, to, taken in found:
            node[g], devices[g] = to, taken
            receives[to] = True
        budget -= len(guests)
        chosen.append(n)
    return frozenset(chosen), Assignment(node, tuple(devices))


def _take(
    batch: Batch, cpu: Ints, mem: Ints, gpu: Any, members: Ints | None, c: int, n: int, devices: tuple[int, ...]
) -> None:
    cpu[n] -= batch.cpu[c]
    mem[n] -= batch.mem[c]
    gpu[n, list(devices)] -= batch.gpu_milli[c]
    if members is not None and batch.groups is not None and batch.groups.group[c] >= 0:
        members[batch.groups.group[c], n] += 1


def _by_limit_and_size(batch: Batch, guest: int) -> tuple[int, ...]:
    c = int(batch.request_class[guest])
    unlimited = int(batch.limit[c] == 0)
    return unlimited, int(batch.limit[c]), -int(batch.gpu_total[c]), -int(batch.cpu[c]), guest


def _moves(
    batch: Batch, running: Assignment, donors: dict[int, list[int]], chosen: frozenset[int], to: Assignment
) -> tuple[Move, ...]:
    """In the order of limits, then node by node as donors stand in line."""
    order = [g for n in donors if n in chosen for g in donors[n]]
    order.sort(key=lambda g: _by_limit_and_size(batch, g)[:2])
    return tuple(Move(g, int(running.node[g]), int(to.node[g]), to.devices[g]) for g in order)


def _answer(
    batch: Batch, donors: dict[int, list[int]], bins: list[Bin], formulation: _Donors, fills: list[Fill]
) -> Assignment:
    """Where each guest of the chosen donors goes, over all guests."""
    leaving = [g for n in donors if n in formulation.chosen for g in donors[n]]
    found = assignment_of(_only(batch, leaving), bins, fills)
    node = np.full(len(batch.request_class), -1, np.int64)
    devices: list[tuple[int, ...]] = [()] * len(node)
    for g, n, taken in zip(leaving, found.node.tolist(), found.devices, strict=True):
        node[g], devices[g] = n, taken
    return Assignment(node, tuple(devices))
