"""The scheduler behind the port: several policies over the same rows of nodes."""

import json
from collections.abc import Collection, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from gpve.model.kinds import KINDS, taint_simulated, taint_without
from gpve.scheduler.policy import load
from gpve.tasks.advance import Question
from gpve.tasks.flow import Place
from gpve.tasks.ledger import Row
from gpve.tasks.records import Decided, NoFit
from gpve.world.placement import SchedulerPlacer

POLICIES = {name: load(name) for name in ("best-fit", "worst-fit", "random", "fgd")}


class Rows:
    """The rows of nodes as a store has them: a claim gives a row another version and a newer revision."""

    def __init__(self, nodes: Sequence[tuple[int, int, int, frozenset[str], frozenset[str]]]) -> None:
        self._revision = 0
        self._rows: dict[str, Row] = {}
        for at, node in enumerate(nodes):
            self.add(f"n{at}", *node)

    def add(
        self,
        name: str,
        cpu: int = 8000,
        memory: int = 8192,
        gpus: int = 0,
        lacks: frozenset[str] = frozenset(),
        simulates: frozenset[str] = frozenset(),
    ) -> None:
        taints = [*map(taint_without, sorted(lacks)), *map(taint_simulated, sorted(simulates - lacks))]
        has = {
            "cpu_milli": cpu,
            "memory_mib": memory,
            "gpus": json.dumps([1000] * gpus),
            "gpu_model": "T4" if gpus else "",
            "labels": "{}",
            "taints": json.dumps(taints),
            "used_cpu_milli": 0,
            "used_memory_mib": 0,
            "used_gpu_milli": json.dumps([0] * gpus),
        }
        self._put({"name": name, "open": True, "alive": True, **has, "version": 0})

    def _put(self, row: Row) -> None:
        self._revision += 1
        self._rows[row["name"]] = {**row, "version": row["version"] + 1, "revision": self._revision}

    def alter(self, name: str, **values: object) -> None:
        self._put({**self._rows[name], **values})

    def remove(self, name: str) -> None:
        del self._rows[name]

    def __call__(self, revision: int, names: Collection[str]) -> Sequence[Row]:
        return [row for row in self._rows.values() if row["revision"] > revision or row["name"] in names]

    def claim(self, place: Place, answer: Decided) -> None:
        row = self._rows[answer.node]
        assert row["version"] == answer.version, "the decision was made on what the row says"
        assert taint_without(place.kind) not in _taints(row)
        used = json.loads(row["used_gpu_milli"])
        for device, milli in answer.devices.items():
            used[int(device)] += milli
        assert all(0 <= milli <= 1000 for milli in used)
        if any(
            not {taint_without(place.kind), taint_simulated(place.kind)} & _taints(each) for each in self._rows.values()
        ):
            assert taint_simulated(place.kind) not in _taints(row), "others run it for real"
        new = {
            "used_cpu_milli": row["used_cpu_milli"] + place.spec["cpu_milli"],
            "used_memory_mib": row["used_memory_mib"] + place.spec["memory_mib"],
            "used_gpu_milli": json.dumps(used),
        }
        assert new["used_cpu_milli"] <= row["cpu_milli"]
        assert new["used_memory_mib"] <= row["memory_mib"]
        self.alter(answer.node, **new)


def _taints(row: Row) -> set[str]:
    return set(json.loads(row["taints"]))


NODES = st.lists(
    st.tuples(
        st.integers(1, 8).map(lambda n: 1000 * n),
        st.integers(1, 8).map(lambda n: 1024 * n),
        st.integers(0, 3),
        st.frozensets(st.sampled_from(KINDS), max_size=2),
        st.frozensets(st.sampled_from(KINDS)),
    ),
    min_size=1,
    max_size=6,
)
SPECS = st.fixed_dictionaries(
    {
        "cpu_milli": st.integers(1, 4).map(lambda n: 500 * n),
        "memory_mib": st.integers(1, 4).map(lambda n: 256 * n),
        "gpu": st.sampled_from([(0, 0), (1, 250), (1, 500), (1, 1000), (2, 1000)]),
    }
).map(lambda s: {**{k: s[k] for k in ("cpu_milli", "memory_mib")}, "gpu_count": s["gpu"][0], "gpu_milli": s["gpu"][1]})
WISHES = st.lists(st.tuples(SPECS, st.sampled_from(KINDS), st.sampled_from(sorted(POLICIES))), min_size=1, max_size=20)


def _placer() -> SchedulerPlacer:
    return SchedulerPlacer(POLICIES["best-fit"], seed=7, chosen=lambda place: POLICIES[place.project])


@settings(max_examples=150, deadline=None)
@given(nodes=NODES, wishes=WISHES, cuts=st.sets(st.integers(1, 19)))
def test_one_call_decides_as_many_calls_do(nodes, wishes, cuts) -> None:
    """Policies that share nodes see each other's decisions, committed or not; and nobody goes where its kind is not."""
    questions = [
        Question(at, "place", Place(100 + at, spec, "placement", kind=kind, project=policy))
        for at, (spec, kind, policy) in enumerate(wishes)
    ]
    rows, placer = Rows(nodes), _placer()
    apart: list[Decided | NoFit] = []
    for question in questions:
        (answer,) = placer.decide([question], rows)
        apart.append(answer)
        if isinstance(answer, Decided):
            rows.claim(question.place, answer)
    rows, placer = Rows(nodes), _placer()
    together: list[Decided | NoFit] = []
    ends = [*sorted(cut for cut in cuts if cut < len(questions)), len(questions)]
    for first, last in zip([0, *ends], ends, strict=False):
        answers = placer.decide(questions[first:last], rows)
        assert placer.by == tuple(question.place.project for question in questions[first:last])
        for question, answer in zip(questions[first:last], answers, strict=True):
            if isinstance(answer, Decided):
                rows.claim(question.place, answer)
        together += answers
    assert together == apart


def test_a_node_says_that_it_lacks_an_executor() -> None:
    rows = Rows([(1000, 1024, 0, frozenset({"vm"}), frozenset())])
    place = _small("vm")
    (answer,) = _placer().decide([Question(1, "place", place)], rows)
    assert answer == NoFit({"the node runs no vms": 1})
    assert _placer().explain(place, rows).nearest == "node n0 lacks least: the node runs no vms"


def _small(kind: str, never: tuple[str, ...] = ()) -> Place:
    small = {"cpu_milli": 1, "memory_mib": 1, "gpu_count": 0, "gpu_milli": 0}
    return Place(100, small, "placement", None, never, kind, "best-fit")


RUNS_NO = "the node runs no agents, or only simulates them"


def test_what_some_nodes_run_for_real_is_simulated_nowhere() -> None:
    """Also not while the only real one is dead; only when it has left the cluster for good."""
    rows, placer = Rows([]), _placer()
    rows.add("a", simulates=frozenset(KINDS))

    def decided(kind: str) -> str | dict[str, int]:
        (answer,) = placer.decide([Question(1, "place", _small(kind))], rows)
        return answer.node if isinstance(answer, Decided) else dict(answer.reasons)

    assert decided("agent") == "a", "nobody does it for real"
    rows.add("b", simulates=frozenset(KINDS) - {"agent"})
    assert decided("agent") == "b"
    assert decided("vm") in ("a", "b")
    rows.alter("b", alive=False, used_cpu_milli=8000)
    assert placer.explain(_small("agent"), rows).nearest == f"node a lacks least: {RUNS_NO}"
    told = {RUNS_NO: 1, "the node takes no guests now": 1}
    assert decided("agent") == told
    assert decided("vm") == "a"
    rows.remove("b")
    assert decided("agent") == "a"


def test_who_is_shunned_is_not_told_of_and_a_dead_node_stays_shut() -> None:
    rows, placer = Rows([]), _placer()
    rows.add("a")
    question = Question(1, "place", _small("vm", never=("a",)))
    assert placer.decide([question], rows) == [NoFit({})]
    rows.add("b", cpu=0)
    assert placer.decide([question], rows) == [NoFit({"larger than the whole node": 1})]
    rows.alter("a", alive=False)
    assert placer.decide([question], rows) == [NoFit({"larger than the whole node": 1})]
    (answer,) = placer.decide([Question(2, "place", _small("vm"))], rows)
    assert isinstance(answer, NoFit)


def test_of_a_closed_node_that_is_full_it_is_told_that_it_is_closed() -> None:
    rows, placer = Rows([]), _placer()
    rows.add("a", cpu=1000)
    rows.alter("a", used_cpu_milli=1000)
    assert placer.explain(_small("vm"), rows).nearest == "node a lacks least: 1 milli-CPU short"
    rows.alter("a", open=False)
    assert placer.explain(_small("vm"), rows).nearest == "node a lacks least: the node takes no guests now"
