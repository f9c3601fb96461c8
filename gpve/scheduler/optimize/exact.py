"""When counts per class of equal nodes are exact: divisible sizes in one effective dimension.

M equal nodes are to take X_c requests of class c. Counts alone forget which node takes what; a row "sizes sum
to at most M times the room" admits aggregates that no packing realises (three requests of 2 in two nodes of
3). The rows made here admit exactly the realisable ones. Take the classes S that fit on such a node.

1. *One effective dimension.* Dimension d (CPU, memory, or GPU thousandths) with sizes a_c and room A > 0
   dominates dimension e with sizes b_c and room B if b_c A <= a_c B for all c in S. Then a node that holds
   x_c of each with sum a_c x_c <= A has sum b_c x_c <= sum a_c x_c B / A <= B: e never binds and may be
   forgotten. Proportional resources (memory follows CPU) are the usual case: one of the two always dominates
   the other.

2. *Divisible sizes.* Let the distinct sizes in d be s_1 | s_2 | ... | s_m (each divides the next), u_i(n) the
   number of pieces of size s_i that node n holds when empty: floor(A / s_i). X is realisable on M nodes if
   and only if for all i

       sum over j >= i of (s_j / s_i) X_j  <=  M u_i.        (*)

   Necessary: cut each piece j into s_j / s_i pieces of size s_i; they lie in the nodes, which hold M u_i of
   them. Sufficient: place pieces by descending size, anywhere they fit. A piece of size s_j lowers the number
   of pieces of size s_i <= s_j that its node can still hold by exactly s_j / s_i, since floor((A - s_j) /
   s_i) = floor(A / s_i) - s_j / s_i when s_i | s_j. So before each piece of size s_i the nodes together hold
   M u_i minus the left side of (*) so far, which is at least 1: some node takes it. (Coffman, Garey, Johnson
   1987, "Bin packing with divisible item sizes", prove that first-fit decreasing is optimal there; (*) is the
   same fact as inequalities.)

3. *Devices.* The argument never used that rooms are equal, so it holds for devices as rooms: u_i(n) = sum
   over devices of floor(left / s_i) for s_i up to one device. A request of k > 1 whole devices is a piece of
   size 1000 k, whose rooms are nodes with W wholly free devices: u = floor(W / k), and k whole devices lower
   the count of pieces of size k' 1000 by k / k' if k' | k, and that of shares s_i by 1000 k / s_i if s_i |
   1000, which is asked for. Shares on several devices are not pieces; classes with them are not exact.

4. *Limits of groups* bind per node and are not sizes: a node class with a limited class in S is not exact.

5. One class alone (|S| = 1) is exact in any dimensions: X <= M times what one node takes of it.

When nodes are opened, M is the number of opened nodes (all of the class are equal, so any of them): (*) is
linear in it.
"""

from dataclasses import dataclass
from itertools import pairwise

from gpve.scheduler.optimize.problem import WHOLE, Batch, NodeClass


@dataclass(frozen=True)
class Row:
    """sum of coefficient times count of the class <= room (per node)."""

    coefficients: dict[int, int]
    room: int


def divisible_rows(sizes: dict[int, int], units: dict[int, int]) -> list[Row] | None:
    """The rows (*), or None if the sizes (of the classes with a positive one) are no chain of divisors.

    ``units``: for each distinct size, how many pieces of it a node (or a set of devices) holds.
    """
    distinct = sorted({s for s in sizes.values() if s > 0})
    if any(b % a for a, b in pairwise(distinct)):
        return None
    return [Row({c: s // unit for c, s in sizes.items() if s >= unit}, units[unit]) for unit in distinct]


def device_rows(batch: Batch, gpu: tuple[int, ...], classes: list[int]) -> list[Row] | None:
    """Rows that say exactly which counts of these classes the devices of one node take (point 3), or None."""
    sizes = {c: int(batch.gpu_total[c]) for c in classes if batch.gpu_count[c] > 0}
    several = [c for c in sizes if batch.gpu_count[c] > 1]
    if any(batch.gpu_milli[c] != WHOLE for c in several):
        return None
    if several and any(WHOLE % s for s in sizes.values() if s < WHOLE):
        return None
    free = sum(left == WHOLE for left in gpu)
    units = {s: sum(left // s for left in gpu) if s <= WHOLE else free // (s // WHOLE) for s in set(sizes.values())}
    return divisible_rows(sizes, units)


@dataclass(frozen=True)
class ClassForm:
    """Counts over all equal nodes of a class, proven to decompose into nodes."""

    rows: list[Row]
    descending: list[int]
    """Request classes by size in the effective dimension, largest first: first-fit in this order realises
    them.
    """


def class_form(batch: Batch, node_class: NodeClass) -> ClassForm | None:
    """The form in which counts over the nodes of the class are exact, or None if that is not proven."""
    fit = sorted(node_class.fit)
    if len(fit) == 1:
        return ClassForm([Row({fit[0]: 1}, node_class.fit[fit[0]])], fit)
    if any(batch.limit[c] > 0 for c in fit):
        return None
    cpu = {c: int(batch.cpu[c]) for c in fit}
    mem = {c: int(batch.mem[c]) for c in fit}
    gpu = {c: int(batch.gpu_total[c]) for c in fit}
    gpu_room = sum(node_class.gpu)
    if any(gpu.values()):
        # Devices are rooms inside the node: only they can be the effective dimension.
        if not _dominates(gpu, gpu_room, cpu, node_class.cpu) or not _dominates(gpu, gpu_room, mem, node_class.mem):
            return None
        rows = device_rows(batch, node_class.gpu, fit)
        return None if rows is None else ClassForm(rows, _descending(gpu))
    for sizes, room, others, other_room in (
        (cpu, node_class.cpu, mem, node_class.mem),
        (mem, node_class.mem, cpu, node_class.cpu),
    ):
        if _dominates(sizes, room, others, other_room):
            rows = divisible_rows(sizes, {s: room // s for s in sizes.values() if s > 0})
            if rows is not None:
                return ClassForm(rows, _descending(sizes))
    return None


def _descending(sizes: dict[int, int]) -> list[int]:
    return sorted(sizes, key=lambda c: (-sizes[c], c))


def _dominates(sizes: dict[int, int], room: int, others: dict[int, int], other_room: int) -> bool:
    if not any(others.values()):
        return True
    return room > 0 and all(others[c] * room <= sizes[c] * other_room for c in sizes)
