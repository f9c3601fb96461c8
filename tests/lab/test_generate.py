"""Generated workloads: the counts of their specifications, the same bytes from the same seed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from gpve_sim.catalogue import GENERATED, load
from gpve_sim.generate import apportion, generate, load_spec
from gpve_sim.inventory import parse_inventory
from gpve_sim.trace import Trace
from gpve_sim.write import write_guests
from hypothesis import given
from hypothesis import strategies as st

from gpve.model import Guests, InputError
from tests.lab.traces_here import loaded


def milli_gpu(guests: Guests) -> int:
    assert guests.gpu_count is not None
    assert guests.gpu_milli is not None
    return int((guests.gpu_count.astype(np.int64) * guests.gpu_milli).sum())


def digest(trace: Trace, folder: Path) -> str:
    write_guests(trace.guests, folder / "g.csv")
    return hashlib.sha256((folder / "g.csv").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", GENERATED)
def test_same_seed_same_bytes(tmp_path: Path, name: str) -> None:
    size = {"guests": 3000}
    first, again, other = (digest(load(name, seed=seed, **size), tmp_path) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_openb_like_is_the_fragmentation_experiment() -> None:
    trace = load("generated/openb-like")
    assert (len(trace.guests), len(trace.nodes), trace.departures) == (8152, 1213, False)
    assert milli_gpu(trace.guests) == 6_086_800
    assert trace.nodes.gpu_count.sum() == 6212
    assert "Weng et al." in trace.notes[1]
    # The pods ask for the same in another order.
    real = loaded("openb/default")
    columns = [
        np.stack([g.cpu_milli, g.memory_mib, g.gpu_count, g.gpu_milli])  # type: ignore[list-item]
        for g in (trace.guests, real.guests)
    ]
    assert (columns[0] != columns[1]).any()
    assert np.array_equal(*(c[:, np.lexsort(c)] for c in columns))
    assert sorted(trace.nodes.cpu_milli) == sorted(real.nodes.cpu_milli)


def test_openb_like_scales() -> None:
    larger = load("generated/openb-like", guests=81_520)
    assert len(larger.guests) == 81_520
    assert milli_gpu(larger.guests) / (1000 * larger.nodes.gpu_count.sum()) == pytest.approx(0.98, abs=0.005)
    crowded = load("generated/openb-like", load=1.3)
    assert len(crowded.nodes) == 1213
    assert milli_gpu(crowded.guests) / 6_212_000 == pytest.approx(1.3, abs=0.005)


def test_openb_like_with_departures_keeps_the_load() -> None:
    trace = load("generated/openb-like", departures=True, load=0.5)
    guests = trace.guests
    assert trace.departures
    assert guests.gpu_count is not None
    assert guests.gpu_milli is not None
    for at in np.quantile(guests.arrival_s, [0.0, 0.6, 0.8, 1.0]):
        live = (guests.arrival_s <= at) & (guests.departure_s > at)
        asked = (guests.gpu_count.astype(np.int64) * guests.gpu_milli)[live].sum()
        assert asked / 6_212_000 == pytest.approx(0.5, abs=0.03)


def test_azure_like_has_the_shares() -> None:
    trace = load("generated/azure-like", guests=60_000)
    guests = trace.guests
    common = (guests.cpu_milli == 1000) & (guests.memory_mib == 1792)
    assert common.mean() == pytest.approx(156_437 / 259_159, abs=0.06)
    lives = guests.departure_s - guests.arrival_s
    rests = lives[np.isfinite(lives)].round(3) % 300
    assert np.minimum(rests, 300 - rests).max() < 0.01
    assert np.isinf(lives).mean() == pytest.approx(0.0274, abs=0.02)
    assert len(guests.group_names) == pytest.approx(60_000 / 4.88, rel=0.15)
    assert (np.diff(guests.arrival_s) >= 0).all()


def test_peers_parameters() -> None:
    trace = load("generated/peers", hosts=1000, guests=200_000, seed=1)
    guests = trace.guests
    assert (len(trace.nodes), trace.nodes.cpu_milli[0], trace.nodes.memory_mib[0]) == (1000, 64_000, 262_144)
    lives = guests.departure_s - guests.arrival_s
    assert lives.mean() == pytest.approx(7200, rel=0.02)
    assert np.log(lives).std() == pytest.approx(1.0, rel=0.01)
    sizes, counts = np.unique(guests.cpu_milli, return_counts=True)
    assert sizes.tolist() == [1000, 2000, 4000, 8000, 16_000]
    assert np.allclose(counts / len(guests), [0.30, 0.30, 0.20, 0.12, 0.08], atol=0.005)
    assert (guests.memory_mib == guests.cpu_milli // 1000 * 4096).all()
    at = guests.arrival_s[150_000]
    live = (guests.arrival_s <= at) & (guests.departure_s > at)
    assert guests.cpu_milli[live].sum() / 64_000_000 == pytest.approx(0.8, abs=0.03)


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    for name, options, words in (
        ("generated/peers", {"departures": False}, "takes no departures"),
        ("generated/openb-like", {"hosts": 3}, "takes no hosts"),
        ("generated/openb-like", {"guests": 0}, "0 guests"),
        ("generated/azure-like", {"load": -1.0}, "not above 0"),
        ("generated/peers", {"hosts": 0}, "0 hosts"),
        ("generated/azure-like", {"departures": False}, "--no-departures"),
    ):
        with pytest.raises(InputError, match=words):
            load(name, **options)
    spec = tmp_path / "spec.toml"
    spec.write_text('name = "x"\n')
    with pytest.raises(InputError, match="column kind: the key is missing"):
        load_spec(spec)


def test_a_specification_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    own = Path(__file__).parents[2] / "traces" / "openb-like.toml"
    path.write_text(own.read_text().replace('name = "openb-like"', 'name = "mine"'))
    assert generate(load_spec(path), guests=10).name == "generated/mine"


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any), st.integers(0, 5000))
def test_apportion_is_exact_and_near(counts: list[int], total: int) -> None:
    array = np.array(counts, dtype=np.int64)
    shares = apportion(array, total)
    assert shares.sum() == total
    assert (np.abs(shares - array * total / array.sum()) < 1 + 1e-9).all()
    assert (shares[array == 0] == 0).all()


def test_inventories_in_words() -> None:
    nodes = parse_inventory("8x(96c,384G,8xV100) + 2x(0.5c,1T)")
    assert (len(nodes), nodes.names[0], nodes.names[8]) == (10, "a-00000", "b-00000")
    assert (nodes.cpu_milli[0], nodes.memory_mib[0], nodes.gpu_count[0]) == (96_000, 393_216, 8)
    assert (nodes.cpu_milli[9], nodes.memory_mib[9], nodes.gpu_model[9]) == (500, 2**20, -1)
    for bad in ("8x96c", "0x(1c,1G)", "1x(1c,1G)+", "1x(1c)", "99999999x(1c,1G)"):
        with pytest.raises(InputError):
            parse_inventory(bad)
