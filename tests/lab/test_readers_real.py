"""The readers on the real traces, against the figures that their descriptions give."""

import numpy as np
import pytest
from gpve_sim.catalogue import load, load_nodes
from gpve_sim.readers import azure_vm
from gpve_sim.readers.content import text

from gpve.model import FOREVER, KINDS
from tests.lab.traces_here import loaded, need


@pytest.mark.parametrize(
    ("variant", "pods", "plain", "shared", "several"),
    [
        ("default", 8152, 1088, 3078, 75),
        ("cpu100", 7853, 789, None, None),
        ("gpushare40", 8152, None, 4001, None),
        ("gpuspec33", 8152, 1088, 3078, 75),
        ("multigpu20", 8324, None, None, 247),
    ],
)
def test_openb_counts(variant: str, pods: int, plain: int | None, shared: int | None, several: int | None) -> None:
    trace = loaded(f"openb/{variant}")
    guests = trace.guests
    assert guests.gpu_count is not None
    assert guests.gpu_milli is not None
    assert len(guests) == pods
    for expected, found in (
        (plain, (guests.gpu_count == 0).sum()),
        (shared, ((guests.gpu_count == 1) & (guests.gpu_milli < 1000)).sum()),
        (several, (guests.gpu_count > 1).sum()),
    ):
        assert expected is None or found == expected
    assert trace.departures == (variant != "multigpu20")
    assert set(guests.kind) == {KINDS.index("agent")}


def test_openb_default_asks_for_98_percent_of_the_gpus() -> None:
    trace = loaded("openb/default")
    guests = trace.guests
    assert guests.gpu_count is not None
    assert guests.gpu_milli is not None
    asked = (guests.gpu_count.astype(np.int64) * guests.gpu_milli).sum()
    assert asked == 6_086_800
    assert guests.cpu_milli.sum() == 85_436_012
    assert (guests.memory_mib == 0).sum() == 1
    assert guests.departure_s.max() == 12_902_960
    assert (len(trace.nodes), trace.nodes.gpu_count.sum(), trace.nodes.cpu_milli.sum()) == (1213, 6212, 107_018_000)


def test_openb_specs_are_kept_as_they_are_written() -> None:
    guests = loaded("openb/gpuspec33").guests
    assert guests.gpu_models is not None
    assert (guests.gpu_models >= 0).sum() == 2388
    assert ("V100M16", "V100M32") in guests.gpu_model_sets


def test_openb_without_times_arrives_in_file_order_and_stays() -> None:
    guests = loaded("openb/multigpu20").guests
    assert guests.arrival_s.tolist()[:3] == [0, 1, 2]
    assert (guests.departure_s == FOREVER).all()
    assert guests.gpu_models is None


def test_node_inventories() -> None:
    need("openb/all_node")
    every = load_nodes("openb/all_node")
    assert (len(every), every.gpu_count.sum(), every.cpu_milli.sum() // 1000) == (1523, 6212, 125_514)
    need("alibaba-spot-nodes-2026")
    spot = load_nodes("alibaba-spot-nodes-2026")
    assert len(spot) == 4278
    a10 = spot.gpu_model_names.index("A10")
    assert ((spot.gpu_model == a10) & (spot.gpu_count == 1)).sum() == 2494
    assert (spot.memory_mib == spot.cpu_milli // 1000 * 8 * 1024).all()


def test_azure_counts_and_censoring() -> None:
    trace = loaded("azure-vm-2017/dev")
    guests = trace.guests
    assert len(guests) == 259_159
    assert np.isinf(guests.departure_s).sum() == 14_317
    assert len(guests.group_names) == 53_109
    assert guests.cpu_milli.sum() == 557_907_000
    assert (guests.arrival_s.min(), guests.arrival_s.max()) == (0, 299_700)
    common, counts = np.unique(np.stack([guests.cpu_milli, guests.memory_mib]), axis=1, return_counts=True)
    assert common[:, counts.argmax()].tolist() == [1000, 1792]


def test_azure_lives_lie_in_their_bins_and_follow_the_seed() -> None:
    folder = need("azure-vm-2017/dev").parent
    low, high = azure_vm._bins(folder, text(folder / "v1.interval_map.txt.gz"))
    assert (len(low), low[0], high[0], low[12], high[12]) == (46, 0, 0, 3600, 3600)
    assert (low[13], high[13], low[45], high[45]) == (3900, 7200, 864_300, 1_728_000)
    first = loaded("azure-vm-2017/dev", 0).guests.departure_s
    again = load("azure-vm-2017/dev", seed=0).guests.departure_s
    other = loaded("azure-vm-2017/dev", 1).guests.departure_s
    assert (first == again).all()
    assert (first != other).any()
    assert len(loaded("azure-vm-2017/dev", 0).nodes) == len(loaded("azure-vm-2017/dev", 1).nodes)
    lives = (first - loaded("azure-vm-2017/dev").guests.arrival_s)[np.isfinite(first)]
    assert (lives % 300 == 0).all()
    # The first line of the trace begins U1, then a batch of U4, then U3 U3.
    assert lives[:4].tolist() == [300, 1200, 900, 900]


def test_alibaba_counts() -> None:
    trace = loaded("alibaba-dlrm-2025/default")
    guests = trace.guests
    assert (len(guests), len(guests.group_names)) == (23_871, 156)
    # An instance_sn that ran at 0 and one that outlives the trace: 4,677 did both.
    ran, stays = guests.arrival_s == 0, np.isinf(guests.departure_s)
    assert stays.sum() == 8878
    assert (ran & stays).sum() == 4677
    assert ran.sum() == 7280
    assert guests.gpu_count is not None
    assert guests.gpu_count.sum() == 7386
    assert guests.max_per_node is not None
    assert np.unique(guests.max_per_node).tolist() == [0, 2, 4, 8, 10, 16]
    assert set(guests.kind) == {KINDS.index("vcluster")}
    assert guests.cpu_milli.max() <= trace.nodes.cpu_milli.min()
    assert guests.memory_mib.max() <= trace.nodes.memory_mib.min()


def test_opendc_counts_and_load() -> None:
    trace = loaded("opendc-surf-week/default")
    guests, usage = trace.guests, trace.usage
    assert len(guests) == 6295
    assert (guests.arrival_s.min(), guests.cpu_milli.min(), guests.cpu_milli.max()) == (0, 16_000, 16_000)
    lives = guests.departure_s - guests.arrival_s
    assert (lives.min(), np.median(lives)) == (30, 90)
    assert usage is not None
    assert (np.diff(usage.start_s) >= 0).all()
    assert (usage.cpu_milli <= 16_000).all()
    assert (usage.end_s > usage.start_s).all()
    # Each guest's rows follow each other without a gap.
    order = np.lexsort((usage.start_s, usage.guest))
    same = usage.guest[order][1:] == usage.guest[order][:-1]
    assert np.allclose(usage.start_s[order][1:][same], usage.end_s[order][:-1][same])


@pytest.mark.parametrize(("name", "arrivals"), [("agents/azure-llm", 8819), ("agents/mooncake", 3993)])
def test_agents_have_phases(name: str, arrivals: int) -> None:
    trace = loaded(name)
    guests, usage = trace.guests, trace.usage
    assert len(guests) == arrivals
    assert usage is not None
    assert usage.phase is not None
    assert usage.phase_names == ("active", "idle")
    lives = (guests.departure_s - guests.arrival_s).sum()
    assert (usage.end_s - usage.start_s).sum() == pytest.approx(lives)
    assert (usage.cpu_milli[usage.phase == 1] == 0).all()
    assert (usage.cpu_milli <= guests.cpu_milli[usage.guest]).all()
    assert (usage.memory_mib <= guests.memory_mib[usage.guest]).all()
    assert any("combination is ours" in note for note in trace.notes)
    assert guests.arrival_s[-1] == pytest.approx({8819: 3436.0, 3993: 1022.0}[arrivals], abs=2.0)
