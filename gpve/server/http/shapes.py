"""What the HTTP API answers: shapes, and how rows become them."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gpve.tasks.ledger import Row


class Shape(BaseModel):
    """What is answered. Times are seconds since 1970 by the store's clock."""

    model_config = ConfigDict(extra="forbid")


class Guest(Shape):
    """A guest as the store knows it."""

    id: int
    kind: str
    name: str
    project: str
    phase: str = Field(description="Steady (running, stopped, ...) or transitional (creating, ...).")
    task: int | None = Field(description="The live task of a transitional phase.")
    node: str | None
    spec: dict[str, Any] = Field(description="What it is made of.")
    revision: int = Field(description="Of this row: its ETag.")
    waits_for: str = Field("", description="Why it is not placed yet.")


class Guests(Shape):
    """A page of guests, by number."""

    guests: list[Guest]
    next: str | None = Field(description="The `page` of the next page; null: that was all.")
    revision: int = Field(description="Watch from here.")


class Task(Shape):
    """A change to a guest's life, which is finished or undone."""

    id: int
    flow: str
    project: str
    actor: str
    status: str = Field(description="queued, running, waiting, undoing, stuck, done, undone, or unreadable.")
    target: str | None
    step: str | None
    progress: float
    reason: str | None = Field(description="What it waits for, or why it is undone.")
    cancel: str | None = Field(description="Why somebody asked for its end.")
    committed: bool = Field(description="Past its commit point: it only goes forward.")
    submitted_at: float
    closed_at: float | None
    revision: int


class Event(Shape):
    """A line of a task's log."""

    seq: int
    kind: str
    step: str
    at: float
    epoch: int
    data: dict[str, Any]


class TaskWithLog(Task):
    """A task, its body and its log."""

    body: Any
    log: list[Event]


class Tasks(Shape):
    """A page of tasks, the newest first."""

    tasks: list[Task]
    next: str | None


class Node(Shape):
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
    facts: dict[str, Any] = Field({}, description="What the node says of itself; only when it is asked for alone.")


class Nodes(Shape):
    """All nodes."""

    nodes: list[Node]


class Use(Shape):
    """Milli-CPU over the last fifth of a second, MiB of memory now."""

    cpu_milli: int
    memory_mib: int


class Usage(Use):
    """What a node uses, by its own account: the whole machine, and its guests that run for real, by number."""

    guests: dict[str, Use]


class Drain(Shape):
    """A drain, or what one would meet."""

    task: Task | None
    blockers: list[str] = Field(description="Guests that would keep the node from being emptied, and why.")


class Quota(Shape):
    """What a project uses, and its limits (null: none)."""

    project: str
    guests: int
    cpu_milli: int
    memory_mib: int
    guests_limit: int | None
    cpu_milli_limit: int | None
    memory_mib_limit: int | None


class Policies(Shape):
    """Which policies decide: the cluster's, and those of projects that have their own."""

    cluster: str
    projects: dict[str, str]
    known: list[str] = Field(description="The names that may be chosen.")


class Status(Shape):
    """The cluster in short."""

    version: str
    revision: int
    nodes: int
    nodes_alive: int
    guests: int
    tasks: dict[str, int]
    servers: list[str]
    alarms: list[str]


class Explanation(Shape):
    """Why a guest is where it is, or why it waits."""

    guest: int
    sentence: str
    policy: str = Field(description="Which policy decides for its project.")
    nodes: dict[str, int] = Field(description="How many nodes say what.")
    nearest: str | None = Field(description="The node that lacks least, and what.")
    best: list[str] = Field(description="Nodes that fit, the best first.")


class Token(Shape):
    """What is known of a token; it is not kept itself."""

    digest: str
    name: str
    purpose: str
    created_at: float
    expires_at: float | None


class NewToken(Shape):
    """A token, shown this once."""

    token: str


class Ca(Shape):
    """The cluster's authority, PEM."""

    ca: str


class Joined(Shape):
    """A node's certificate, the authority's, and where sessions are served."""

    certificate: str
    ca: str
    servers: list[str]


class FieldProblem(Shape):
    """A field, and what is wrong with it."""

    field: str
    problem: str


class ProblemDetails(Shape):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldProblem] = []
    allowed: list[str] = Field([], description="What would be possible now.")


def guest(row: Row, waits_for: str = "") -> dict[str, Any]:
    """A guest."""
    kept = ("id", "kind", "name", "project", "phase", "task", "node", "revision")
    return {name: row[name] for name in kept} | {"spec": json.loads(row["spec"]), "waits_for": waits_for}


def task(row: Row) -> dict[str, Any]:
    """A task."""
    kept = ("id", "flow", "project", "actor", "target", "step", "progress", "cancel", "committed")
    told = {name: row[name] for name in (*kept, "submitted_at", "closed_at")}
    # A row that was just made has no revision yet.
    told["revision"] = row.get("revision", 0)
    if row["poison"] is not None:
        return told | {"status": "unreadable", "reason": row["poison"]}
    return told | {"status": row["status"], "reason": row["reason"]}


def event(row: Row) -> dict[str, Any]:
    """A line of a log; one that is damaged is shown as it is."""
    try:
        data = json.loads(row["data"])
    except ValueError:
        data = {"damaged": row["data"]}
    kept = ("seq", "kind", "step", "at", "epoch")
    return {name: row[name] for name in kept} | {"data": data if isinstance(data, dict) else {"damaged": data}}


def node(row: Row, facts: dict[str, Any] | None = None) -> dict[str, Any]:
    """A node."""
    kept = ("name", "open", "alive", "cpu_milli", "memory_mib", "gpu_model", "used_cpu_milli", "used_memory_mib")
    told = {name: row[name] for name in (*kept, "revision")}
    told |= {name: json.loads(row[name]) for name in ("gpus", "labels", "used_gpu_milli")}
    return told | {"facts": facts or {}}


def volume(row: Row) -> dict[str, Any]:
    """A volume."""
    return {name: row[name] for name in ("id", "guest", "pool", "node", "size_gib", "task", "revision")}


def network(row: Row) -> dict[str, Any]:
    """A network."""
    return {name: row[name] for name in ("name", "kind", "task", "revision")}
