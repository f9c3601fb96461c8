"""Random clusters and guests for property tests: small, but with every feature, and tight enough to press."""

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from gpve.model import FOREVER, Guests, Nodes

MODELS = ("A10", "T4", "V100")


@st.composite
def clusters(draw, most=7, gpus=True, moves=True):
    n = draw(st.integers(1, most))

    def column(strategy, dtype=np.int64):
        return np.array(draw(st.lists(strategy, min_size=n, max_size=n)), dtype=dtype)

    count = column(st.sampled_from([0, 0, 1, 2, 4]) if gpus else st.just(0), np.int32)
    model = np.where(count > 0, column(st.integers(0, 2), np.int32), -1).astype(np.int32)
    maybe = draw(st.booleans())
    return Nodes(
        names=tuple(f"n{i}" for i in range(n)),
        cpu_milli=column(st.sampled_from([4000, 8000, 16000])),
        memory_mib=column(st.sampled_from([4096, 8192, 32768])),
        gpu_count=count,
        gpu_model=model,
        gpu_model_names=MODELS,
        labels=tuple(draw(st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}])) for _ in range(n)) if maybe else None,
        taints=tuple(draw(st.sampled_from([frozenset(), frozenset({"gpu"})])) for _ in range(n)) if maybe else None,
        cpu_overcommit=column(st.sampled_from([1.0, 1.5, 4.0]), np.float64) if draw(st.booleans()) else None,
        add_s=column(st.sampled_from([0.0, 0.0, 3.0]), np.float64) if moves and draw(st.booleans()) else None,
        drain_s=column(st.sampled_from([FOREVER, FOREVER, 6.0]), np.float64) if moves and draw(st.booleans()) else None,
    )


@st.composite
def guest_lists(draw, most=40, gpus=True, continuous=False):
    g = draw(st.integers(1, most))

    def column(strategy, dtype=np.int64):
        return np.array(draw(st.lists(strategy, min_size=g, max_size=g)), dtype=dtype)

    arrival = column(st.integers(0, 12), np.float64)
    life = column(st.sampled_from([0.0, 1.0, 2.0, 5.0, 9.0, FOREVER]), np.float64)
    gpu_count = column(st.sampled_from([0, 1, 1, 1, 2]) if gpus else st.just(0), np.int32)
    # One more and one less than what fills a node to the last unit: whole steps alone would not see "fits" off by one.
    milli = column(st.sampled_from([100, 300, 500, 501, 700, 999, 1000]), np.int32)
    gpu_milli = np.where(gpu_count == 0, 0, np.where(gpu_count > 1, np.where(milli > 500, 1000, milli), milli))
    constrained, grouped = draw(st.booleans()), draw(st.booleans())
    cpu = st.integers(0, 6000) if continuous else st.sampled_from([0, 1, 500, 1000, 2000, 3999, 4000, 4001])
    mem = st.integers(0, 6000) if continuous else st.sampled_from([0, 1, 512, 1024, 4095, 4096, 4097])
    return Guests(
        ids=pa.array([f"g{i}" for i in range(g)]),
        kind=np.zeros(g, dtype=np.uint8),
        arrival_s=arrival,
        departure_s=arrival + life,
        cpu_milli=column(cpu),
        memory_mib=column(mem),
        gpu_count=gpu_count,
        gpu_milli=gpu_milli.astype(np.int32),
        gpu_models=np.where(gpu_count > 0, column(st.sampled_from([-1, -1, 0, 1]), np.int32), -1).astype(np.int32)
        if constrained
        else None,
        gpu_model_sets=(("A10", "V100"), ("T4",)),
        selector=column(st.sampled_from([-1, -1, -1, 0]), np.int32) if constrained else None,
        selectors=(frozenset({("zone", "a")}),),
        tolerations=column(st.sampled_from([-1, 0]), np.int32) if constrained else None,
        toleration_sets=(frozenset({"gpu"}),),
        group=column(st.integers(-1, 2), np.int32) if grouped else None,
        group_names=("red", "green", "blue"),
        max_per_node=column(st.sampled_from([0, 0, 1, 2]), np.int32) if grouped else None,
        anti_affinity=column(st.sampled_from([-1, -1, 0, 1]), np.int32) if grouped else None,
        anti_affinity_sets=(frozenset({0}), frozenset({1, 2})),
        priority=column(st.integers(0, 2), np.int32) if draw(st.booleans()) else None,
        deadline_s=arrival + column(st.sampled_from([0.0, 2.0, 4.0, FOREVER]), np.float64)
        if draw(st.booleans())
        else None,
    )
