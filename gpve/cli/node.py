"""The cluster itself: ``gpve node``, ``token``, ``quota``, ``policy``, ``status``."""

import time
from typing import Annotated, Any

import typer

from gpve.cli.console import finite
from gpve.cli.output import ContextName, Form, Output, Wait, age, cluster, rows, show, span, told

node_app = typer.Typer(no_args_is_help=True, help="Nodes: list, show, close, drain, open, remove, and tokens to join.")
token_app = typer.Typer(no_args_is_help=True, help="Tokens of the API.")
policy_app = typer.Typer(no_args_is_help=True, help="Which placement policy decides, for whom.")
quota_app = typer.Typer(no_args_is_help=True, help="What projects use, and may use.")
Name = Annotated[str, typer.Argument(help="The node.")]
Most = Annotated[int | None, typer.Option(min=0)]


@node_app.command("list")
def list_nodes(output: Output = Form.TABLE, context: ContextName = None) -> None:
    """Nodes, what they have and what is claimed of them.

    Example: gpve node list -o json
    """
    with cluster(context) as client:
        found = list(client.nodes())
    lines = [
        (
            one.name,
            "dead" if not one.alive else "open" if one.open else "closed",
            f"{one.used_cpu_milli / 1000:g} of {one.cpu_milli / 1000:g}",
            f"{one.used_memory_mib} of {one.memory_mib} MiB",
            f"{sum(one.used_gpu_milli) / 1000:g} of {len(one.gpus)}",
        )
        for one in found
    ]
    header = ("node", "state", "cores", "memory", "GPUs")
    show(found, output, lambda: rows("", lines, header, "no nodes; gpve node token makes a token to join"))


@node_app.command("show")
def show_node(name: Name, output: Output = Form.YAML, context: ContextName = None) -> None:
    """A node, with what it says of itself: NUMA, GPUs, storage, networks, executors and what they lack.

    Example: gpve node show rack1-a
    """
    with cluster(context) as client:
        found = client.node(name)
    show(found, Form.YAML if output is Form.TABLE else output, lambda: None)


@node_app.command()
def usage(name: Name, output: Output = Form.TABLE, context: ContextName = None) -> None:
    """What a node uses now, and each of its guests that runs for real.

    Example: gpve node usage rack1-a
    """
    with cluster(context) as client:
        found = client.usage(name)
    lines = [("the machine", str(found["cpu_milli"]), str(found["memory_mib"]))]
    lines += [(guest, str(use["cpu_milli"]), str(use["memory_mib"])) for guest, use in found["guests"].items()]
    show(found, output, lambda: rows("", lines, ("guest", "cpu_milli", "memory_mib"), ""))


@node_app.command()
def drain(
    name: Name,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which guests would stay.")] = False,
    wait: Wait = False,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Empty a node: it takes no more guests, and those that can move do.

    It waits for guests that cannot move, and opens the node again if it fails or is cancelled; a node that was closed
    before (gpve node close) stays closed.

    Example: gpve node drain rack1-a --dry-run
    """
    with cluster(context) as client:
        task, stay = client.drain(name, dry_run=dry_run)
        if task is None:
            lines = [(one,) for one in stay]
            show(list(stay), output, lambda: rows("", lines, ("would stay, and why",), "nothing would stay"))
            return
        told(client, task, output, wait)


@node_app.command("close")
def close_(name: Name, wait: Wait = False, output: Output = Form.TABLE, context: ContextName = None) -> None:
    """Close a node (cordon it): it takes no more guests, and those on it stay.

    Example: gpve node close rack1-a
    """
    with cluster(context) as client:
        told(client, client.close_node(name), output, wait)


@node_app.command("open")
def open_(name: Name, wait: Wait = False, output: Output = Form.TABLE, context: ContextName = None) -> None:
    """Open a node that was drained or closed.

    Example: gpve node open rack1-a
    """
    with cluster(context) as client:
        told(client, client.open_node(name), output, wait)


@node_app.command()
def remove(name: Name, output: Output = Form.TABLE, context: ContextName = None) -> None:
    """A node that carries nothing leaves for good.

    Example: gpve node remove rack1-a
    """
    with cluster(context) as client:
        client.remove_node(name)
    show({"node": name, "removed": True}, output, lambda: typer.echo(f"node {name} is gone"))


@node_app.command("token")
def join_token(
    node: Annotated[str | None, typer.Option(help="For this node alone; one of the cluster joins anew.")] = None,
    hours: Annotated[float, typer.Option(help="How long it is good.", min=0.01, max=8784, callback=finite)] = 1.0,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """A token with which one node joins, once.

    Example: gpve node-agent --server https://10.0.0.1:7460 --token $(gpve node token) --name rack1-a
    """
    with cluster(context) as client:
        made = client.join_token(node, max(1, int(3600 * hours)))
    show({"token": made}, output, lambda: typer.echo(made))


@token_app.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="Whose it is, for the logs.")],
    days: Annotated[int | None, typer.Option(help="How long it is good; default: for ever.", min=1)] = None,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """A new token of the API, shown this once.

    Example: gpve token create ci --days 30
    """
    with cluster(context) as client:
        made = client.make_token(name, None if days is None else 86_400 * days)
    show({"token": made}, output, lambda: typer.echo(made))


@token_app.command("list")
def list_tokens(output: Output = Form.TABLE, context: ContextName = None) -> None:
    """What is known of all tokens, which is not what they are.

    Example: gpve token list
    """
    with cluster(context) as client:
        found = list(client.tokens())
    header = ("digest", "name", "purpose", "age", "expires")
    lines = [
        (one["digest"][:12], one["name"] or "any node", _purpose(one), age(one["created_at"]), _ends(one["expires_at"]))
        for one in found
    ]
    show(found, output, lambda: rows("", lines, header, "no tokens"))


def _purpose(token: dict[str, Any]) -> str:
    """What a token is for, as people say it."""
    return {"api": "the API", "join": "a node joins, once"}.get(token["purpose"], str(token["purpose"]))


def _ends(at: float | None) -> str:
    if at is None:
        return "never"
    left = at - time.time()
    return f"in {span(left)}" if left > 0 else f"{span(-left)} ago"


@token_app.command("withdraw")
def withdraw_token(
    digest: Annotated[str, typer.Argument(help="Its first twelve characters, from gpve token list.")],
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """A token is worth nothing any more.

    Example: gpve token withdraw 3f9a0c1b2d4e
    """
    with cluster(context) as client:
        client.withdraw_token(digest)
    said = f"token {digest} is worth nothing any more"
    show({"digest": digest, "withdrawn": True}, output, lambda: typer.echo(said))


@quota_app.command("show")
def show_quota(
    project: Annotated[str, typer.Argument(help="The project.")] = "default",
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """What a project uses, and its limits.

    Example: gpve quota show team-a
    """
    with cluster(context) as client:
        found = client.quota(project)
    names = ("guests", "cpu_milli", "memory_mib")
    limits = [found[f"{name}_limit"] for name in names]
    lines = [
        (name, str(found[name]), "none" if limit is None else str(limit))
        for name, limit in zip(names, limits, strict=True)
    ]
    show(found, output, lambda: rows(f"project {project}", lines, ("of", "in use", "limit"), ""))


@quota_app.command("set")
def set_quota(
    project: Annotated[str, typer.Argument(help="The project.")],
    guests: Most = None,
    cpu_milli: Most = None,
    memory_mib: Most = None,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Give a project limits; what is not said has none. What it has it keeps.

    Example: gpve quota set team-a --guests 50 --cpu-milli 64000
    """
    limits = {"guests_limit": guests, "cpu_milli_limit": cpu_milli, "memory_mib_limit": memory_mib}
    with cluster(context) as client:
        found = client.limit(project, **limits)
    show(found, output, lambda: typer.echo(f"project {project} has its limits"))


@policy_app.command("list")
def list_policies(output: Output = Form.TABLE, context: ContextName = None) -> None:
    """Which policies decide, for the cluster and for projects that have their own.

    Example: gpve policy list
    """
    with cluster(context) as client:
        found = client.policies()
    _show_policies(found, output)


@policy_app.command("set")
def set_policy(
    policy: Annotated[str, typer.Argument(help="Its name, as in docs/reference/policies.md; none: no choice.")],
    project: Annotated[str | None, typer.Option(help="For this one; else for all that have none of their own.")] = None,
    output: Output = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Have a policy decide from now on. Guests stay where they are.

    Example: gpve policy set fgd --project team-a
    """
    with cluster(context) as client:
        found = client.choose_policy(None if policy == "none" else policy, project)
    _show_policies(found, output)


def _show_policies(found: dict[str, Any], output: Form) -> None:
    lines = [("all others", found["cluster"]), *sorted(found["projects"].items())]
    show(found, output, lambda: rows("", lines, ("project", "policy"), ""))


def status(output: Output = Form.TABLE, context: ContextName = None) -> None:
    """The cluster in short: nodes, guests, open tasks, servers, alarms.

    Example: gpve status -o json
    """
    with cluster(context) as client:
        found = client.status()

    def table() -> None:
        typer.echo(f"GPVE {found['version']}, servers: {', '.join(found['servers'])}")
        typer.echo(f"{found['nodes_alive']} of {found['nodes']} nodes alive, {found['guests']} guests")
        typer.echo(f"open tasks: {', '.join(f'{n} {s}' for s, n in found['tasks'].items()) or 'none'}")
        for alarm in found["alarms"]:
            typer.echo(f"ALARM {alarm}")

    show(found, output, table)
