"""What the API answers, as values. Fields that a newer server adds are ignored."""

from dataclasses import dataclass, field, fields
from typing import Any, Self

OVER = ("done", "undone", "stuck", "unreadable")
"""Statuses of tasks in which nothing happens by itself any more."""


class _Value:
    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        """From JSON."""
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: value for name, value in told.items() if name in known})


@dataclass(frozen=True)
class Guest(_Value):
    """A guest. ``revision`` is its ETag."""

    id: int
    kind: str
    name: str
    project: str
    phase: str
    task: int | None
    node: str | None
    spec: dict[str, Any]
    revision: int
    waits_for: str = ""


@dataclass(frozen=True)
class Task(_Value):
    """A change to a guest's life. ``log``: only of a task that was asked for alone."""

    id: int
    flow: str
    project: str
    actor: str
    status: str
    target: str | None
    step: str | None
    progress: float
    reason: str | None
    cancel: str | None
    committed: bool
    submitted_at: float
    closed_at: float | None
    revision: int
    body: Any = None
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether nothing happens by itself any more."""
        return self.status in OVER


@dataclass(frozen=True)
class Node(_Value):
    """A node, what it has and what is claimed of it."""

    name: str
    open: bool
    alive: bool
    cpu_milli: int
    memory_mib: int
    gpus: list[int]
    gpu_model: str
    labels: dict[str, str]
    used_cpu_milli: int
    used_memory_mib: int
    used_gpu_milli: list[int]
    revision: int
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Change(_Value):
    """A change of a row, or an event of a task's log; ``row`` is None if the row is gone."""

    revision: int
    table: str
    key: list[Any]
    row: dict[str, Any] | None


@dataclass(frozen=True)
class Output:
    """A piece of an agent's output (``stream``: stdout, stderr, note), or the exit of a program inside it."""

    stream: str
    data: bytes = b""
    exit: int | None = None


class ApiError(Exception):
    """What the server answered instead. ``kind``: as bad-field or not-now; ``status`` 0: no server was reached."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or f"the server answers {status}"))
        self.status, self.problem = status, problem
        self.kind = str(problem.get("type", "")).removeprefix("urn:gpve:problem:")
        self.fields: dict[str, str] = {one["field"]: one["problem"] for one in problem.get("errors", ())}
        """By field: what is wrong with it."""
        self.allowed: tuple[str, ...] = tuple(problem.get("allowed", ()))
