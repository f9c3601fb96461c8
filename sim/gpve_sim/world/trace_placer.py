"""The scheduler's port over the guests of a trace: decisions of the compiled core, with classes, groups and lots."""

from collections.abc import Callable, Sequence

from gpve.model.columns import Nodes
from gpve.model.reasons import Reason
from gpve.scheduler.cluster import state_of
from gpve.scheduler.compiled import bound
from gpve.scheduler.fragmentation import typical_requests
from gpve.scheduler.policy import Policy
from gpve.scheduler.requests import requests_of
from gpve.tasks.advance import Question
from gpve.tasks.records import Decided, NoFit
from gpve.world.placer import NodeRows
from gpve_sim.kernel.single import decide_single, open_single, release_single, start_single
from gpve_sim.trace import Trace
from gpve_sim.world.trace_queue import AHEAD, TraceQueue


def _moves(question: Question) -> bool:
    """Whether a guest is migrated: it has a place, and waits for none."""
    return question.place.role == "incoming"


class TracePlacer:
    """Decides for the guests of a trace by the compiled core, and takes back what the store has given back."""

    def __init__(
        self, trace: Trace, nodes: Nodes, policy: Policy, seed: int, mode: str, clock: Callable[[], float]
    ) -> None:
        requests = requests_of(trace.guests)
        typical = typical_requests(trace.guests, nodes.gpu_model_names)
        self.state = state_of(nodes, requests, typical)
        self.queue = TraceQueue(trace, requests, mode)
        self._clock = clock
        self._policy = (*policy.compiled, policy.uniform, policy.keeps, seed)
        self._class, self._rule = requests.of_guest, requests.rule_of_guest
        self.names = nodes.names
        self._gpu_milli = trace.guests.gpu_milli
        self._versions: dict[str, int] = {}
        self._at = {name: n for n, name in enumerate(nodes.names)}
        self._closed = {n for n in range(len(nodes)) if not self.state.nodes["open"][n]}
        self._seen = -1
        self.row_of: dict[int, int] = {}
        """Row in the trace, by the guest's number in the store."""
        self.taken: dict[tuple[int, int], int] = {}
        """Devices by (row, node): what the core has claimed now."""
        self.placed: dict[int, tuple[int, int, float]] = {}
        """(node, devices, time) by row: where and when a guest was placed first."""
        start_single(self.state, self._policy)
        self._decide = bound(decide_single, self.state, self._policy, 0, 0, 0)
        self._release = bound(release_single, self.state, self._policy, 0, 0, 0, 0)

    def decide(self, questions: Sequence[Question], nodes: NodeRows) -> list[Decided | NoFit]:
        """As in `gpve.world.placer.Placer`."""
        for row in nodes(self._seen, ()):
            self._seen = max(self._seen, row["revision"])
            self._versions[row["name"]] = row["version"]
            self._open(self._at[row["name"]], row["open"] and row["alive"])
        # Decided for in the order of the queue; the claims are made in the order of the questions.
        found = {question.task: self._find(question) for question in self._in_turn(questions)}
        return [self._answer(found[question.task]) for question in questions]

    def _in_turn(self, questions: Sequence[Question]) -> Sequence[Question]:
        def key(question: Question) -> tuple[int, ...]:
            # A drain sends guests away in the order of the trace; only then it is the queue's turn.
            g = self.row_of[question.place.guest]
            return (0, g) if _moves(question) else (1, *self.queue.key(g))

        return sorted(questions, key=key) if len(questions) > 1 else questions

    def _find(self, question: Question) -> tuple[int, int] | NoFit:
        """(row in the trace, node): claimed in the core."""
        g = self.row_of[question.place.guest]
        moves, queue = _moves(question), self.queue
        if not moves and not queue.has_turn(g):
            if g not in queue.waiting:
                queue.no_place(g, question.task, NoFit({AHEAD: len(self.names)}))
            return queue.waiting[g].said
        n, devices = self._decide(self.state, self._policy, int(self._class[g]), self._rule_of(g), g)
        if n < 0:
            said = NoFit({Reason(-n).sentence: len(self.names)})
            if not moves:
                queue.no_place(g, question.task, said)
            return said
        if not moves:
            queue.placed(g)
        self.taken[g, int(n)] = int(devices)
        self.placed.setdefault(g, (int(n), int(devices), self._clock()))
        return g, int(n)

    def _answer(self, found: tuple[int, int] | NoFit) -> Decided | NoFit:
        if isinstance(found, NoFit):
            return found
        name, devices = self.names[found[1]], self.taken[found]
        milli = 0 if self._gpu_milli is None else int(self._gpu_milli[found[0]])
        shares = {str(d): milli for d in range(devices.bit_length()) if devices >> d & 1}
        decided = Decided(name, self._versions[name], shares)
        self._versions[name] += 1
        return decided

    def _rule_of(self, g: int) -> int:
        return int(self._rule[g]) if len(self._rule) else -1

    def _open(self, n: int, is_open: bool) -> None:
        if is_open == (n in self._closed):
            open_single(self.state, n, int(is_open))
            self._closed ^= {n}

    def given_back(self, guest: int, node: str) -> None:
        """The store has no claim of this guest on this node any more."""
        g, n = self.row_of[guest], self._at[node]
        devices = self.taken.pop((g, n))
        self._release(self.state, self._policy, int(self._class[g]), self._rule_of(g), n, devices)
        # What was taken and is given back at one moment is there as before.
        self.queue.freed |= not (self.queue.is_momentary(g) and self.placed[g][2] == self._clock())
