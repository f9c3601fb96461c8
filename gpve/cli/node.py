"""The cluster itself: ``gpve node``, ``token``, ``quota``, ``policy``, ``context``, ``status``, ``dump``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gpve.cli.output import ContextName, Form, Output, Wait, cluster, rows, show, told

node_app = typer.Typer(no_args_is_help=True, help="Nodes: list, show, close, drain, open, remove, and tokens to join.")
token_app = typer.Typer(no_args_is_help=True, help="Tokens of the API.")
policy_app = typer.Typer(no_args_is_help=True, help="Which placement policy decides, for whom.")
quota_app = typer.Typer(no_args_is_help=True, help="What projects use, and may use.")
context_app = typer.Typer(no_args_is_help=True, help="Which clusters there are, and which is meant.")
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
def remove(name: Name, context: ContextName = None) -> None:
    """A node that carries nothing leaves for good.

    Example: gpve node remove rack1-a
    """
    with cluster(context) as client:
        client.remove_node(name)
    typer.echo(f"node {name} is gone")


@node_app.command("token")
def join_token(
    node: Annotated[str | None, typer.Option(help="For this node alone; one of the cluster joins anew.")] = None,
    hours: Annotated[float, typer.Option(help="How long it is good.", min=0.01)] = 1.0,
    context: ContextName = None,
) -> None:
    """A token with which one node joins, once.

    Example: gpve node-agent --server https://10.0.0.1:7460 --token $(gpve node token) --name rack1-a
    """
    with cluster(context) as client:
        typer.echo(client.join_token(node, max(1, int(3600 * hours))))


@token_app.command("create")
def create_token(
    name: Annotated[str, typer.Argument(help="Whose it is, for the logs.")],
    days: Annotated[int | None, typer.Option(help="How long it is good; default: for ever.", min=1)] = None,
    context: ContextName = None,
) -> None:
    """A new token of the API, shown this once.

    Example: gpve token create ci --days 30
    """
    with cluster(context) as client:
        typer.echo(client.make_token(name, None if days is None else 86_400 * days))


@token_app.command("list")
def list_tokens(output: Output = Form.TABLE, context: ContextName = None) -> None:
    """What is known of all tokens, which is not what they are.

    Example: gpve token list
    """
    with cluster(context) as client:
        found = list(client.tokens())
    lines = [(one["digest"][:12], one["name"], one["purpose"]) for one in found]
    show(found, output, lambda: rows("", lines, ("digest", "name", "purpose"), "no tokens"))


@token_app.command("withdraw")
def withdraw_token(
    digest: Annotated[str, typer.Argument(help="Its first twelve characters, from gpve token list.")],
    context: ContextName = None,
) -> None:
    """A token is worth nothing any more.

    Example: gpve token withdraw 3f9a0c1b2d4e
    """
    with cluster(context) as client:
        client.withdraw_token(digest)


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
    lines = [(name, str(found[name]), str(found[f"{name}_limit"] or "none")) for name in names]
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


@context_app.command("list")
def list_contexts(output: Output = Form.TABLE) -> None:
    """All contexts.

    Example: gpve context list
    """
    from gpve.client.contexts import load

    found = load()
    lines = [("*" if name == found.current else "", name, ", ".join(one.servers)) for name, one in found.named.items()]
    plain = [
        {"name": name, "current": name == found.current, "servers": list(one.servers)}
        for name, one in found.named.items()
    ]
    show(plain, output, lambda: rows("", lines, ("", "name", "servers"), "no contexts"))


@context_app.command("use")
def use_context(name: Annotated[str, typer.Argument(help="The context.")]) -> None:
    """Mean this cluster from now on.

    Example: gpve context use production
    """
    from gpve.client.contexts import Contexts, find, keep, load

    find(name)
    keep(Contexts(name, load().named))


@context_app.command("add")
def add_context(
    name: Annotated[str, typer.Argument(help="The context.")],
    server: Annotated[list[str], typer.Option(help="The URL of a server's API; may be repeated.")],
    token_file: Annotated[Path, typer.Option(help="A file with the token.")],
    ca_file: Annotated[Path | None, typer.Option(help="The cluster's authority, PEM; none: the system's.")] = None,
) -> None:
    """Name a cluster, and mean it from now on.

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


@context_app.command("remove")
def remove_context(name: Annotated[str, typer.Argument(help="The context.")]) -> None:
    """Forget a cluster.

    Example: gpve context remove production
    """
    from gpve.client.contexts import remove

    remove(name)


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


def dump(file: Annotated[Path, typer.Argument(help="Where to write it.")], context: ContextName = None) -> None:
    """Write what the simulator needs to decide again what this cluster decided: nodes, tasks, decisions.

    `gpve redecide FILE` does that, and compares. Tokens and keys are not in it; names and specifications are.

    Example: gpve dump cluster.jsonl
    """
    with cluster(context) as client, file.open("w") as out:
        count = 0
        for line in client.dump():
            out.write(line + "\n")
            count += 1
    typer.echo(f"{file}: {count} lines; gpve redecide {file} decides again")
