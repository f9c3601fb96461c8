"""The scheduler's port over the guests of a trace: decisions of the compiled core, with classes, groups and lots."""

from collections.abc import Sequence

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


class TracePlacer:
    """Decides for the guests of a trace by the compiled core, and takes back what the store has given back."""

    def __init__(self, trace: Trace, nodes: Nodes, policy: Policy, seed: int) -> None:
        requests = requests_of(trace.guests)
        typical = typical_requests(trace.guests, nodes.gpu_model_names)
        self.state = state_of(nodes, requests, typical)
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
        self.placed: dict[int, tuple[int, int]] = {}
        """(node, devices) by row: where a guest was placed first."""
        start_single(self.state, self._policy)
        self._decide = bound(decide_single, self.state, self._policy, 0, 0, 0)
        self._release = bound(release_single, self.state, self._policy, 0, 0, 0, 0)

    def decide(self, questions: Sequence[Question], nodes: NodeRows) -> list[Decided | NoFit]:
        """As in `gpve.world.placer.Placer`."""
        versions = self._versions
        for row in nodes(self._seen, ()):
            self._seen = max(self._seen, row["revision"])
            versions[row["name"]] = row["version"]
            self._open(self._at[row["name"]], row["open"] and row["alive"])
        answers: list[Decided | NoFit] = []
        for question in questions:
            g = self.row_of[question.place.guest]
            n, devices = self._decide(self.state, self._policy, int(self._class[g]), self._rule_of(g), g)
            if n < 0:
                answers.append(NoFit({Reason(-n).sentence: len(self.names)}))
                continue
            self.taken[g, int(n)] = int(devices)
            self.placed.setdefault(g, (int(n), int(devices)))
            name = self.names[n]
            milli = 0 if self._gpu_milli is None else int(self._gpu_milli[g])
            shares = {str(d): milli for d in range(int(devices).bit_length()) if int(devices) >> d & 1}
            answers.append(Decided(name, versions[name], shares))
            versions[name] += 1
        return answers

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
