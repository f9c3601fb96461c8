"""Why a node cannot take a guest, ordered by how near a miss it was."""

from collections.abc import Mapping
from enum import IntEnum


class Reason(IntEnum):
    """Why a guest does not fit on a node; a larger number is a nearer miss.

    The reason of a guest that fits nowhere is the largest one over all nodes: what the nearest node lacks.
    """

    FITS = 0
    UNSCHEDULABLE = 1
    """The node is absent, drained or failed."""
    GPU_MODEL = 2
    """The node has no GPU of a model that the guest admits."""
    SELECTOR = 3
    """The node's labels do not match the guest's selector."""
    TAINT = 4
    """The node has a taint that the guest does not tolerate."""
    TOO_LARGE = 5
    """The guest asks for more than the whole node has."""
    SEVERAL = 6
    """Two or three of CPU, memory and GPU are short."""
    GPU = 7
    """Too few devices have enough left; CPU and memory suffice."""
    MEMORY = 8
    """Memory is short; CPU and GPU suffice."""
    CPU = 9
    """CPU is short; memory and GPU suffice."""
    POLICY = 10
    """Everything suffices, but the policy's own filter forbids it."""
    GROUP = 11
    """Everything suffices, but a limit or an anti-affinity of a group forbids it."""
    DEADLINE = 12
    """The guest waited until its deadline passed (never the answer of a node)."""

    @property
    def sentence(self) -> str:
        """The reason in words, for tables and error messages."""
        return _SENTENCES[self]


_SENTENCES = {
    Reason.FITS: "fits",
    Reason.UNSCHEDULABLE: "the node takes no guests now",
    Reason.GPU_MODEL: "no GPU of an admitted model",
    Reason.SELECTOR: "labels do not match the selector",
    Reason.TAINT: "a taint is not tolerated",
    Reason.TOO_LARGE: "larger than the whole node",
    Reason.SEVERAL: "several resources short",
    Reason.GPU: "too few GPUs with enough left",
    Reason.MEMORY: "not enough memory left",
    Reason.CPU: "not enough CPU left",
    Reason.POLICY: "the policy's own filter",
    Reason.GROUP: "a limit or anti-affinity of a group",
    Reason.DEADLINE: "the deadline passed while waiting",
}


def counted(reasons: Mapping[str, int]) -> list[str]:
    """How many nodes say what, in sentences: ``2 nodes: not enough CPU left``."""
    return [f"{count} node{'s' * (count != 1)}: {reason}" for reason, count in sorted(reasons.items())]
