"""``gpve context``: which clusters there are, and which is meant."""

from pathlib import Path
from typing import Annotated

import typer

from gpve.cli.output import Form, Output, rows, show

context_app = typer.Typer(no_args_is_help=True, help="Which clusters there are, and which is meant.")
Name = Annotated[str, typer.Argument(help="The context.")]


@context_app.command("list")
def list_contexts(output: Output = Form.TABLE) -> None:
    """All contexts.

    Example: gpve context list
    """
    from gpve.client.contexts import load

    found = load()
    plain = [
        {"name": name, "current": name == found.current, "servers": list(one.servers)}
        for name, one in found.named.items()
    ]
    lines = [("*" if name == found.current else "", name, ", ".join(one.servers)) for name, one in found.named.items()]
    show(plain, output, lambda: rows("", lines, ("", "name", "servers"), "no contexts"))


@context_app.command("use")
def use_context(name: Name, output: Output = Form.TABLE) -> None:
    """Mean this cluster from now on.

    Example: gpve context use production
    """
    from gpve.client.contexts import Contexts, find, keep, load

    find(name)
    keep(Contexts(name, load().named))
    _tell(output)


@context_app.command("add")
def add_context(
    name: Name,
    server: Annotated[list[str], typer.Option(help="The URL of a server's API; may be repeated.")],
    token_file: Annotated[Path, typer.Option(help="A file with the token.")],
    ca_file: Annotated[Path | None, typer.Option(help="The cluster's authority, PEM; none: the system's.")] = None,
    output: Output = Form.TABLE,
) -> None:
    """Name a cluster, and mean it from now on. A context that has this name is replaced.

    Example: gpve context add production --server https://10.0.0.1:7460 --token-file token --ca-file ca.pem
    """
    from gpve.client.contexts import Context, add
    from gpve.model.errors import InputError

    try:
        token = token_file.read_text().strip()
        ca = None if ca_file is None else ca_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(error)) from error
    add(name, Context(tuple(server), token, ca))
    _tell(output)


@context_app.command("remove")
def remove_context(name: Name, output: Output = Form.TABLE) -> None:
    """Forget a cluster. If it was the one that is meant, none is until `gpve context use` says so.

    Example: gpve context remove production
    """
    from gpve.client.contexts import remove

    remove(name)
    _tell(output)


def _tell(output: Form) -> None:
    """Which cluster is meant now."""
    from gpve.client.contexts import load

    current = load().current
    show({"current": current}, output, lambda: typer.echo(f"current context: {current or 'none'}"))
