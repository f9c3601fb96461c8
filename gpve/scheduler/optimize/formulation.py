"""The CP-SAT model of a batch: counts of each request class in each bin, devices where counts do not say all.

Variables, for bin b of M nodes and request class c: x[b, c] requests there; for empty nodes o[b] opened, in
0..M; for devices p that counts do not settle z[p, c] requests of less than a whole device and w[p], given
away whole.

A bin with rows (`exact`) has those, times M or o[b]. Else, for its one node: sum cpu x <= free CPU, sum mem x
<= free memory, and for each group and each limit L in it: members + x of the classes with a limit up to L are
at most L (or none of them starts, where more than L run already), which is the rule of `Groups` in the order
stated there. For devices: sum milli z + 1000 w <= left, sum_p z[p, c] = count x[c] with z[p, c] <= x[c] for
requests of several devices (such counts can always be dealt out to different devices, `most_of_one`), sum_p w
= sum of devices asked for whole. Equal devices of a node descend by load; equal nodes are left free (ordering
them too made the solver three to twenty times slower).
"""

from collections import defaultdict
from collections.abc import Iterable

from ortools.sat.python import cp_model

from gpve.scheduler.optimize.bins import Bin, Fill
from gpve.scheduler.optimize.check import Objective, unit_values
from gpve.scheduler.optimize.problem import WHOLE, Batch

LinearExpr = cp_model.LinearExpr


class Formulation:
    """The model, its levels of the objective (all to be maximised), and the way from fills to values and
    back.
    """

    def __init__(self, batch: Batch, bins: list[Bin], objective: Objective, spare_devices: bool) -> None:
        self.batch = batch
        self.bins = bins
        self.model = cp_model.CpModel()
        self.x: list[dict[int, cp_model.IntVar]] = []
        self.opened: dict[int, cp_model.IntVar] = {}
        self.shares: dict[tuple[int, int, int], cp_model.IntVar] = {}
        """(bin, device, request class)"""
        self.whole: dict[tuple[int, int], cp_model.IntVar] = {}
        """(bin, device)"""
        self.broken: dict[tuple[int, int], cp_model.IntVar] = {}
        """(bin, device): a wholly free device that takes shares, where ``spare_devices`` asks for it."""
        self.of_class: dict[int, list[cp_model.IntVar]] = defaultdict(list)
        for i, b in enumerate(bins):
            self._add_bin(i, b, spare_devices)
        for c, terms in self.of_class.items():
            self.model.add(LinearExpr.sum(terms) <= int(batch.count[c]))
        self.levels: list[tuple[str, cp_model.LinearExpr]] = [
            (name, self._total(unit)) for name, unit in unit_values(batch, objective)
        ]
        self.levels.append(("opened", -LinearExpr.sum(list(self.opened.values()))))
        if spare_devices:
            self.levels.append(("broken", -LinearExpr.sum(list(self.broken.values()))))

    def _total(self, unit: list[int]) -> cp_model.LinearExpr:
        variables, coefficients = [], []
        for c, terms in self.of_class.items():
            variables += terms
            coefficients += [unit[c]] * len(terms)
        return LinearExpr.weighted_sum(variables, coefficients)

    def _add_bin(self, i: int, b: Bin, spare_devices: bool) -> None:
        model, count = self.model, len(b.nodes)
        x = {
            c: model.new_int_var(0, min(int(self.batch.count[c]), count * fit), f"x{i}_{c}")
            for c, fit in b.node_class.fit.items()
        }
        self.x.append(x)
        for c, variable in x.items():
            self.of_class[c].append(variable)
        used: cp_model.IntVar | int = count
        if b.node_class.empty:
            used = self.opened[i] = model.new_int_var(0, count, f"o{i}")
            for c, fit in b.node_class.fit.items():
                model.add(x[c] <= fit * used)
        if b.rows is not None:
            for row in b.rows:
                model.add(_sum(x, row.coefficients.items()) <= row.room * used)
            return
        for sizes, room in ((self.batch.cpu, b.node_class.cpu), (self.batch.mem, b.node_class.mem)):
            model.add(_sum(x, ((c, int(sizes[c])) for c in x)) <= room * used)
        self._add_limits(b, x)
        for row in b.device_rows or []:
            model.add(_sum(x, row.coefficients.items()) <= row.room * used)
        if b.device_rows is None:
            self._add_devices(i, b, x, spare_devices)

    def _add_limits(self, b: Bin, x: dict[int, cp_model.IntVar]) -> None:
        batch = self.batch
        if batch.groups is None:
            return
        by_group = defaultdict(list)
        for c in x:
            if batch.limit[c] > 0:
                by_group[int(batch.groups.group[c])].append(c)
        for group, classes in by_group.items():
            for limit in sorted({int(batch.limit[c]) for c in classes}):
                room = max(0, limit - b.node_class.members[group])
                self.model.add(LinearExpr.sum([x[c] for c in classes if batch.limit[c] <= limit]) <= room)

    def _add_devices(self, i: int, b: Bin, x: dict[int, cp_model.IntVar], spare_devices: bool) -> None:
        batch, model, gpu = self.batch, self.model, b.node_class.gpu
        takers = [c for c in x if batch.gpu_count[c] > 0]
        shares = [c for c in takers if batch.gpu_milli[c] < WHOLE]
        wholes = [c for c in takers if batch.gpu_milli[c] == WHOLE]
        before: tuple[int, cp_model.LinearExpr] | None = None
        for p, left in enumerate(gpu):
            terms: list[tuple[cp_model.IntVar, int]] = []
            for c in shares:
                slots = left // int(batch.gpu_milli[c])
                if slots > 0:
                    z = model.new_int_var(0, min(slots, b.node_class.fit[c]), f"z{i}_{p}_{c}")
                    self.shares[i, p, c] = z
                    terms.append((z, int(batch.gpu_milli[c])))
                    if batch.gpu_count[c] > 1:
                        model.add(z <= x[c])
            if left == WHOLE and wholes:
                self.whole[i, p] = model.new_bool_var(f"w{i}_{p}")
                terms.append((self.whole[i, p], WHOLE))
            load = LinearExpr.weighted_sum([v for v, _ in terms], [a for _, a in terms])
            model.add(load <= left)
            if before is not None and before[0] == left:
                model.add(before[1] >= load)
            before = (left, load)
            if left == WHOLE and shares and spare_devices:
                self.broken[i, p] = model.new_bool_var(f"b{i}_{p}")
                share_load = [(v, a) for v, a in terms if a < WHOLE]
                model.add(
                    LinearExpr.weighted_sum([v for v, _ in share_load], [a for _, a in share_load])
                    <= WHOLE * self.broken[i, p]
                )
        for c in shares:
            on_devices = [self.shares[i, p, c] for p in range(len(gpu)) if (i, p, c) in self.shares]
            model.add(LinearExpr.sum(on_devices) == int(batch.gpu_count[c]) * x[c])
        if wholes:
            given = [self.whole[i, p] for p in range(len(gpu)) if (i, p) in self.whole]
            model.add(LinearExpr.sum(given) == _sum(x, ((c, int(batch.gpu_count[c])) for c in wholes)))

    def hint(self, fills: list[Fill]) -> None:
        """Make the fills the hint, complete: every variable gets its value."""
        model = self.model
        model.clear_hints()
        for i, fill in enumerate(fills):
            for c, variable in self.x[i].items():
                model.add_hint(variable, fill.counts.get(c, 0))
            if i in self.opened:
                model.add_hint(self.opened[i], fill.opened)
        for (i, p, c), variable in self.shares.items():
            model.add_hint(variable, fills[i].shares.get((p, c), 0))
        for (i, p), variable in self.whole.items():
            model.add_hint(variable, int(p in fills[i].whole))
        for (i, p), variable in self.broken.items():
            model.add_hint(variable, int(any(q == p for q, _ in fills[i].shares)))

    def read(self, solver: cp_model.CpSolver) -> list[Fill]:
        """The solver's answer as fills."""
        fills = []
        for i, x in enumerate(self.x):
            counts = {c: n for c, variable in x.items() if (n := solver.value(variable)) > 0}
            fills.append(Fill(counts, solver.value(self.opened[i]) if i in self.opened else 0))
        for (i, p, c), variable in self.shares.items():
            if (n := solver.value(variable)) > 0:
                fills[i].shares[p, c] = n
        for (i, p), variable in self.whole.items():
            if solver.value(variable):
                fills[i].whole.add(p)
        return fills


def _sum(x: dict[int, cp_model.IntVar], terms: Iterable[tuple[int, int]]) -> cp_model.LinearExpr:
    pairs = list(terms)
    return LinearExpr.weighted_sum([x[c] for c, _ in pairs], [a for _, a in pairs])
