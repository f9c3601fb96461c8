"""openb, the Alibaba GPU cluster trace 2023 (Weng et al., "Beware of Fragmentation", USENIX ATC 2023).

Pods are container-like guests that ask for shares of a GPU, so they get the kind `agent`. ``gpu_spec`` are
alternatives, kept as they are written (an order, with repeats: FGD's typical requests tell them apart);
``qos`` and ``pod_phase`` are not used. ``departure_s`` is ``deletion_time``; what still ran at the end of
the trace carries the trace's end there. Files of five columns (multigpu*) have no times: guests arrive in
file order and stay.

Default cluster: openb_node_list_gpu_node beside the pods (1,213 nodes, 6,212 GPUs); where that list is
absent, the same numbers of the same nodes from the specification openb-like.
"""

from pathlib import Path

import numpy as np

from gpve.model import FOREVER, Guests, Kind, Nodes
from gpve_sim.readers.lists import items_of
from gpve_sim.readers.nodes import read_nodes
from gpve_sim.readers.schema import check_gpus, refuse_before
from gpve_sim.readers.table import CsvTable
from gpve_sim.trace import Trace

NAME = "openb"
SUMMARY = "Alibaba GPU cluster trace 2023: openb_pod_list_*.csv"

SHORT = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
LONG = ("gpu_spec", "qos", "pod_phase", "creation_time", "deletion_time", "scheduled_time")


def recognises(path: Path, columns: tuple[str, ...]) -> bool:
    """Whether the columns are those of a list of pods."""
    return set(SHORT) <= set(columns)


def read(path: Path, *, seed: int = 0, nodes: Nodes | None = None) -> Trace:
    """The pods of ``path``; ``seed`` is not used."""
    table = CsvTable(path)
    timed = "creation_time" in table.names
    table.expect((*SHORT, *LONG) if timed else SHORT)
    table.some_rows("a trace needs guests")
    ids = table.unique("name")
    count = table.codes("num_gpu")
    milli = table.codes("gpu_milli")
    check_gpus(table, count, milli, "gpu_milli")
    table.refuse((count > 1) & (milli < 1000), "gpu_milli", lambda row: f"a share of {milli[row]} of {count[row]} GPUs")
    if timed:
        arrival = table.floats("creation_time")
        departure = table.floats("deletion_time", empty=FOREVER)
        refuse_before(table, departure, "deletion_time", arrival)
        spec, texts = table.parsed("gpu_spec", items_of)
    else:
        arrival = np.arange(table.rows, dtype=np.float64)
        departure = np.full(table.rows, FOREVER)
        spec, texts = np.full(table.rows, -1, dtype=np.int32), ()
    guests = Guests(
        ids, np.full(table.rows, Kind.AGENT, dtype=np.uint8), arrival, departure,
        table.ints("cpu_milli"), table.ints("memory_mib"), count, milli,
        gpu_models=spec if texts else None,
        gpu_model_sets=tuple(items_of(text) for text in texts),
    )  # fmt: skip
    sources = {path.name: table.sha256}
    notes: tuple[str, ...] = ()
    if nodes is None:
        nodes, note = default_cluster(path)
        notes = (note,)
    if not timed:
        notes += ("The file has no times: guests arrive in file order and stay.",)
    return Trace(str(path), guests, nodes, None, timed, sources, notes)


def default_cluster(pods: Path) -> tuple[Nodes, str]:
    """The list of GPU nodes beside the pods, or the same inventory from the specification, with a note."""
    for name in ("openb_node_list_gpu_node.csv.gz", "openb_node_list_gpu_node.csv"):
        beside = pods.with_name(name)
        if beside.exists():
            return read_nodes(beside), f"Default cluster: {name}, the GPU nodes of the trace."
    from gpve_sim.generate import inventory_of, load_spec

    return inventory_of(load_spec("openb-like")), (
        "Default cluster: 1,213 GPU nodes in the numbers of openb, from the specification openb-like "
        "(the node list does not lie beside the pods)."
    )
