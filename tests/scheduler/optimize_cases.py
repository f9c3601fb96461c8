"""Small batches, a plain first-fit-decreasing, and brute force over all placements."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from hypothesis import strategies as st

from gpve.scheduler.optimize.check import Objective, violation, worth
from gpve.scheduler.optimize.problem import Assignment, Batch, Groups


def make_batch(
    nodes: list[tuple[int, int, list[int]]],
    classes: list[tuple[int, int, int, int]],
    requests: list[int],
    *,
    empty: list[bool] | None = None,
    types: list[int] | None = None,
    eligible: list[list[bool]] | None = None,
    weight: list[int] | None = None,
    groups: Groups | None = None,
) -> Batch:
    """Nodes (cpu, mem, devices left) and classes (cpu, mem, devices, milli of each)."""
    devices = max([len(n[2]) for n in nodes] + [1])
    gpu = np.full((len(nodes), devices), -1, np.int32)
    for i, (_, _, left) in enumerate(nodes):
        gpu[i, : len(left)] = left
    columns = np.array(classes, np.int64).reshape(-1, 4).T
    node_type = np.array(types if types is not None else [0] * len(nodes), np.int64)
    return Batch(
        free_cpu=np.array([n[0] for n in nodes], np.int64),
        free_mem=np.array([n[1] for n in nodes], np.int64),
        free_gpu=gpu,
        node_type=node_type,
        empty=np.array(empty if empty is not None else [False] * len(nodes)),
        cpu=columns[0],
        mem=columns[1],
        gpu_count=columns[2],
        gpu_milli=columns[3],
        eligible=np.array(eligible) if eligible is not None else np.ones((len(classes), 1), bool),
        weight=np.array(weight if weight is not None else [1] * len(classes), np.int64),
        request_class=np.array(requests, np.int64),
        groups=groups,
    )


class Room:
    """What is left on the nodes while requests are placed one by one."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.cpu, self.mem, self.gpu = (
            batch.free_cpu.tolist(),
            batch.free_mem.tolist(),
            batch.free_gpu.tolist(),
        )
        self.members = batch.groups.members.tolist() if batch.groups is not None else []

    def fits(self, c: int, n: int) -> bool:
        b = self.batch
        if b.groups is not None and 0 < b.limit[c] <= self.members[b.groups.group[c]][n]:
            return False
        admitted = bool(b.eligible[c, b.node_type[n]])
        return admitted and b.cpu[c] <= self.cpu[n] and b.mem[c] <= self.mem[n] and bool(self.choices(c, n))

    def choices(self, c: int, n: int) -> list[tuple[int, ...]]:
        fitting = [d for d, left in enumerate(self.gpu[n]) if left >= self.batch.gpu_milli[c]]
        return list(combinations(fitting, int(self.batch.gpu_count[c])))

    def take(self, c: int, n: int, devices: tuple[int, ...], sign: int = 1) -> None:
        b = self.batch
        self.cpu[n] -= sign * int(b.cpu[c])
        self.mem[n] -= sign * int(b.mem[c])
        for d in devices:
            self.gpu[n][d] -= sign * int(b.gpu_milli[c])
        if b.groups is not None and b.groups.group[c] >= 0:
            self.members[b.groups.group[c]][n] += sign


def first_fit_decreasing(batch: Batch) -> Assignment:
    """The heuristic: largest first, on the first node that takes it, running nodes before empty ones."""
    room = Room(batch)
    nodes = np.argsort(batch.empty, kind="stable").tolist()
    node_of = np.full(len(batch.request_class), -1, np.int64)
    devices: list[tuple[int, ...]] = [()] * len(batch.request_class)
    size = [(-int(batch.gpu_total[c]), -int(batch.cpu[c]), r) for r, c in enumerate(batch.request_class.tolist())]
    for r in [s[2] for s in sorted(size)]:
        c = int(batch.request_class[r])
        for n in nodes:
            if room.fits(c, n):
                node_of[r], devices[r] = n, room.choices(c, n)[0]
                room.take(c, n, devices[r])
                break
    assignment = Assignment(node_of, tuple(devices))
    assert violation(batch, assignment) is None
    return assignment


def brute_force(batch: Batch, objective: Objective, spare_devices: bool = False) -> tuple[int, ...]:
    """The best worth over all placements, in any order in which requests of limited groups may start."""
    room = Room(batch)
    limit = np.where(batch.limit > 0, batch.limit, 99)[batch.request_class]
    requests = np.argsort(limit, kind="stable").tolist()
    node_of = np.full(len(requests), -1, np.int64)
    devices: list[tuple[int, ...]] = [()] * len(requests)

    def answers(i: int) -> Iterator[tuple[int, ...]]:
        if i == len(requests):
            yield worth(batch, Assignment(node_of, tuple(devices)), objective, spare_devices)
            return
        r = requests[i]
        c = int(batch.request_class[r])
        yield from answers(i + 1)
        for n in range(len(batch.free_cpu)):
            if not room.fits(c, n):
                continue
            seen = set()
            for chosen in room.choices(c, n):
                key = tuple(sorted(room.gpu[n][d] for d in chosen))
                if key in seen:  # devices with equal room are the same choice
                    continue
                seen.add(key)
                room.take(c, n, chosen)
                node_of[r], devices[r] = n, chosen
                yield from answers(i + 1)
                node_of[r], devices[r] = -1, ()
                room.take(c, n, chosen, -1)

    return max(answers(0))


@st.composite
def batches(draw: st.DrawFn, *, gpus: bool, groups: bool = False) -> Batch:
    """Up to four nodes (often equal), three classes and six requests: small enough for brute force."""
    left = st.lists(st.sampled_from([1000, 1000, 700, 500, 250]), min_size=0, max_size=3) if gpus else st.just([])
    kinds = draw(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), left), min_size=1, max_size=2))
    picks = draw(st.lists(st.integers(0, len(kinds) - 1), min_size=1, max_size=3 if gpus else 4))
    sizes = st.sampled_from([1, 2, 3, 4, 6, 8])
    gpu = st.sampled_from([(0, 0), (1, 250), (1, 400), (1, 500), (1, 1000), (2, 1000), (2, 300)])
    plain = st.tuples(sizes, st.integers(0, 6))
    proportional = sizes.map(lambda s: (s, s))
    shape = draw(st.sampled_from([plain, proportional]))
    classes = [(*draw(shape), *(draw(gpu) if gpus else (0, 0))) for _ in range(draw(st.integers(1, 3)))]
    requests = draw(st.lists(st.integers(0, len(classes) - 1), min_size=1, max_size=4 if gpus else 6))
    limits = None
    if groups:
        limits = Groups(
            np.array(draw(st.lists(st.integers(-1, 1), min_size=len(classes), max_size=len(classes)))),
            np.array(draw(st.lists(st.integers(0, 3), min_size=len(classes), max_size=len(classes)))),
            np.array(
                draw(
                    st.lists(
                        st.lists(st.integers(0, 2), min_size=len(picks), max_size=len(picks)),
                        min_size=2,
                        max_size=2,
                    )
                )
            ),
        )
    emptiness = draw(st.lists(st.booleans(), min_size=len(kinds), max_size=len(kinds)))
    return make_batch(
        [kinds[p] for p in picks],
        classes,
        requests,
        empty=[emptiness[p] for p in picks],
        types=[p % 2 for p in picks],
        eligible=draw(
            st.lists(
                st.sampled_from([[True, True], [True, True], [True, False]]),
                min_size=len(classes),
                max_size=len(classes),
            )
        ),
        weight=draw(st.sampled_from([[1, 1, 1], [1, 2, 0]]))[: len(classes)],
        groups=limits,
    )
