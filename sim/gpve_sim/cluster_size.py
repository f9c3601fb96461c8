"""How large a cluster a trace needs: the default where a trace comes without nodes."""

import math

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpve.model import Guests, Nodes

FILL = 0.8
"""Share of the cluster that the peak demand takes."""
DEFAULT_NODE = (64_000, 256 * 1024)
"""CPU in milli-cores and memory in MiB of a node, larger where the largest guest needs it."""
DEFAULT_GPUS = 8
"""GPUs of a node with GPUs."""


def identical_nodes(
    count: int, cpu_milli: int, memory_mib: int, gpus: int = 0, model: str = "GPU", prefix: str = "node"
) -> Nodes:
    """``count`` equal nodes called ``<prefix>-00000`` and on."""
    return Nodes(
        numbered(prefix, count, 5),
        np.full(count, cpu_milli, dtype=np.int64),
        np.full(count, memory_mib, dtype=np.int64),
        np.full(count, gpus, dtype=np.int32),
        np.full(count, 0 if gpus else -1, dtype=np.int32),
        (model,) if gpus else (),
    )


def joined_nodes(parts: list[Nodes]) -> Nodes:
    """The plain nodes of ``parts`` one after the other (names, sizes, GPUs; no labels and the like)."""
    models = tuple(dict.fromkeys(model for part in parts for model in part.gpu_model_names))
    codes = []
    for part in parts:
        table = np.array([models.index(model) for model in part.gpu_model_names] + [-1], dtype=np.int32)
        codes.append(table[part.gpu_model])
    return Nodes(
        tuple(name for part in parts for name in part.names),
        np.concatenate([part.cpu_milli for part in parts]),
        np.concatenate([part.memory_mib for part in parts]),
        np.concatenate([part.gpu_count for part in parts]),
        np.concatenate(codes),
        models,
    )


def peak(guests: Guests, amounts: NDArray[np.int64], departure_s: NDArray[np.float64] | None = None) -> int:
    """Largest sum of ``amounts`` (G,) over guests that live at one time; who departs makes room first."""
    departure = guests.departure_s if departure_s is None else departure_s
    leaves = np.flatnonzero((departure < np.inf) & (departure > guests.arrival_s))
    stays = departure > guests.arrival_s
    times = np.concatenate([guests.arrival_s[stays], departure[leaves]])
    changes = np.concatenate([amounts[stays], -amounts[leaves]])
    # Negative changes first at equal times: the key is the time, then the sign.
    order = np.lexsort((changes > 0, times))
    live = np.cumsum(changes[order])
    return int(max(live.max(initial=0), amounts.max(initial=0)))


def sized_cluster(guests: Guests, departure_s: NDArray[np.float64] | None = None) -> tuple[Nodes, str]:
    """A cluster whose peak use is `FILL`, with a note that says so.

    Nodes are of `DEFAULT_NODE`, doubled until the largest guest fits. Guests with GPUs get nodes of as many
    whole GPUs of each admitted set of models (`DEFAULT_GPUS` or the largest request), with CPU and memory
    alike.
    """
    cpu, memory = DEFAULT_NODE
    gpus = guests.gpu_count if guests.gpu_count is not None else np.zeros(len(guests), dtype=np.int32)
    plain = gpus == 0
    while cpu < guests.cpu_milli.max(initial=0):
        cpu *= 2
    while memory < guests.memory_mib.max(initial=0):
        memory *= 2
    parts: list[Nodes] = []
    if plain.any():
        count = _count(guests, np.where(plain, guests.cpu_milli, 0), cpu, departure_s)
        count = max(count, _count(guests, np.where(plain, guests.memory_mib, 0), memory, departure_s))
        parts.append(identical_nodes(count, cpu, memory))
    wanted = "" if plain.all() else f", {_gpu_nodes(guests, gpus, cpu, memory, parts, departure_s)} with GPUs"
    nodes = joined_nodes(parts)
    note = (
        f"Default cluster: {len(nodes)} nodes of {cpu / 1000:g} cores and {memory / 1024:g} GiB{wanted}, "
        f"so that the peak demand is {FILL:.0%} of it (an assumption: the trace has no nodes)."
    )
    return nodes, note


def _gpu_nodes(
    guests: Guests,
    gpus: NDArray[np.int32],
    cpu: int,
    memory: int,
    parts: list[Nodes],
    departure_s: NDArray[np.float64] | None,
) -> int:
    """Append a part of nodes for each first model of the sets that guests admit; how many nodes in all."""
    milli = guests.gpu_milli if guests.gpu_milli is not None else gpus * 1000
    codes = guests.gpu_models if guests.gpu_models is not None else np.full(len(guests), -1, dtype=np.int32)
    models = [min(models) for models in guests.gpu_model_sets] + ["GPU"]
    total = 0
    for model in dict.fromkeys(models[code] for code in np.unique(codes[gpus > 0])):
        same = np.array([name == model for name in models])[codes] & (gpus > 0)
        devices = max(DEFAULT_GPUS, int(gpus[same].max()))
        asked = np.where(same, gpus.astype(np.int64) * milli, 0)
        count = max(
            _count(guests, asked, devices * 1000, departure_s),
            _count(guests, np.where(same, guests.cpu_milli, 0), cpu, departure_s),
            _count(guests, np.where(same, guests.memory_mib, 0), memory, departure_s),
        )
        parts.append(identical_nodes(count, cpu, memory, devices, model, f"gpu-node-{model}"))
        total += count
    return total


def _count(guests: Guests, amounts: NDArray[np.int64], size: int, departure_s: NDArray[np.float64] | None) -> int:
    return max(1, math.ceil(peak(guests, amounts, departure_s) / (FILL * size)))


def numbered(prefix: str, count: int, digits: int) -> tuple[str, ...]:
    """Names ``<prefix>-0…0`` and on."""
    return tuple(f"{prefix}-{i:0{digits}d}" for i in range(count))


def numbered_ids(prefix: str, count: int) -> pa.Array:
    """(count,) names ``<prefix>-0`` and on as an Arrow array, without a Python string for each."""
    import pyarrow.compute as pc

    numbers = pa.array(np.arange(count, dtype=np.int64)).cast(pa.string())
    width = len(str(max(count - 1, 0)))
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(numbers, width, "0"), "-")
