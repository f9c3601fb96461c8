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

    id: int = Field(description="Its number, cluster-wide, from 100.")
    kind: str = Field(description="vm, vcluster or agent.")
    name: str = Field(description="No other guest of its project has it.")
    project: str = Field(description="Whose quota and policy hold for it.")
    phase: str = Field(description="Steady (running, stopped, ...) or transitional (creating, ...).")
    task: int | None = Field(description="The live task of a transitional phase.")
    node: str | None = Field(description="Where it is; null: nowhere yet.")
    spec: dict[str, Any] = Field(description="What it is made of.")
    revision: int = Field(description="Of this row: its ETag.")
    waits_for: str = Field("", description="Why it is not placed yet.")


class Guests(Shape):
    """A page of guests, by number."""

    guests: list[Guest] = Field(description="By number.")
    next: str | None = Field(description="The `page` of the next page; null: that was all.")
    revision: int = Field(description="Watch from here.")


class Task(Shape):
    """A change to a guest's life, which is finished or undone."""

    id: int = Field(description="Its number.")
    flow: str = Field(description="What it does: vm_create, agent_stop, node_drain, ...")
    project: str = Field(description="On whose account.")
    actor: str = Field(description="Whose token asked for it; `ha`: high availability itself.")
    status: str = Field(description="queued, running, waiting, undoing, stuck, done, undone, or unreadable.")
    target: str | None = Field(description="The guest (its number) or node that it is about.")
    step: str | None = Field(description="The step under way.")
    progress: float = Field(description="From 0 to 1; it never falls.")
    reason: str | None = Field(description="What it waits for, or why it is undone.")
    cancel: str | None = Field(description="Who asked for its end, and why.")
    committed: bool = Field(description="Past its commit point: it only goes forward.")
    submitted_at: float = Field(description="When it was asked for.")
    closed_at: float | None = Field(description="When it ended; null: it has not.")
    revision: int = Field(description="Of its last change.")


class Event(Shape):
    """A line of a task's log."""

    seq: int = Field(description="Its place in the log, from 0.")
    kind: str = Field(description="What happened: submitted, claimed, began, done, refused, ...")
    step: str = Field(description="To which step; empty: to the task.")
    at: float = Field(description="When.")
    epoch: int = Field(description="Which ownership of the task wrote it: the greatest one counts.")
    data: dict[str, Any] = Field(description="What goes with this kind.")


class TaskWithLog(Task):
    """A task, its body and its log."""

    body: Any = Field(description="What it was asked for with.")
    log: list[Event] = Field(description="Everything that happened to it, in order.")


class Tasks(Shape):
    """A page of tasks, the newest first."""

    tasks: list[Task] = Field(description="The newest first.")
    next: str | None = Field(description="The `page` of the next page; null: that was all.")


class Node(Shape):
    """A node, what it has and what is claimed of it."""

    name: str = Field(description="No other node has it.")
    open: bool = Field(description="Whether it takes guests.")
    alive: bool = Field(description="False: it was silent too long, and was declared dead.")
    cpu_milli: int = Field(description="What it has for guests; 1000 is a core.")
    memory_mib: int = Field(description="What it has for guests, MiB.")
    gpus: list[int] = Field(description="gpu_milli of each device.")
    gpu_model: str = Field(description="Of its devices; empty: it has none.")
    labels: dict[str, str] = Field(description="What it was labelled with.")
    used_cpu_milli: int = Field(description="What guests claim.")
    used_memory_mib: int = Field(description="What guests claim, MiB.")
    used_gpu_milli: list[int] = Field(description="What guests claim, of each device.")
    revision: int = Field(description="Of its last change.")
    facts: dict[str, Any] = Field({}, description="What the node says of itself; only when it is asked for alone.")


class Nodes(Shape):
    """All nodes."""

    nodes: list[Node] = Field(description="By name.")


class Use(Shape):
    """What something uses."""

    cpu_milli: int = Field(description="Over the last fifth of a second; 1000 is a core.")
    memory_mib: int = Field(description="Now, MiB.")


class Usage(Use):
    """What a node uses, by its own account."""

    guests: dict[str, Use] = Field(description="By number: what guests use of it that run for real.")


class Drain(Shape):
    """A drain, or what one would meet."""

    task: Task | None = Field(description="Null in a dry run.")
    blockers: list[str] = Field(description="Guests that would keep the node from being emptied, and why.")


class Quota(Shape):
    """What a project uses, and its limits (null: none)."""

    project: str = Field(description="Its name.")
    guests: int = Field(description="How many it has.")
    cpu_milli: int = Field(description="Of all its guests, whether they run or not.")
    memory_mib: int = Field(description="Of all its guests, whether they run or not, MiB.")
    guests_limit: int | None = Field(description="The most; null: no limit.")
    cpu_milli_limit: int | None = Field(description="The most; null: no limit.")
    memory_mib_limit: int | None = Field(description="The most; null: no limit.")


class Policies(Shape):
    """Which policies decide: the cluster's, and those of projects that have their own."""

    cluster: str = Field(description="What decides for projects that have none of their own.")
    projects: dict[str, str] = Field(description="By project: its own.")
    known: list[str] = Field(description="The names that may be chosen.")


class Status(Shape):
    """The cluster in short."""

    version: str = Field(description="Of the server that answers.")
    revision: int = Field(description="The newest: watch from here.")
    nodes: int = Field(description="How many there are.")
    nodes_alive: int = Field(description="How many of them are not declared dead.")
    guests: int = Field(description="How many there are.")
    tasks: dict[str, int] = Field(description="Open ones, by status.")
    servers: list[str] = Field(description="The names of those that live.")
    alarms: list[str] = Field(description="What a person should look at.")


class Explanation(Shape):
    """Why a guest is where it is, or why it waits."""

    guest: int = Field(description="Its number.")
    sentence: str = Field(description="All of it in short.")
    policy: str = Field(description="Which policy decides for its project.")
    nodes: dict[str, int] = Field(description="How many nodes say what.")
    nearest: str | None = Field(description="The node that lacks least, and what.")
    best: list[str] = Field(description="Nodes that fit, the best first.")


class Token(Shape):
    """What is known of a token; it is not kept itself."""

    digest: str = Field(description="Its SHA-256, hexadecimal: by this it is withdrawn.")
    name: str = Field(description="What it was made for; of one to join: its node, empty for any.")
    purpose: str = Field(description="api or join.")
    created_at: float = Field(description="When it was made.")
    expires_at: float | None = Field(description="When it ends by itself; null: never.")


class NewToken(Shape):
    """A token, shown this once."""

    token: str = Field(description="What goes behind `Authorization: Bearer`, or into `gpve node-agent --token`.")


class Ca(Shape):
    """The cluster's authority, PEM."""

    ca: str = Field(description="Its certificate: whom to believe.")


class Joined(Shape):
    """A node's certificate, the authority's, and where sessions are served."""

    certificate: str = Field(description="The node's, PEM.")
    ca: str = Field(description="The authority's, PEM: whom to believe.")
    servers: list[str] = Field(description="host:port of every server that lives.")


class FieldProblem(Shape):
    """A field, and what is wrong with it."""

    field: str = Field(description="With a path, as `disks.0.size_gib`; `body`: all of it.")
    problem: str = Field(description="What is wrong, or what would be right.")


class ProblemDetails(Shape):
    """RFC 9457."""

    type: str = Field(description="What kind of problem, as `urn:gpve:problem:bad-field`.")
    title: str = Field(description="The kind in words.")
    status: int = Field(description="As the HTTP status.")
    detail: str = Field(description="What is wrong, and what would be right.")
    instance: str = Field(description="The id of the request, by which the log has more: `urn:gpve:request:ID`.")
    errors: list[FieldProblem] = Field([], description="Where fields are at fault: which, and why.")
    allowed: list[str] = Field([], description="Operations on the guest that would be possible now.")


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
