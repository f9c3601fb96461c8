"""``gpve vm``, ``gpve vcluster``, ``gpve agent``: guests, and an operation for each of their flows."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from gpve.cli.agents import InsideCommand, exec_, logs, status
from gpve.cli.console import finite
from gpve.cli.create import create_agent, create_vcluster, create_vm, milli
from gpve.cli.guest_show import WORDS, GuestName, list_of, show_of
from gpve.cli.output import ContextName, Form, OfProject, Output, Wait, amount, cluster, told


@dataclass(frozen=True)
class Asked:
    """What is asked for a field of an operation: an option, or, without ``option``, an argument that must be given."""

    help: str
    option: str = ""
    plain: type = str
    read: Callable[[Any], Any] = lambda given: given
    """The field's value, from what was given."""


NAMED = {"name": Asked("Of which name it is.")}
RESIZED = {
    "cpu_milli": Asked("Cores; default: as many as it has.", "--cpu", float, milli),
    "memory_mib": Asked(
        "As 512M or 4G; default: as much as it has.", "--memory", str, lambda text: amount(text, "MiB")
    ),
}
CLONED = {"name": Asked("Of the new one."), "node": Asked("Where the new one starts; later it may move.", "--node")}
WITHIN = Asked("Seconds that its system has for it, 120 unless something is said; then it is undone.", "--within", int)
OPERATIONS: dict[str, dict[str, dict[str, Asked]]] = {
    "vm": {
        "start": {},
        "shutdown": {"within_s": WITHIN},
        "stop": {},
        "reboot": {},
        "pause": {},
        "resume": {},
        "migrate": {"to": Asked("The node to go to; default: the scheduler's choice.", "--to")},
        "resize": RESIZED,
        "clone": CLONED,
        "snapshot": NAMED,
        "rollback": NAMED,
        "delete": {},
    },
    "vcluster": {
        "start": {},
        "stop": {},
        "pause": {},
        "resume": {},
        "sleep": {},
        "wake": {},
        "resize": RESIZED,
        "upgrade": {"version": Asked("Of Kubernetes, as v1.32.0.")},
        "clone": CLONED,
        "snapshot": NAMED,
        "restore": NAMED,
        "delete": {},
    },
    "agent": {
        "start": {},
        "stop": {},
        "restart": {},
        "pause": {},
        "resume": {},
        "checkpoint": NAMED,
        "restore": NAMED,
        "delete": {},
    },
}
"""By kind and operation: its fields. Written down, since to ask the flows takes half a second (a test compares)."""
ALIASES = {"vm": {"restart": "reboot"}}
"""By kind: other names of operations."""
SAYS = {"shutdown": "shut down", "clone": "make a copy of", "snapshot": "take a snapshot of", "rollback": "roll back"}
"""What help says of operations whose name does not say it as a sentence."""


def app_of(kind: str) -> typer.Typer:
    """The commands of one kind."""
    made = typer.Typer(no_args_is_help=True, help=f"Create, list, show, start, stop, ... {WORDS[kind]}.")
    creates: dict[str, Callable[..., None]] = {"vm": create_vm, "vcluster": create_vcluster, "agent": create_agent}
    made.command("create")(creates[kind])
    made.command("list")(list_of(kind))
    made.command("show")(show_of(kind))
    for operation, fields in OPERATIONS[kind].items():
        made.command(operation)(_act(kind, operation, fields, operation))
    for alias, operation in ALIASES.get(kind, {}).items():
        made.command(alias)(_act(kind, operation, OPERATIONS[kind][operation], alias))
    if kind == "agent":
        made.command("logs")(logs)
        made.command("exec", cls=InsideCommand)(exec_)
        made.command("status")(status)
    return made


def _act(kind: str, operation: str, fields: dict[str, Asked], name: str) -> Callable[..., None]:
    """A command of this name for an operation: what it needs are arguments, what it may have are options."""

    def act(**given: Any) -> None:
        guest, project, wait, output, context = (
            given.pop(one) for one in ("guest", "project", "wait", "output", "context")
        )
        body = {field: fields[field].read(value) for field, value in given.items() if value is not None}
        with cluster(context) as client:
            number = client.get(kind, guest, project).id
            told(client, client.act(kind, operation, number, body or None), output, wait)

    parameter, keyword = inspect.Parameter, inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter("guest", keyword, annotation=GuestName)]
    example = ""
    for field, asked in fields.items():
        if not asked.option:
            annotation: Any = Annotated[asked.plain, typer.Argument(help=asked.help)]
            parameters.append(parameter(field, keyword, annotation=annotation))
            example += f" {field.upper()}"
        else:
            check = finite if asked.plain is float else None
            option = typer.Option(asked.option, help=asked.help, callback=check)
            parameters.append(parameter(field, keyword, annotation=Annotated[asked.plain | None, option], default=None))
    parameters += [
        parameter("project", keyword, annotation=OfProject, default=None),
        parameter("wait", keyword, annotation=Wait, default=False),
        parameter("output", keyword, annotation=Output, default=Form.TABLE),
        parameter("context", keyword, annotation=ContextName, default=None),
    ]
    act.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    act.__annotations__ = {one.name: one.annotation for one in parameters}
    says = SAYS.get(operation, operation).capitalize()
    same = f": another name of {operation}" if name != operation else ""
    act.__doc__ = f"{says} one of the {WORDS[kind]}{same}.\n\nExample: gpve {kind} {name} web{example} --wait"
    return act
