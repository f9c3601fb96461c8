"""What submitting, cancelling and resuming may answer instead of a task. Then nothing is written."""

from dataclasses import dataclass


class TaskError(Exception):
    """What the caller of the task engine did wrong, in one sentence that says what would be right."""


@dataclass
class UnknownFlow(TaskError):
    """No flow of this name."""

    name: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        return f"no flow {self.name!r}; there are {', '.join(self.known)}"


@dataclass
class BadBody(TaskError):
    """A body that does not match the flow's schema."""

    flow: str
    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.flow}: {self.field}: {self.problem}"


@dataclass
class KeyReused(TaskError):
    """An idempotency key that was used before, with another body."""

    key: str
    task: int

    def __str__(self) -> str:
        return f"idempotency key {self.key!r} belongs to task {self.task}, which has another body; use a new key"


@dataclass
class NotFound(TaskError):
    """Something named in the request does not exist."""

    what: str
    name: object

    def __str__(self) -> str:
        return f"no {self.what} {self.name}"


@dataclass
class Forbidden(TaskError):
    """An operation that the phase of its guest, or the state of its task, does not allow."""

    what: str
    state: str
    allowed: tuple[str, ...]

    def __str__(self) -> str:
        allowed = ", ".join(self.allowed) if self.allowed else "nothing"
        return f"{self.what}: not while it is {self.state}; allowed now: {allowed}"


@dataclass
class OverQuota(TaskError):
    """A project would have more than it may."""

    project: str
    resource: str
    used: int
    wanted: int
    limit: int

    def __str__(self) -> str:
        return (
            f"project {self.project!r} has {self.used} of {self.limit} {self.resource} in use; "
            f"{self.wanted} more do not fit"
        )


@dataclass
class Fenced(Exception):
    """The task has another owner by now: what this engine wanted to write is dropped."""

    task: int
    epoch: int

    def __str__(self) -> str:
        return f"task {self.task}: epoch {self.epoch} is not the newest"


@dataclass
class Conflict(Exception):
    """A row is not what the decision was based on: read again, decide again."""

    table: str
    key: object

    def __str__(self) -> str:
        return f"{self.table} {self.key} has changed"


@dataclass
class CorruptLog(Exception):
    """A task's log that cannot be read."""

    task: int
    problem: str

    def __str__(self) -> str:
        return f"the log of task {self.task} cannot be read: {self.problem}"


@dataclass
class Refuse(Exception):
    """A change of the store that cannot be made; nothing was changed. ``again``: it may pass."""

    reason: str
    again: bool = False
