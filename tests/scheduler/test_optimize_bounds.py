"""Bounds against brute force on tiny instances, and against known optima."""

from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gpve.scheduler.optimize.bounds import fewest_active, most_placed
from gpve.scheduler.optimize.check import Objective, violation, worth
from gpve.scheduler.optimize.pack import fill, pack
from gpve.scheduler.optimize.problem import Batch
from gpve.scheduler.optimize.relax import coarse
from tests.scheduler.optimize_cases import batches, brute_force, make_batch
from tests.scheduler.test_optimize_place import cut, nothing

many = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
any_batch = st.one_of(batches(gpus=False, groups=True), batches(gpus=True))


@many
@given(any_batch, st.sampled_from(["guests", "cpu", "gpu"]))
def test_no_placement_exceeds_the_bound(batch: Batch, objective: Objective) -> None:
    assert most_placed(batch, objective) >= brute_force(batch, objective)[0]


@many
@given(any_batch)
def test_the_fewest_active_nodes_lie_between_the_bounds(batch: Batch) -> None:
    batch = replace(batch, empty=np.ones_like(batch.empty), weight=np.ones_like(batch.weight))
    placed, opened = brute_force(batch, "guests")[:2]
    assume(placed == len(batch.request_class))
    active = fewest_active(batch)
    assert active.lower <= -opened <= active.upper
    assert (active.status == "optimal") == (active.lower == active.upper)


@many
@given(st.one_of(batches(gpus=False, groups=True), batches(gpus=True, groups=True)))
def test_every_packing_fits(batch: Batch) -> None:
    for heuristic in (pack, fill):
        assert violation(batch, heuristic(batch, np.arange(len(batch.free_cpu))[::-1])) is None


@many
@given(batches(gpus=True), st.integers(1, 3))
def test_a_coarse_batch_is_easier(batch: Batch, most: int) -> None:
    easier, merged = coarse(batch, most)
    assert (easier.cpu[merged] <= batch.cpu).all()
    assert (easier.mem[merged] <= batch.mem).all()
    assert (easier.eligible[merged] == batch.eligible).all()
    assert (easier.gpu_count[merged] == batch.gpu_count).all()
    assert (easier.gpu_milli[merged] == batch.gpu_milli).all()


def test_halves_are_seen() -> None:
    """Twelve requests of 60 % on ten nodes, and of 600 thousandths on five devices: one a room."""
    nodes = make_batch([(100, 100, [])] * 10, [(60, 1, 0, 0)], [0] * 12)
    assert most_placed(nodes, "guests") == 10
    devices = make_batch([(100, 100, [1000] * 5)], [(1, 1, 1, 600), (1, 1, 1, 510)], [0, 1] * 6)
    assert most_placed(devices, "guests") == 5


@pytest.mark.parametrize("seed", range(3))
def test_perfect_packings_of_divisible_sizes_are_proven(seed: int) -> None:
    """Thirty nodes cut into powers of two: no fewer can carry the pieces."""
    rng = np.random.default_rng(seed)
    pieces: list[int] = []
    for _ in range(30):
        node = [64]
        for _ in range(12):
            piece = node.pop(int(rng.integers(len(node))))
            node += [piece // 2, piece // 2] if piece > 1 else [piece]
        pieces += node
    sizes = sorted(set(pieces))
    batch = make_batch(
        [(64, 128, [])] * 50, [(s, s, 0, 0) for s in sizes], [sizes.index(p) for p in pieces], empty=[True] * 50
    )
    active = fewest_active(batch)
    assert (active.lower, active.upper, active.status) == (30, 30, "optimal")


def test_full_devices_need_their_nodes() -> None:
    """Shares that fill twelve devices need three nodes of four, however many there are."""
    batch = make_batch([(64, 64, [1000] * 4)] * 10, [(1, 1, 1, 600), (1, 1, 1, 400)], [0, 1] * 12, empty=[True] * 10)
    assert fewest_active(batch).lower == 3
    assert most_placed(batch, "gpu") == 12_000


def test_two_sizes_of_nodes_are_mixed() -> None:
    """Six requests of 8 fit into one node of 32 and one of 16, and no two nodes of 16 and one of 32 are
    needed.
    """
    batch = make_batch([(16, 16, [])] * 4 + [(32, 32, [])], [(8, 8, 0, 0)], [0] * 6, empty=[True] * 5)
    active = fewest_active(batch)
    assert (active.lower, active.upper) == (2, 2)


def test_what_runs_now_is_an_upper_bound() -> None:
    pieces = cut(np.random.default_rng(3), 97, 7)
    batch = make_batch([(97, 97, [])] * 3, [(p, 1, 0, 0) for p in pieces], list(range(len(pieces))), empty=[True] * 3)
    assert fewest_active(batch, active_now=1).upper == 1


def test_thousands_of_guests_are_bounded_in_two_seconds() -> None:
    """A snapshot of 13,000 guests of many sizes on 1,000 nodes of three kinds."""
    rng = np.random.default_rng(0)
    kinds = [(64_000, 256_000, [])] * 500 + [(96_000, 192_000, [])] * 300 + [(32_000, 512_000, [])] * 200
    classes = [
        (int(c), int(c * m), 0, 0)
        for c, m in zip(rng.integers(1, 40, 300) * 100, rng.choice([2, 4, 8], 300), strict=True)
    ]
    batch = make_batch(kinds, classes, rng.integers(0, 300, 13_000).tolist(), empty=[True] * 1000)
    start = perf_counter()
    active = fewest_active(batch)
    assert perf_counter() - start < 4
    assert active.lower <= active.upper <= 1.1 * active.lower
    assert most_placed(batch, "guests") == 13_000


def test_an_empty_batch_has_nothing_to_bound() -> None:
    batch = make_batch([(4, 4, [])], [(3, 3, 0, 0)], [], empty=[True])
    assert most_placed(batch, "cpu") == 0
    assert fewest_active(batch).upper == 0
    assert worth(batch, nothing(batch), "cpu", False) == (0, 0)
