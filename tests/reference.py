"""A plain, slow replay to compare with: lists and loops, every node asked at every decision, nothing kept.

Written from the formulas and the rules, not from the compiled code: it shares nothing with it but `Reason`.
"""

import math
from dataclasses import dataclass, field, replace

from gpve.model import Guests, Nodes, Reason

INF = float("inf")
QUANTITIES = (
    "cpu", "mem", "gpu", "active", "open", "waiting", "running", "fragmentation", "power", "power_empty",
    "stranded_cpu", "stranded_mem", "stranded_gpu",
)  # fmt: skip


@dataclass
class Node:
    name: str
    cpu: int
    mem: int
    host_cpu: int
    host_mem: int
    gpus: int
    model: str | None
    labels: dict
    taints: frozenset
    open: bool
    free_cpu: int = 0
    free_mem: int = 0
    free_gpu: list = field(default_factory=list)
    guests: set = field(default_factory=set)


@dataclass
class Guest:
    row: int
    arrival: float
    life: float
    cpu: int
    mem: int
    gpus: int
    milli: int
    models: tuple | None
    selector: frozenset
    tolerations: frozenset
    group: int
    limit: int
    avoid: frozenset
    priority: int
    deadline: float
    node: int = -1
    devices: list = field(default_factory=list)
    first: tuple | None = None
    end: float = INF
    reason: Reason | None = None
    waiting: bool = False
    start: float | None = None
    ends_at: float | None = None


def _pick(sets, codes, row, none):
    return none if codes is None or codes[row] < 0 else sets[codes[row]]


def guests_of(columns: Guests, departs: bool) -> list[Guest]:
    def at(column, row, none):
        return none if column is None else column[row].item()

    return [
        Guest(
            row=r,
            arrival=float(columns.arrival_s[r]),
            life=float(columns.departure_s[r] - columns.arrival_s[r]) if departs else INF,
            cpu=int(columns.cpu_milli[r]),
            mem=int(columns.memory_mib[r]),
            gpus=at(columns.gpu_count, r, 0),
            milli=at(columns.gpu_milli, r, 0),
            models=_pick(columns.gpu_model_sets, columns.gpu_models, r, None),
            selector=_pick(columns.selectors, columns.selector, r, frozenset()),
            tolerations=_pick(columns.toleration_sets, columns.tolerations, r, frozenset()),
            group=at(columns.group, r, -1),
            limit=at(columns.max_per_node, r, 0),
            avoid=_pick(columns.anti_affinity_sets, columns.anti_affinity, r, frozenset()),
            priority=at(columns.priority, r, 0),
            deadline=at(columns.deadline_s, r, INF),
            ends_at=float(columns.departure_s[r]) if departs else INF,
        )
        for r in range(len(columns))
    ]


def common_of(guests: list[Guest]) -> list[Guest]:
    """One guest of each of the commonest kinds of request, up to 95 % of the guests, at most 64 kinds."""
    kinds: dict = {}
    for g in guests:
        key = (g.cpu, g.mem, g.gpus, g.milli, g.models, g.selector, g.tolerations)
        kinds.setdefault(key, []).append(g)
    taken, out = 0, []
    for members in sorted(kinds.values(), key=lambda m: -len(m)):  # stable: ties by first appearance
        if taken >= 0.95 * len(guests) or len(out) == 64:
            break
        taken += len(members)
        out.append(members[0])
    return out


def nodes_of(columns: Nodes) -> list[Node]:
    out = []
    for i, name in enumerate(columns.names):
        cpu_ratio = 1.0 if columns.cpu_overcommit is None else float(columns.cpu_overcommit[i])
        mem_ratio = 1.0 if columns.memory_overcommit is None else float(columns.memory_overcommit[i])
        host_cpu, host_mem = int(columns.cpu_milli[i]), int(columns.memory_mib[i])
        model = columns.gpu_model_names[columns.gpu_model[i]] if columns.gpu_model[i] >= 0 else None
        node = Node(
            name, math.floor(host_cpu * cpu_ratio + 1e-6), math.floor(host_mem * mem_ratio + 1e-6), host_cpu, host_mem,
            int(columns.gpu_count[i]), model,
            columns.labels[i] if columns.labels else {}, columns.taints[i] if columns.taints else frozenset(),
            columns.add_s is None or columns.add_s[i] <= 0,
        )  # fmt: skip
        node.free_cpu, node.free_mem, node.free_gpu = node.cpu, node.mem, [1000] * node.gpus
        out.append(node)
    return out


def typical_of(columns: Guests, popularity=0.95) -> list[tuple]:
    """[(share, cpu, gpu_milli, gpu_count, models or None)] after fgd.md."""
    counts: dict = {}
    for g in guests_of(columns, False):
        key = (g.cpu, g.milli, g.gpus, "" if g.models is None else "|".join(g.models))
        counts[key] = counts.get(key, 0) + 1
    order = sorted(counts, key=lambda k: (counts[k], k), reverse=True)
    total, taken, kept = len(columns), 0, []
    for key in order:
        kept.append(key)
        taken += counts[key]
        if taken >= popularity * total:
            break
    covered = taken / total
    return [(counts[k] / total / covered, k[0], k[1], k[2], tuple(k[3].split("|")) if k[3] else None) for k in kept]


def fragment(free_cpu, free_gpu, model, typical) -> float:
    """F(n), seven sums in order."""
    free = sum(free_gpu)
    q1 = q2 = q4 = xl = xr = na = 0.0
    for share, cpu, milli, count, models in typical:
        if count == 0:
            if free_cpu >= cpu:
                xl += share * free
            else:
                xr += share * free
        elif models is not None and model not in models:
            na += share * free
        else:
            gpu_fits = sum(1 for g in free_gpu if g >= milli) >= count
            if free_cpu >= cpu and gpu_fits:
                q2 += share * sum(g for g in free_gpu if g < milli)
            elif gpu_fits:
                q4 += share * free
            elif free_cpu >= cpu:
                q2 += share * free
            else:
                q1 += share * free
    return q1 + q2 + q4 + xl + xr + na


def _fgd_devices(g: Guest, n: Node, typical):
    """(score, device of a share)."""
    before = fragment(n.free_cpu, n.free_gpu, n.model, typical)

    def score(after_gpu):
        after = fragment(n.free_cpu - g.cpu, after_gpu, n.model, typical)
        return int(100.0 * (1.0 / (1.0 + math.exp(-((before - after) / 1000.0)))))

    if g.gpus == 1 and g.milli < 1000:
        best = (-1, -1)
        for d, left in enumerate(n.free_gpu):
            if left >= g.milli:
                s = score([x - g.milli if e == d else x for e, x in enumerate(n.free_gpu)])
                if s > best[0]:
                    best = (s, d)
        return best
    taken = smallest(n, g)
    return score([x - g.milli if e in taken else x for e, x in enumerate(n.free_gpu)]), -1


def smallest(n: Node, g: Guest) -> list[int]:
    """The devices with the least left that fit, lowest index on a tie."""
    fitting = sorted((left, d) for d, left in enumerate(n.free_gpu) if left >= g.milli)
    return sorted(d for _, d in fitting[: g.gpus])


def shape(g: Guest) -> str:
    return "share" if g.gpus == 1 and g.milli < 1000 else f"{g.gpus}"


def score(policy: str, g: Guest, n: Node, guests: list[Guest], typical) -> float:
    left = sum(n.free_gpu)
    if policy == "first-fit":
        return 0.0
    if policy in ("best-fit", "least-allocated"):
        s = (n.free_cpu - g.cpu) / n.cpu + (n.free_mem - g.mem) / n.mem
        if n.gpus:
            s += (left - g.gpus * g.milli) / (1000.0 * n.gpus)
        if policy == "best-fit":
            return -s
        return s / 3 if n.gpus else s / 2
    if policy == "worst-fit":
        return min((n.free_cpu - g.cpu) / n.cpu, (n.free_mem - g.mem) / n.mem)
    if policy == "dominant-resource":
        shares = [0.0]
        if g.cpu:
            shares.append(g.cpu / n.free_cpu)
        if g.mem:
            shares.append(g.mem / n.free_mem)
        if g.gpus:
            shares.append(g.gpus * g.milli / left)
        return max(shares)
    if policy == "dot-product":
        s = (g.cpu / n.cpu) * (n.free_cpu / n.cpu) + (g.mem / n.mem) * (n.free_mem / n.mem)
        if g.gpus:
            whole = 1000.0 * n.gpus
            s += (g.gpus * g.milli / whole) * (left / whole)
        return s
    if policy == "fgd":
        return _fgd_devices(g, n, typical)[0]
    if policy == "fgd23-bestfit":
        s = 0.5 * ((n.free_cpu - g.cpu) / 128000.0) + 0.5 * ((left - g.milli * g.gpus) / 8000.0)
        return int(100.0 * (1.0 - s))
    if policy == "fgd23-dotprod":
        s = (n.free_cpu / 128000.0) * (g.cpu / 128000.0) + (left / 8000.0) * (g.milli * g.gpus / 8000.0)
        return int(100.0 * (1.0 - 0.5 * s))
    if policy == "gpu-packing":
        if g.gpus == 0:
            return 0
        if all(x == 1000 for x in n.free_gpu):
            return max(33 - n.gpus, n.gpus)
        taken = [n.free_gpu[d] for d in smallest(n, g)]
        free = sum(1 for x in taken if x == 1000)
        return max(50 - free, 33) if free else max(100 - (sum(taken) * 100 // 1000) // 10, 50)
    if policy == "gpu-clustering":
        if g.gpus == 0:
            return 0
        base = 25 * (8000 - left) // 8000
        tags = {shape(guests[r]) for r in n.guests if guests[r].gpus}
        if shape(g) in tags:
            return base + (75 if len(tags) == 1 else 50)
        return base + (0 if tags else 25)
    raise AssertionError(policy)


def splitmix(seed: int, guest: int) -> int:
    mask = (1 << 64) - 1
    z = (seed + 0x9E3779B97F4A7C15 * (guest + 1)) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


class Reference:
    """Replay, one event at a time."""

    def __init__(self, guests: Guests, nodes: Nodes, policy: str, queue="drop", departs=True, seed=0, events=()):
        self.guests = guests_of(guests, departs)
        self.nodes = nodes_of(nodes)
        self.typical = typical_of(guests)
        self.policy, self.queue, self.seed = policy, queue, seed
        self.events = sorted(events, key=lambda e: e[0])  # (time, kind, node); stable
        self.integral = dict.fromkeys(QUANTITIES, 0.0)
        self.peak = dict.fromkeys(QUANTITIES, 0.0)
        self.common = common_of(self.guests)
        self.lost = self.migrated = 0

    def why_not(self, g: Guest, n: Node, grouped: bool = True) -> Reason:
        if not n.open:
            return Reason.UNSCHEDULABLE
        if g.models is not None and n.model not in g.models:
            return Reason.GPU_MODEL
        if not all(n.labels.get(k) == v for k, v in g.selector):
            return Reason.SELECTOR
        if not n.taints <= g.tolerations:
            return Reason.TAINT
        if g.cpu > n.host_cpu or g.mem > n.host_mem or g.gpus > n.gpus:
            return Reason.TOO_LARGE
        short = []
        if g.cpu > n.free_cpu:
            short.append(Reason.CPU)
        if g.mem > n.free_mem:
            short.append(Reason.MEMORY)
        if g.gpus and sum(1 for x in n.free_gpu if x >= g.milli) < g.gpus:
            short.append(Reason.GPU)
        if short:
            return short[0] if len(short) == 1 else Reason.SEVERAL
        if not grouped:
            return Reason.FITS
        here = [self.guests[r] for r in n.guests]
        if g.limit and g.group >= 0 and sum(1 for o in here if o.group == g.group) >= g.limit:
            return Reason.GROUP
        if any(o.group in g.avoid for o in here) or any(g.group >= 0 and g.group in o.avoid for o in here):
            return Reason.GROUP
        return Reason.FITS

    def find(self, g: Guest):
        """(node index, None) or (-1, nearest reason)."""
        verdicts = [self.why_not(g, n) for n in self.nodes]
        fitting = [i for i, v in enumerate(verdicts) if v is Reason.FITS]
        if not fitting:
            return -1, max(verdicts, default=Reason.UNSCHEDULABLE)
        if self.policy == "random":
            return fitting[(splitmix(self.seed, g.row) & 0xFFFFFFFF) % len(fitting)], None
        return max(fitting, key=lambda i: (score(self.policy, g, self.nodes[i], self.guests, self.typical), -i)), None

    def devices(self, g: Guest, n: Node) -> list[int]:
        if not g.gpus:
            return []
        if g.gpus == 1 and g.milli < 1000:
            if self.policy == "fgd":
                return [_fgd_devices(g, n, self.typical)[1]]
            if self.policy == "random":
                fitting = [d for d, x in enumerate(n.free_gpu) if x >= g.milli]
                return [fitting[(splitmix(self.seed, g.row) >> 32) % len(fitting)]]
        return smallest(n, g)

    def claim(self, g: Guest, i: int) -> None:
        n = self.nodes[i]
        g.devices = self.devices(g, n)
        for d in g.devices:
            n.free_gpu[d] -= g.milli
        n.free_cpu -= g.cpu
        n.free_mem -= g.mem
        n.guests.add(g.row)
        g.node = i
        if g.first is None:
            g.first = (i, g.devices)
        self.observe(0.0)

    def leave(self, g: Guest, move: bool = False) -> None:
        n = self.nodes[g.node]
        for d in g.devices:
            n.free_gpu[d] += g.milli
        n.free_cpu += g.cpu
        n.free_mem += g.mem
        n.guests.remove(g.row)
        g.node = -1
        if not move:
            self.observe(0.0)

    def start(self, g: Guest, i: int, now: float) -> None:
        again = g.start is not None
        self.claim(g, i)
        if not again:
            g.start = now
            g.end = g.ends_at if now == g.arrival else now + g.life
        else:
            g.end = now + g.life
        if g.life == 0:
            self.leave(g)
            g.end = -INF

    def totals(self) -> dict:
        """What is recorded, computed from nothing but the state."""
        out = dict.fromkeys(QUANTITIES, 0.0)
        for n in self.nodes:
            out["cpu"] += n.cpu - n.free_cpu
            out["mem"] += n.mem - n.free_mem
            out["gpu"] += sum(1000 - x for x in n.free_gpu)
            out["active"] += bool(n.guests)
            out["open"] += n.open
            if n.open:
                out["fragmentation"] += fragment(n.free_cpu, n.free_gpu, n.model, self.typical)
                for name, amount in self.stranded(n).items():
                    out[name] += amount
            if n.open or n.guests:
                watts = 100 + 200 * min((n.cpu - n.free_cpu) / n.host_cpu, 1)
                out["power"] += watts
                out["power_empty"] += 0 if n.guests else watts
        out["waiting"] = sum(g.waiting for g in self.guests)
        out["running"] = sum(g.node >= 0 for g in self.guests)
        return out

    def stranded(self, n: Node) -> dict:
        """Free CPU, memory, GPU that no common request can use, though one could if it alone counted."""
        could = {"stranded_cpu": False, "stranded_mem": False, "stranded_gpu": False}
        for g in self.common:
            verdict = self.why_not(replace(g, limit=0, group=-1, avoid=frozenset()), n, grouped=False)
            if verdict is Reason.FITS:
                return {}
            if verdict in (Reason.GPU_MODEL, Reason.SELECTOR, Reason.TAINT):
                continue
            could["stranded_cpu"] |= 0 < g.cpu <= n.free_cpu
            could["stranded_mem"] |= 0 < g.mem <= n.free_mem
            could["stranded_gpu"] |= 0 < g.gpus <= sum(x >= g.milli for x in n.free_gpu)
        free = {"stranded_cpu": n.free_cpu, "stranded_mem": n.free_mem, "stranded_gpu": sum(n.free_gpu)}
        return {name: free[name] for name in could if could[name]}

    def observe(self, seconds: float) -> None:
        """Let the state last, and raise the peaks."""
        for name, value in self.totals().items():
            self.integral[name] += value * seconds
            self.peak[name] = max(self.peak[name], value)

    def retry(self, now: float) -> None:
        waiting = sorted((g for g in self.guests if g.waiting), key=lambda g: (-g.priority, self.rank[g.row]))
        for g in waiting:
            i, _ = self.find(g)
            if i >= 0:
                g.waiting = False
                self.start(g, i, now)
            elif self.queue == "wait":
                return

    def node_event(self, now: float, kind: int, i: int) -> None:
        n = self.nodes[i]
        n.open = kind == 0
        if kind == 0:
            return
        for row in sorted(n.guests):
            g = self.guests[row]
            if kind == 1:
                target, _ = self.find(g)
                if target >= 0:
                    self.leave(g, move=True)
                    self.claim(g, target)
                    self.migrated += 1
                continue
            self.leave(g)
            g.life = g.end - now
            if self.queue != "drop":
                g.waiting = True
                continue
            target, _ = self.find(g)
            if target >= 0:
                self.start(g, target, now)
            else:
                self.lost += 1

    def run(self) -> "Reference":
        order = sorted(self.guests, key=lambda g: g.arrival)
        self.rank = {g.row: k for k, g in enumerate(order)}
        events, arrivals = list(self.events), list(order)
        freed, clock = False, -INF
        while True:
            running = [g for g in self.guests if g.node >= 0 and g.end < INF]
            t_end = min((g.end for g in running), default=INF)
            t_node = events[0][0] if events else INF
            t_arrival = arrivals[0].arrival if arrivals else INF
            t_dead = min((g.deadline for g in self.guests if g.waiting and g.start is None), default=INF)
            self.observe(0.0)
            if freed and min(t_end, t_node) > clock:
                freed = False
                if any(g.waiting for g in self.guests):
                    self.retry(clock)
                    continue
            now = min(t_end, t_node, t_arrival, t_dead)
            if now == INF:
                return self
            self.observe(now - clock if clock >= order[0].arrival else 0.0)
            clock = now
            if t_end == now:
                self.leave(min((g for g in running if g.end == now), key=lambda g: g.row))
                freed = True
            elif t_node == now:
                _, kind, i = events.pop(0)
                self.node_event(now, kind, i)
                freed = True
            elif t_arrival == now:
                g = arrivals.pop(0)
                if self.queue == "wait" and any(o.waiting and o.priority >= g.priority for o in self.guests):
                    g.waiting = True
                    continue
                i, reason = self.find(g)
                if i >= 0:
                    self.start(g, i, now)
                elif self.queue == "drop":
                    g.reason = reason
                else:
                    g.waiting = True
            else:
                for g in self.guests:
                    if g.waiting and g.start is None and g.deadline == now:
                        g.waiting = False
                        g.reason = Reason.DEADLINE
                        break
                if self.queue == "wait":
                    freed = True
