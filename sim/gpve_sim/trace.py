"""A trace: guests, perhaps what they used, and the cluster that goes with them."""

from dataclasses import dataclass, field

from gpve.model import Guests, Nodes, Usage


@dataclass(frozen=True)
class Trace:
    """What a reader returns: everything that a replay needs, and where it came from."""

    name: str
    """``openb/default``, or the path of a file."""
    guests: Guests
    nodes: Nodes
    """The cluster that the reader gives when the user names none; each reader documents its own."""
    usage: Usage | None = None
    departures: bool = True
    """False: the trace has no times of departure, guests arrive in file order and stay."""
    sources: dict[str, str] = field(default_factory=dict)
    """SHA-256 (of the uncompressed content) by file name, for run.json."""
    notes: tuple[str, ...] = ()
    """What was assumed or drawn, in sentences that the report repeats."""
