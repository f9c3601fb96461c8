"""Reading a script: one sentence a line, and when it is said.

``t=60 SENTENCE``: at that time. ``on task(1).switch.done: SENTENCE``: in the moment in which task 1 records that event
of that step, before anything that follows from it is sent; ``on task(1).stuck: ...`` for events of no step;
``on task(1).transfer.started +2: ...`` two seconds later. A sentence is a command of a user (``vm create web --cpu
2000``, as the flow vm_create), or one of `gpve_sim.world.scenario_phrases`.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpve.model.errors import InputError
from gpve.tasks.errors import TaskError
from gpve.tasks.events import Kind
from gpve.tasks.flow import Flow
from gpve.tasks.flows import FLOWS
from gpve.tasks.submit import Request, request
from gpve_sim.world.scenario_cluster import ClusterSpec
from gpve_sim.world.scenario_phrases import NotUnderstood, Sentence, understand

_AT = re.compile(r"t=(?P<at>\d+(\.\d+)?)\s+(?P<rest>.+)")
_ON = re.compile(
    r"on task\((?P<task>\d+)\)\.((?P<step>[\w-]+)\.)?(?P<kind>\w+)(\s*\+(?P<after>\d+(\.\d+)?))?:\s*(?P<rest>.+)"
)
LAST = "expect audit clean"
_SHORT = {"cpu": "cpu_milli", "memory": "memory_mib", "gpus": "gpu_count", "size": "size_gib"}


@dataclass(frozen=True)
class Wish:
    """A user's command: a task to submit. ``engine``: the one that is asked first."""

    request: Request
    engine: str | None


@dataclass(frozen=True)
class Event:
    """An event of a task's log, the first of its kind."""

    task: int
    step: str
    kind: str


@dataclass(frozen=True)
class Line:
    """A line: what is said, and at which time, or how long after which event."""

    number: int
    text: str
    said: Sentence | Wish
    at: float
    event: Event | None = None


def read_script(path: Path, cluster: ClusterSpec) -> list[Line]:
    """Read a script. Raises `InputError` with the line."""
    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from None
    lines = []
    for number, raw in enumerate(text.splitlines(), 1):
        if raw.strip() and not raw.startswith("#"):
            try:
                lines.append(_line(number, raw.strip(), cluster))
            except (NotUnderstood, TaskError, ValueError) as error:
                raise InputError(str(error), path, number) from None
    times = [line.at for line in lines if line.event is None]
    if not lines or lines[-1].event is not None or lines[-1].text != LAST or lines[-1].at < max(times):
        raise InputError(
            f"the last line, and the latest, must be: t=SECONDS {LAST}", path, max(1, len(text.splitlines()))
        )
    return lines


def _line(number: int, raw: str, cluster: ClusterSpec) -> Line:
    timed, awaited = _AT.fullmatch(raw), _ON.fullmatch(raw)
    if timed is not None:
        rest = timed["rest"]
        return Line(number, rest, _said(number, rest, cluster), float(timed["at"]))
    if awaited is None:
        raise NotUnderstood("a line begins with t=SECONDS or with on task(NUMBER).STEP.EVENT:")
    if awaited["kind"] not in list(Kind):
        raise NotUnderstood(f"no event {awaited['kind']!r}; there are {', '.join(Kind)}")
    event = Event(int(awaited["task"]), awaited["step"] or "", awaited["kind"])
    rest = awaited["rest"]
    return Line(number, rest, _said(number, rest, cluster), float(awaited["after"] or 0.0), event)


def _said(number: int, text: str, cluster: ClusterSpec) -> Sentence | Wish:
    words = shlex.split(text)
    flow = FLOWS.newest("_".join(words[:2]).replace("-", "_"))
    return understand(words, cluster) if flow is None else _wish(number, flow, words[2:], cluster)


def _wish(number: int, flow: Flow, words: Sequence[str], cluster: ClusterSpec) -> Wish:
    """The command of a user: what it is about, then ``--field value``. Who says nothing has a key of the line's own."""
    target = next(name for name in ("guest", "network", "volume", "node", "name") if _names(flow, name))
    body: dict[str, Any] = {}
    about: dict[str, str] = {"key": f"line-{number}", "project": "default", "actor": "root"}
    engine = None
    if words and not words[0].startswith("--"):
        body[target], words = _value(words[0]), words[1:]
    if len(words) % 2 or any(not name.startswith("--") for name in words[::2]):
        raise NotUnderstood(f"after what {flow.name} is about come pairs of --NAME VALUE")
    for option, word in zip(words[::2], words[1::2], strict=True):
        name = option[2:].replace("-", "_")
        if name == "engine":
            understand(["engine", word, "crash"], cluster)
            engine = word
        elif name in about:
            about[name] = word
        elif name == "disks":
            body[name] = [{"size_gib": int(size)} for size in word.split(",")]
        elif name == "networks":
            body[name] = word.split(",")
        else:
            body[_SHORT.get(name, name)] = _value(word)
    return Wish(request(FLOWS, flow.name, body, **about), engine)


def _names(flow: Flow, field: str) -> bool:
    """Whether a flow is about what this field names."""
    found = flow.body.model_fields.get(field)
    return found is not None and found.is_required()


def _value(word: str) -> Any:
    if word in ("yes", "no"):
        return word == "yes"
    return int(word) if word.isdecimal() else word
