"""``gpve vm list`` and ``gpve vm show``, and the same of the other kinds."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.output import (
    ContextName,
    Form,
    OfProject,
    OnlyProject,
    Output,
    age,
    cluster,
    rows,
    show,
    size_of,
    when,
)

if TYPE_CHECKING:
    from gpve.client import Client, Guest

WORDS = {"vm": "VMs", "vcluster": "vClusters", "agent": "AI agents"}
GuestName = Annotated[str, typer.Argument(metavar="GUEST", help="Its number, or its name.")]


def list_of(kind: str) -> Callable[..., None]:
    """The command that lists guests of a kind."""

    def list_(
        project: OnlyProject = None,
        node: Annotated[str | None, typer.Option(help="Only those on this node.")] = None,
        phase: Annotated[str | None, typer.Option(help="Only those in this phase, as running.")] = None,
        output: Output = Form.TABLE,
        context: ContextName = None,
    ) -> None:
        with cluster(context) as client:
            found = list(client.list(kind, project=project, node=node, phase=phase))
        lines = [
            (
                str(one.id),
                one.name,
                one.project,
                one.phase,
                one.node or "",
                f"{one.spec['cpu_milli'] / 1000:g}",
                size_of(one.spec["memory_mib"]),
            )
            for one in found
        ]
        header = ("id", "name", "project", "phase", "node", "cores", "memory")
        show(found, output, lambda: rows("", lines, header, f"no {WORDS[kind]}"))

    list_.__doc__ = (
        f"List {WORDS[kind]}, of all projects or of one.\n\nExample: gpve {kind} list --phase running -o json"
    )
    return list_


def show_of(kind: str) -> Callable[..., None]:
    """The command that shows a guest of a kind."""

    def show_(
        guest: GuestName, project: OfProject = None, output: Output = Form.TABLE, context: ContextName = None
    ) -> None:
        with cluster(context) as client:
            found = client.get(kind, guest, project)
            show(found, output, lambda: _tell(client, found))

    show_.__doc__ = f"Show one of the {WORDS[kind]}.\n\nExample: gpve {kind} show web -o yaml"
    return show_


def _tell(client: "Client", guest: "Guest") -> None:
    """Everything that is known of a guest, for people."""
    typer.echo(f"{guest.kind} {guest.id} ({guest.name}) of project {guest.project}: {guest.phase}")
    print_fields(_told(client, guest), "  ")


def _told(client: "Client", guest: "Guest") -> dict[str, Any]:
    from gpve.client import ApiError

    told: dict[str, Any] = {"node": guest.node or "none yet"}
    if guest.task is not None:
        told["task"] = f"{guest.task}: {guest.waits_for}" if guest.waits_for else guest.task
    # The oldest of its tasks that is still kept made it, if it is that old.
    tasks = client.tasks(target=str(guest.id), most=1000)
    made = [task for task in tasks if task.flow == f"{guest.kind}_create"]
    if made:
        told["created"] = f"{when(made[0].submitted_at)} ({age(made[0].submitted_at)} ago) by {made[0].actor}"
        told |= _wished(client.task(made[0].id).body)
    if tasks:
        last = tasks[0]
        told["last task"] = f"{last.id}: {last.flow}, {last.status}, {age(last.submitted_at)} ago, by {last.actor}"
    spec = dict(guest.spec)
    told["cores"], told["memory"] = f"{spec.pop('cpu_milli') / 1000:g}", size_of(spec.pop("memory_mib"))
    told |= spec
    if guest.kind == "agent" and guest.node is not None:
        try:
            said = client.agent_status(guest.id)
        except ApiError as error:
            said = {"state": f"unknown: {error}"}
        told["now"] = {name: said[name] for name in ("state", "ready", "restarts", "last_exit") if name in said}
    return told


def _wished(body: Any) -> dict[str, Any]:
    """What a guest was created with that its specification does not repeat."""
    if not isinstance(body, dict):
        return {}
    pin = {"starts on": body["node"]} if body.get("node") else {}
    return pin | {name: body[name] for name in ("disks", "networks") if body.get(name)}


def print_fields(told: Mapping[str, Any], before: str = "") -> None:
    """Names and values, those that say something; one that has parts is told part by part."""
    found = list(_fields(told, ""))
    width = max((len(name) for name, _ in found), default=0)
    for name, value in found:
        typer.echo(f"{before}{name:{width}s}  {value}")


def _fields(told: Mapping[str, Any], before: str) -> Iterator[tuple[str, str]]:
    for name, value in told.items():
        if value is None or value == [] or value == {} or value == "":
            continue
        if isinstance(value, Mapping):
            yield from _fields(value, f"{before}{name} ")
        elif isinstance(value, list):
            yield f"{before}{name}", ", ".join(map(_said, value))
        else:
            yield f"{before}{name}", _said(value)


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_said(one)}" for name, one in value.items())
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
