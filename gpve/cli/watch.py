"""``gpve watch``: what changes in a cluster, as it changes."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.output import ContextName, Form, Output, cluster, show_one

if TYPE_CHECKING:
    from gpve.client import Change

SHOWN = ("kind", "name", "phase", "node", "open", "alive", "step", "text")
"""What a line says of a row, of those that it has."""


def watch(
    table: Annotated[
        list[str] | None,
        typer.Option(help="Only of these: guest, node, volume, network, alarm, event; may be repeated."),
    ] = None,
    since: Annotated[
        int | None, typer.Option(help="Only what comes behind this revision; default: now.", min=0)
    ] = None,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Follow the changes of a cluster until it is interrupted: a line for each. With -o json: lines of JSON.

    Example: gpve watch --table guest -o json
    """
    with cluster(context) as client:
        for change in client.watch(since, table or ()):
            show_one(change, output, lambda change=change: typer.echo(_line(change)))  # type: ignore[misc]


def _line(change: "Change") -> str:
    key = "/".join(map(str, change.key))
    told = "is gone" if change.row is None else _told(change.row)
    return f"{change.revision:8d}  {change.table:8s} {key:12s} {told}".rstrip()


def _told(row: dict[str, Any]) -> str:
    return " ".join(f"{name}={row[name]}" for name in SHOWN if row.get(name) not in (None, ""))
