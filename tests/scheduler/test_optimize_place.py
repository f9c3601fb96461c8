"""CP-SAT placement against brute force, known optima, and the promises about hints and determinism."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpve.scheduler.optimize import place
from gpve.scheduler.optimize.bins import assignment_of, fills_of, make_bins
from gpve.scheduler.optimize.check import Objective, violation, worth
from gpve.scheduler.optimize.place import place_batch
from gpve.scheduler.optimize.problem import Assignment, Batch, Groups, node_classes
from gpve.scheduler.optimize.quick import quick_answers
from gpve.scheduler.optimize.repair import NODES, part_of, with_part
from tests.scheduler.optimize_cases import batches, brute_force, first_fit_decreasing, make_batch

few = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
objectives = st.sampled_from(["guests", "cpu", "gpu"])


def nothing(batch: Batch) -> Assignment:
    count = len(batch.request_class)
    return Assignment(np.full(count, -1, np.int64), ((),) * count)


def agrees(batch: Batch, objective: Objective, spare_devices: bool) -> None:
    best = brute_force(batch, objective, spare_devices)
    heuristic = first_fit_decreasing(batch)
    for hint in (heuristic, nothing(batch)):
        for by_class in (True, False):
            for quick in (True, False):
                placement = place_batch(
                    batch, hint, objective=objective, spare_devices=spare_devices, by_class=by_class, quick=quick
                )
                assert violation(batch, placement.assignment) is None
                assert worth(batch, placement.assignment, objective, spare_devices) == best
                assert placement.status == "optimal"
                assert placement.gap == 0


@few
@given(batches(gpus=False), objectives)
def test_cpu_and_memory_agree_with_brute_force(batch: Batch, objective: Objective) -> None:
    agrees(batch, objective, False)


@few
@given(batches(gpus=True), objectives, st.booleans())
def test_devices_agree_with_brute_force(batch: Batch, objective: Objective, spare_devices: bool) -> None:
    agrees(batch, objective, spare_devices)


@few
@given(batches(gpus=False, groups=True), objectives)
def test_group_limits_agree_with_brute_force(batch: Batch, objective: Objective) -> None:
    agrees(batch, objective, False)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.booleans(), objectives)
def test_never_worse_than_the_heuristic_with_hardly_any_time(seed: int, with_gpus: bool, objective: Objective) -> None:
    rng = np.random.default_rng(seed)
    nodes = [
        (int(rng.integers(4, 64)), int(rng.integers(4, 64)), rng.choice([1000, 1000, 600, 330], 4).tolist())
        for _ in range(12)
    ]
    classes = [
        (
            int(rng.integers(1, 16)),
            int(rng.integers(1, 16)),
            *((1, int(rng.integers(1, 10)) * 100) if with_gpus else (0, 0)),
        )
        for _ in range(6)
    ]
    batch = make_batch(nodes, classes, rng.integers(0, 6, 40).tolist(), empty=(rng.random(12) < 0.4).tolist())
    hint = first_fit_decreasing(batch)
    for limit in (1e-6, 0.02):
        placement = place_batch(batch, hint, objective=objective, deterministic_limit=limit)
        assert violation(batch, placement.assignment) is None
        value = worth(batch, placement.assignment, objective, False)
        assert value >= worth(batch, hint, objective, False)
        first = placement.levels[0]
        assert first.bound is not None
        assert first.bound >= first.value == value[0]
        opened = placement.levels[-1]
        assert opened.bound is None or opened.bound <= opened.value == -value[-1]


@few
@given(batches(gpus=True, groups=True))
def test_a_hint_survives_the_way_through_the_model(batch: Batch) -> None:
    hint = first_fit_decreasing(batch)
    for spare in (True, False):
        bins = make_bins(batch, node_classes(batch), spare_devices=spare, by_class=spare)
        again = assignment_of(batch, bins, fills_of(batch, bins, hint))
        assert violation(batch, again) is None
        assert worth(batch, again, "gpu", spare) == worth(batch, hint, "gpu", spare)


def cut(rng: np.random.Generator, room: int, least: int) -> list[int]:
    """The room in pieces of at least ``least`` that fill it."""
    pieces = []
    while room >= 2 * least:
        piece = int(rng.integers(least, room // 2 + 1))
        pieces.append(piece)
        room -= piece
    return [*pieces, room]


@pytest.mark.parametrize("seed", range(4))
def test_a_perfect_packing_is_found_and_proven(seed: int) -> None:
    """Nodes cut into pieces: all pieces fit, and need every one of the nodes."""
    rng = np.random.default_rng(seed)
    pieces = [p for _ in range(6) for p in cut(rng, 48, 5)]
    sizes = sorted(set(pieces))
    batch = make_batch(
        [(48, 1000, [])] * 8,
        [(s, 1, 0, 0) for s in sizes],
        [sizes.index(p) for p in pieces],
        empty=[True] * 8,
    )
    placement = place_batch(batch, first_fit_decreasing(batch), deterministic_limit=20)
    assert placement.status == "optimal"
    assert [level.value for level in placement.levels] == [6 * 48, 6]


@pytest.mark.parametrize("seed", range(4))
def test_a_perfect_packing_of_devices_is_found_and_proven(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = [p for _ in range(8) for p in cut(rng, 10, 2)]
    sizes = sorted(set(shares))
    classes = [(1, 1, 1, 100 * s) for s in sizes] + [(1, 1, 2, 1000)]
    requests = [sizes.index(s) for s in shares] + [len(sizes)] * 2
    batch = make_batch([(64, 64, [1000] * 4)] * 3, classes, requests, empty=[True] * 3)
    placement = place_batch(batch, first_fit_decreasing(batch), objective="gpu", deterministic_limit=20)
    assert placement.status == "optimal"
    assert [level.value for level in placement.levels] == [12_000, len(requests), 3]


def test_the_same_input_has_the_same_answer() -> None:
    rng = np.random.default_rng(5)
    nodes = [(int(rng.integers(8, 64)), int(rng.integers(8, 64)), [1000, 600]) for _ in range(20)]
    classes = [(int(rng.integers(1, 16)), int(rng.integers(1, 16)), 1, 100 * i) for i in range(1, 8)]
    batch = make_batch(nodes, classes, rng.integers(0, 7, 60).tolist())
    one, two = (place_batch(batch, nothing(batch), deterministic_limit=0.2) for _ in range(2))
    assert one.assignment.node.tolist() == two.assignment.node.tolist()
    assert one.assignment.devices == two.assignment.devices
    assert (one.levels, one.deterministic_time) == (two.levels, two.deterministic_time)


def test_a_blown_fuse_returns_the_hint_and_says_so() -> None:
    rng = np.random.default_rng(1)
    nodes = [(int(rng.integers(30, 60)), int(rng.integers(30, 60)), []) for _ in range(60)]
    classes = [(int(rng.integers(3, 16)), int(rng.integers(3, 16)), 0, 0) for _ in range(30)]
    batch = make_batch(nodes, classes, rng.integers(0, 30, 400).tolist())
    hint = first_fit_decreasing(batch)
    placement = place_batch(batch, hint, deterministic_limit=100, wall_limit_s=0.05)
    assert placement.fuse_blown
    assert placement.status == "heuristic"
    assert placement.assignment is hint


def test_one_class_with_a_limit_is_spread_over_equal_nodes() -> None:
    groups = Groups(np.array([0]), np.array([1]), np.zeros((1, 2), np.int64))
    batch = make_batch([(2, 2, []), (2, 2, [])], [(1, 1, 0, 0)], [0, 0], groups=groups)
    placement = place_batch(batch, nothing(batch))
    assert placement.form == "classes"
    assert placement.assignment.node.tolist() == [0, 1]


def test_a_hint_that_does_not_fit_is_refused() -> None:
    batch = make_batch([(4, 4, [])], [(3, 3, 0, 0)], [0, 0])
    with pytest.raises(ValueError, match="request 1 overfills node 0"):
        place_batch(batch, Assignment(np.zeros(2, np.int64), ((), ())))


@few
@given(batches(gpus=True, groups=True))
def test_quick_answers_are_placements(batch: Batch) -> None:
    hint = first_fit_decreasing(batch)
    answers = list(quick_answers(batch, hint, np.zeros(len(batch.free_cpu))))
    assert answers
    assert all(violation(batch, answer) is None for answer in answers)


def test_bounds_and_quick_answers_spare_the_model() -> None:
    """A hint that opens a node for each request, where two nodes are enough: no solver is asked, and it is proven."""
    batch = make_batch([(16, 16, [1000] * 4)] * 6, [(1, 3, 1, 600), (3, 1, 0, 0)], [0] * 5 + [1], empty=[True] * 6)
    hint = Assignment(np.arange(6), (*((0,),) * 5, ()))
    placement = place_batch(batch, hint, objective="gpu")
    assert placement.status == "optimal"
    assert [level.value for level in placement.levels] == [3000, 8, 2]
    assert placement.deterministic_time == 0


def test_what_a_model_too_large_leaves_unproven_is_said() -> None:
    """Without a full model the answer is never called optimal, and the gap is that of the linear bound."""
    rng = np.random.default_rng(3)
    nodes = [(int(rng.integers(8, 40)), int(rng.integers(8, 40)), []) for _ in range(300)]
    classes = [(int(rng.integers(3, 16)), int(rng.integers(3, 16)), 0, 0) for _ in range(80)]
    batch = make_batch(nodes, classes, rng.integers(0, 80, 1200).tolist())
    hint = first_fit_decreasing(batch)
    placement = place_batch(batch, hint, deterministic_limit=0.2)
    assert placement.status != "optimal"
    assert 0 < placement.gap < 0.2
    assert worth(batch, placement.assignment, "cpu", False) >= worth(batch, hint, "cpu", False)


@few
@given(batches(gpus=True, groups=True), st.integers(0, 3))
def test_a_part_put_back_is_the_answer(batch: Batch, kept: int) -> None:
    """Taking a few nodes out and putting them back as they were changes nothing, and the part is a placement."""
    answer = first_fit_decreasing(batch)
    nodes = np.arange(len(batch.free_cpu))[: kept + 1]
    part, hint, requests = part_of(batch, answer, nodes)
    assert violation(part, hint) is None
    again = with_part(answer, nodes, requests, hint)
    assert again.node.tolist() == answer.node.tolist()
    assert again.devices == answer.devices


def test_what_the_heuristic_left_out_is_repacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node has a small request where a large one should be; only a few nodes at a time may be answered."""

    def of_few(batch: Batch, *others: object) -> Iterator[Assignment]:
        return quick_answers(batch, *others) if len(batch.free_cpu) <= NODES else iter(())

    monkeypatch.setattr(place, "quick_answers", of_few)
    monkeypatch.setattr(place._Run, "improve", lambda *_, share: None)
    batch = make_batch([(10, 10, [1000, 1000])] * 40, [(4, 2, 1, 500), (7, 3, 2, 1000)], [0] * 40 + [1] * 40)
    hint = Assignment(np.array([*range(40), *[-1] * 40]), (*((0,),) * 40, *((),) * 40))
    placement = place_batch(batch, hint, objective="gpu", deterministic_limit=0.2)
    assert violation(batch, placement.assignment) is None
    assert placement.levels[0].value >= 70_000
    assert placement.status != "heuristic"
