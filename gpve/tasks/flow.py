"""A flow: what a task does, as data. Steps with do and undo, their order, deadlines, at most one commit point.

A step's functions get a `Context` (the body, the facts read when the locks were held, the results of earlier steps) and
return one command. They decide nothing else: no clock, no randomness, so a log alone says what every command was.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from gpve.tasks.ledger import Looks, Row, Tx


class Body(BaseModel):
    """The input of a flow. Unknown fields are errors; amounts are cpu_milli and memory_mib."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def looks_at(self, project: str) -> Looks:
        """What submitting it in this project will probably read."""
        return Looks()


class Context(NamedTuple):
    """What a step's functions may look at."""

    task: int
    target: int | str | None
    """The guest (or volume, network, node) that the flow is about."""
    body: Any
    facts: Mapping[str, Any] = {}
    """What `Flow.read` found when the task had all its locks."""
    results: Mapping[str, Mapping[str, Any]] = {}
    """By step: what its `Done` carried."""

    @property
    def node(self) -> str:
        """Where the guest is placed: by this task's step ``place``, or before the task began."""
        placed = self.results.get("place")
        return str(placed["node"] if placed else self.facts["guest"]["node"])


class OnNode(NamedTuple):
    """An operation on a node. ``resource``: what the epoch fences, one owner at a time."""

    node: str
    verb: str
    arguments: Mapping[str, Any]
    resource: str


class InStore(NamedTuple):
    """A change of the store alone: made in the very transaction that records the step."""

    verb: str
    arguments: Mapping[str, Any]


class Place(NamedTuple):
    """Find a node and claim what the guest needs there. The scheduler decides; the claim is written with the record."""

    guest: int
    spec: Mapping[str, Any]
    role: str
    only: str | None = None
    """The one node that will do."""
    never: tuple[str, ...] = ()
    kind: str = ""
    """Of the guest: only nodes that run such guests will do; empty: any."""
    project: str = ""
    """Of the guest: it may have a policy of its own."""


Command = OnNode | InStore | Place
Action = Callable[[Context], Command]


@dataclass(frozen=True)
class Retry:
    """Wait ``first_s`` before the second attempt, ``factor`` times longer before each next, at most ``longest_s``.

    A share of each wait, up to ``jitter``, is drawn by seed.
    """

    first_s: float = 0.5
    factor: float = 2.0
    longest_s: float = 60.0
    jitter: float = 0.2
    attempts: int = 8
    """How often a refusal that may pass is tried again before the step fails."""

    def wait_s(self, attempt: int, draw: float) -> float:
        """How long to wait after attempt number ``attempt`` (from 1); ``draw`` in [0, 1)."""
        wait = min(self.longest_s, self.first_s * self.factor ** min(attempt - 1, 60))
        return wait * (1.0 - self.jitter * draw)


@dataclass(frozen=True)
class Step:
    """One step. ``needs``: the steps that must be done before; None: the one before it in the list."""

    name: str
    do: Action
    undo: Action | None = None
    needs: tuple[str, ...] | None = None
    retry: Retry = Retry()
    attempt_s: float = 60.0
    """After so long without an answer the outcome of an attempt is unknown."""
    deadline_s: float = 600.0
    """From the first attempt; then the step has failed."""
    undo_attempt_s: float = 60.0
    undo_deadline_s: float = 600.0
    """From the first attempt to undo; then the task is stuck."""
    commit: bool = False
    """The commit point: once it is done, the task only goes forward."""
    waits: bool = False
    """A `Place` that waits until it fits, instead of failing."""
    only_if: Callable[[Context], bool] | None = None


class Lock(NamedTuple):
    """A wish for a resource: ``guest/100``, ``network/lan``. Shared locks are held together."""

    resource: str
    shared: bool = False


class Opened(NamedTuple):
    """What `Flow.open` made when the task was submitted."""

    target: int | str | None


def _no_facts(tx: Tx, target: Any, body: Any) -> dict[str, Any]:
    return {}


class FlowError(ValueError):
    """A flow whose definition makes no sense."""


PROSE = ("title", "description", "examples")
"""Keywords of a JSON schema that say nothing about what is valid."""


@dataclass(frozen=True)
class Flow:
    """A flow. ``version`` counts up with every change of what `table` shows; old versions stay while tasks have them.

    ``open(tx, body, task)``: in the submitting transaction: check the phase, write what announces the task, say the
    target.
    ``locks(target, body)``: all the locks, queued as one set in the same transaction.
    ``read(tx, target, body)``: in the claiming transaction, with all locks held: the facts that the steps may use.
    ``close(tx, context, done)``: in the closing transaction: phases, quota and rows that go with the outcome.
    """

    name: str
    version: int
    body: type[Body]
    steps: Sequence[Step]
    open: Callable[[Tx, Any, int], Opened]
    locks: Callable[[Any, Any], Sequence[Lock]]
    close: Callable[[Tx, Context, bool], None]
    read: Callable[[Tx, Any, Any], dict[str, Any]] = _no_facts
    deadline_s: float = 86_400.0
    """From submission; a task that has not reached its commit point by then is undone."""

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if len(set(names)) != len(names):
            raise FlowError(f"{self.name}: two steps of one name")
        commits = [step.name for step in self.steps if step.commit]
        if len(commits) > 1:
            raise FlowError(f"{self.name}: more than one commit point: {', '.join(commits)}")
        for at, step in enumerate(self.steps):
            for need in step.needs or ():
                if need not in names[:at]:
                    raise FlowError(f"{self.name}: step {step.name!r} needs {need!r}, which does not stand before it")
        for step in self.steps:
            if step.undo is None and not step.commit and step.name not in self.after_commit:
                raise FlowError(f"{self.name}: step {step.name!r} has no undo and stands before the commit point")
        if commits and (loose := set(names) - {commits[0]} - self.after_commit - self.ancestors[commits[0]]):
            raise FlowError(f"{self.name}: neither before nor after the commit point: {', '.join(sorted(loose))}")

    @cached_property
    def by_name(self) -> dict[str, Step]:
        """Steps by name."""
        return {step.name: step for step in self.steps}

    @cached_property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """By step: the steps that must be done before it."""
        needs: dict[str, tuple[str, ...]] = {}
        before: tuple[str, ...] = ()
        for step in self.steps:
            needs[step.name] = before if step.needs is None else step.needs
            before = (step.name,)
        return needs

    @cached_property
    def commit(self) -> str | None:
        """The name of the commit step, if there is one."""
        return next((step.name for step in self.steps if step.commit), None)

    @cached_property
    def dependents(self) -> dict[str, tuple[str, ...]]:
        """By step: the steps that need it."""
        return {name: tuple(other for other in self.needs if name in self.needs[other]) for name in self.needs}

    @cached_property
    def ancestors(self) -> dict[str, set[str]]:
        """By step: all the steps that must be done before it, near and far."""
        found: dict[str, set[str]] = {}
        for name, needs in self.needs.items():
            found[name] = set(needs).union(*(found[need] for need in needs))
        return found

    @cached_property
    def after_commit(self) -> set[str]:
        """The steps that come after the commit point."""
        return {name for name, before in self.ancestors.items() if self.commit in before}

    def table(self) -> dict[str, Any]:
        """The table of steps: what a version stands for."""
        steps = [
            {
                "name": s.name,
                "needs": self.needs[s.name],
                "undo": s.undo is not None,
                "commit": s.commit,
                "waits": s.waits,
                "conditional": s.only_if is not None,
                "attempt_s": s.attempt_s,
                "deadline_s": s.deadline_s,
                "undo_attempt_s": s.undo_attempt_s,
                "undo_deadline_s": s.undo_deadline_s,
            }
            for s in self.steps
        ]
        body = without_prose(self.body.model_json_schema())
        return {"flow": self.name, "body": body, "deadline_s": self.deadline_s, "steps": steps}

    @cached_property
    def table_hash(self) -> str:
        """Of the table of steps (names, order, deadlines, commit point, schema), not of the code."""
        text = json.dumps(self.table(), sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_prose(schema: Any) -> Any:
    """A JSON schema without what is there for people: other words are no other version."""
    match schema:
        case dict():
            # A property may have such a name; then it is a schema, and no text.
            texts = {key for key in PROSE if not isinstance(schema.get(key), dict)}
            return {key: without_prose(value) for key, value in schema.items() if key not in texts}
        case list():
            return [without_prose(value) for value in schema]
    return schema


class Flows:
    """The flows that an engine knows, by name and version."""

    def __init__(self, flows: Sequence[Flow]) -> None:
        self._known = {(flow.name, flow.version, flow.table_hash): flow for flow in flows}
        self._newest: dict[str, Flow] = {}
        for flow in sorted(flows, key=lambda f: f.version):
            self._newest[flow.name] = flow

    def __iter__(self) -> Iterator[Flow]:
        return iter(self._known.values())

    @property
    def versions(self) -> tuple[tuple[str, int, str], ...]:
        """(name, version, hash of the table) of all flows."""
        return tuple(self._known)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._newest))

    def newest(self, name: str) -> Flow | None:
        """The version that new tasks get."""
        return self._newest.get(name)

    def version(self, name: str, version: int) -> Flow | None:
        """A flow by name and version."""
        return next((flow for (n, v, _), flow in self._known.items() if (n, v) == (name, version)), None)

    def of(self, task: Row) -> Flow | None:
        """The flow of a task's row; None if this engine does not know its version."""
        return self._known.get((task["flow"], task["version"], task["table_hash"]))
