"""Guests, nodes and usage as columns: one array per attribute, one row per thing.

Units everywhere: CPU in thousandths of a core (``cpu_milli``), memory in MiB, GPU in thousandths of one
device (``gpu_milli``, per device), time in seconds from the start of the trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    # Only the lab has use for it at run time: a server should not carry it.
    import pyarrow as pa

FOREVER = float("inf")
"""Departure of a guest that never ends; deadline of one that waits for ever."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Guests:
    """G guests in order of arrival at equal times. Optional columns are None where no guest uses them.

    Columns of codes (``gpu_models``, ``group``, ``anti_affinity``, ``selector``, ``tolerations``) point into
    the tuple of the same subject below; -1 means none.
    """

    ids: "pa.StringArray | pa.LargeStringArray"
    """(G,) names, unique."""
    kind: Bytes
    """(G,) codes of `Kind`."""
    arrival_s: Floats
    """(G,) seconds; need not be sorted."""
    departure_s: Floats
    """(G,) seconds, `FOREVER` for what never ends; at least ``arrival_s``."""
    cpu_milli: Ints
    memory_mib: Ints
    gpu_count: Codes | None = None
    """(G,) devices asked for."""
    gpu_milli: Codes | None = None
    """(G,) thousandths of EACH device: 1000 is a whole one, 0 where ``gpu_count`` is 0."""
    gpu_models: Codes | None = None
    """(G,) index into ``gpu_model_sets``; -1 admits any model."""
    group: Codes | None = None
    """(G,) index into ``group_names``."""
    max_per_node: Codes | None = None
    """(G,) most members of the guest's own group on one node, this guest included; 0 is no limit."""
    anti_affinity: Codes | None = None
    """(G,) index into ``anti_affinity_sets``: groups that it never shares a node with."""
    selector: Codes | None = None
    """(G,) index into ``selectors``."""
    tolerations: Codes | None = None
    """(G,) index into ``toleration_sets``."""
    priority: Codes | None = None
    """(G,) a larger number leaves the queue earlier; 0 where absent."""
    deadline_s: Floats | None = None
    """(G,) absolute second until which a waiting guest may start; `FOREVER` where absent."""
    gpu_model_sets: tuple[tuple[str, ...], ...] = ()
    """Each the models admitted, as the trace writes them: its order and repeats tell typical requests apart."""
    group_names: tuple[str, ...] = ()
    anti_affinity_sets: tuple[frozenset[int], ...] = ()
    """Each a set of indices into ``group_names``."""
    selectors: tuple[frozenset[tuple[str, str]], ...] = ()
    """Each a set of (label, value) that a node must have."""
    toleration_sets: tuple[frozenset[str], ...] = ()
    """Each a set of taints that the guest tolerates."""

    def __len__(self) -> int:
        return len(self.arrival_s)

    @staticmethod
    def empty() -> "Guests":
        """No guests."""
        import pyarrow as pa

        return Guests(
            # Not `pa.array`: that would import all of pandas, to see whether the list is one of its own.
            ids=pa.nulls(0, pa.string()),
            kind=np.zeros(0, dtype=np.uint8),
            arrival_s=np.zeros(0),
            departure_s=np.zeros(0),
            cpu_milli=np.zeros(0, dtype=np.int64),
            memory_mib=np.zeros(0, dtype=np.int64),
        )

    def take(self, rows: NDArray[np.int64]) -> "Guests":
        """The guests at ``rows``, in that order (a row may be taken once only: names stay unique)."""
        import pyarrow as pa

        changes: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                changes[f.name] = value[rows]
            elif f.name == "ids":
                changes[f.name] = value.take(pa.array(rows))
        return replace(self, **changes)

    def nbytes(self) -> int:
        """Bytes of all columns together."""
        arrays = (getattr(self, f.name) for f in fields(self))
        return sum(a.nbytes for a in arrays if hasattr(a, "nbytes"))


@dataclass(frozen=True)
class PowerCurve:
    """Power in watts of a node against its CPU load, as points at equal steps from 0 % to 100 %.

    Two points are a straight line (idle, full); eleven are a SPECpower table.
    """

    watts: tuple[float, ...]


DEFAULT_POWER = PowerCurve((100.0, 300.0))
"""Where a node names none: 100 W idle, 300 W full, a straight line (an assumption, and shown as one)."""


@dataclass(frozen=True)
class Nodes:
    """N nodes in tie-break order. Columns of codes point into the tuple of the same subject; -1 means none."""

    names: tuple[str, ...]
    cpu_milli: Ints
    """(N,) physical."""
    memory_mib: Ints
    """(N,) physical."""
    gpu_count: Codes
    gpu_model: Codes
    """(N,) index into ``gpu_model_names``."""
    gpu_model_names: tuple[str, ...] = ()
    labels: tuple[dict[str, str], ...] | None = None
    """(N,) or None: no node has labels."""
    taints: tuple[frozenset[str], ...] | None = None
    """(N,) or None: no node has taints. A guest must tolerate every taint of its node."""
    cpu_overcommit: Floats | None = None
    """(N,) claims may sum to this many times the physical CPU; 1 where absent."""
    memory_overcommit: Floats | None = None
    power: Codes | None = None
    """(N,) index into ``power_curves``; -1 or None takes `DEFAULT_POWER`."""
    power_curves: tuple[PowerCurve, ...] = ()
    add_s: Floats | None = None
    """(N,) second at which the node joins; 0 where absent."""
    drain_s: Floats | None = None
    """(N,) second at which it is drained; `FOREVER` where absent."""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Nodes":
        """The nodes at ``rows``, in that order: the order is the tie-break order."""
        index = np.asarray(rows, dtype=np.int64)
        changes: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                changes[f.name] = value[index]
            elif f.name in ("names", "labels", "taints") and value is not None:
                changes[f.name] = tuple(value[i] for i in index)
        return replace(self, **changes)


@dataclass(frozen=True)
class Usage:
    """What guests really used, as R rows of a constant load between two times, sorted by ``start_s``."""

    guest: Codes
    """(R,) row of the guest."""
    start_s: Floats
    end_s: Floats
    cpu_milli: Ints
    memory_mib: Ints
    phase: Codes | None = None
    """(R,) index into ``phase_names``."""
    phase_names: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.guest)
