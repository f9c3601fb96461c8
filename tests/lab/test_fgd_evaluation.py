"""The FGD evaluation, placement by placement: the published runs' digests and curves (USENIX ATC 2023)."""

import csv

import numpy as np
import pytest
from gpve_sim import catalogue
from gpve_sim.experiment import Experiment, run
from gpve_sim.results import capacity, digest, summary, timeline

NAMES = {
    "FGD": "fgd",
    "BestFit": "fgd23-bestfit",
    "DotProd": "fgd23-dotprod",
    "GpuPacking": "gpu-packing",
    "GpuClustering": "gpu-clustering",
}


def _folder():
    for folder in catalogue.folders():
        if (folder / "openb" / "fgd" / "expected_runs.csv").exists():
            return folder / "openb" / "fgd"
    return None


FOLDER = _folder()
ROWS = list(csv.DictReader((FOLDER / "expected_runs.csv").open())) if FOLDER else []
pytestmark = pytest.mark.skipif(not ROWS, reason="openb/fgd is not in $GPVE_TRACES, ../shared/traces or the cache")


def experiment(row):
    files = {
        kind: str(FOLDER / f"{kind}_{row['workload']}_seed{row['seed']}.txt.gz") for kind in ("arrivals", "node_order")
    }
    return Experiment(trace=f"openb/{row['workload']}", policy=NAMES[row["policy"]], **files)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join((row["workload"], row["seed"], row["policy"])))
def test_digest(row):
    """The very placements, and the end state, of 35 runs."""
    replayed = run(experiment(row))
    said = summary(replayed)
    assert digest(replayed) == row["sha256_placements"]
    assert said["arrivals"] == int(row["arrivals"])
    assert said["failed"] == int(row["failed"])
    assert said["used_gpu_milli"] == int(row["used_milli_gpu"])
    assert said["fragmentation_milli"] == int(row["frag_end_milli"])


# Published by itself is the end of one seed; the curves are published as means of ten seeds, of which the inputs of
# three are at hand. Between seeds the ends differ by 0.08 to 0.62 points (standard deviation), hence the bars below.
ALLOCATED_130_SEED_42 = {"DotProd": 90.54, "GpuClustering": 91.53, "GpuPacking": 91.57, "BestFit": 93.13, "FGD": 95.29}


def curves(replayed):
    """(allocated %, fragment amount %, fragment ratio %) by whole percent of arrived GPUs, as the authors cut them."""
    table = timeline(replayed).to_pandas().iloc[: len(replayed.guests)]
    whole = capacity(replayed)["gpu_milli"]
    x = np.round(table["arrived_gpu_milli"] / (whole / 100)).astype(int)  # half to even
    allocated = (table["gpu_milli"] / (whole / 100)).round(2)
    amount = 100 * table["fragmentation_milli"] / whole
    ratio = (100 * table["fragmentation_milli"] / (whole - table["gpu_milli"])).round(2)
    return [column.groupby(x).mean() for column in (allocated, amount, ratio)]


@pytest.mark.parametrize("policy", ALLOCATED_130_SEED_42)
def test_published_end_of_seed_42(policy):
    """Allocation at 130 % arrived of the one seed whose value is published by itself."""
    allocated, _, _ = curves(run(experiment({"workload": "default", "seed": "42", "policy": policy})))
    assert allocated[130] == pytest.approx(ALLOCATED_130_SEED_42[policy], abs=0.02)


PUBLISHED = {  # mean of seeds 42-51: allocated at 80, 90, 100 %; amount and ratio of fragments at 50, 80, 100 %
    "FGD": ((80.02, 89.98, 95.23), (8.93, 5.97, 4.73), (17.86, 29.86, 99.07)),
    "BestFit": ((80.02, 89.99, 92.86), (10.81, 8.29, 7.05), (21.62, 41.49, 98.84)),
    "DotProd": ((80.02, 89.98, 90.62), (12.09, 10.09, 9.30), (24.19, 50.50, 99.19)),
    "GpuPacking": ((80.02, 89.98, 91.78), (12.01, 9.28, 8.13), (24.02, 46.43, 98.88)),
    "GpuClustering": ((80.02, 89.98, 91.65), (12.11, 9.36, 8.21), (24.23, 46.86, 98.40)),
}


@pytest.mark.parametrize("policy", PUBLISHED)
def test_published_curves(policy):
    """Three of the ten seeds lie where the published means of ten lie."""
    runs = [curves(run(experiment({"workload": "default", "seed": s, "policy": policy}))) for s in ("42", "43", "44")]
    allocated, amount, ratio = (sum(r[k] for r in runs) / len(runs) for k in range(3))
    wanted = PUBLISHED[policy]
    assert [allocated[x] for x in (80, 90)] == pytest.approx(wanted[0][:2], abs=0.03)
    assert allocated[100] == pytest.approx(wanted[0][2], abs=0.12)
    assert [amount[x] for x in (50, 80, 100)] == pytest.approx(wanted[1], abs=0.12)
    assert ratio[50] == pytest.approx(wanted[2][0], abs=0.25)
    assert [ratio[x] for x in (80, 100)] == pytest.approx(wanted[2][1:], abs=0.5)
