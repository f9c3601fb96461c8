"""The one program: ``gpve COMMAND``. Commands import what they need when they run, so that --help is quick."""

import os
import sys
from typing import Annotated

import typer

from gpve import __version__
from gpve.cli.chaos import chaos, sweep_faults
from gpve.cli.collector import collect_seldom
from gpve.cli.compare import compare, lab
from gpve.cli.console import fail
from gpve.cli.consolidate import consolidate
from gpve.cli.context import context_app
from gpve.cli.doctor import doctor
from gpve.cli.dump import dump
from gpve.cli.explain import explain
from gpve.cli.guests import app_of
from gpve.cli.node import node_app, policy_app, quota_app, status, token_app
from gpve.cli.nodes import nodes_app
from gpve.cli.redecide import redecide
from gpve.cli.replay import replay
from gpve.cli.scenario import scenario_app
from gpve.cli.serve import node_agent, server, swarm
from gpve.cli.size import size
from gpve.cli.sweep import sweep
from gpve.cli.task import audit, task_app
from gpve.cli.traces import traces_app
from gpve.cli.up import down, up
from gpve.cli.watch import watch

EXTRA = (
    "grpc",
    "google",
    "fastapi",
    "uvicorn",
    "uvloop",
    "httpx",
    "yaml",
    "cryptography",
    "psutil",
    "prometheus_client",
)
"""What only the extra `server` brings."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Virtual machines, virtual Kubernetes clusters and AI agents under one scheduler; and a lab to replay traces.",
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"gpve {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


app.command()(replay)
app.command()(lab)
app.command()(compare)
app.command()(explain)
app.command()(consolidate)
app.command()(size)
app.command()(sweep)
app.command()(chaos)
app.command()(sweep_faults)
app.command()(doctor)
app.command()(audit)
app.command()(up)
app.command()(down)
app.command()(status)
app.command()(dump)
app.command()(redecide)
app.command()(watch)
app.command()(server)
app.command()(node_agent)
app.command()(swarm)
for kind in ("vm", "vcluster", "agent"):
    app.add_typer(app_of(kind), name=kind)
app.add_typer(task_app, name="task")
app.add_typer(node_app, name="node")
app.add_typer(token_app, name="token")
app.add_typer(quota_app, name="quota")
app.add_typer(policy_app, name="policy")
app.add_typer(context_app, name="context")
app.add_typer(scenario_app, name="scenario")
app.add_typer(traces_app, name="traces")
app.add_typer(nodes_app, name="nodes")


def main() -> None:
    """Run; bad input ends with one sentence and exit code 2."""
    from gpve.model.errors import InputError

    collect_seldom()
    try:
        app()
    except InputError as error:
        fail(str(error))
    except UnicodeEncodeError as error:
        fail(f"{error.object!a} is no text: UTF-8 is wanted")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in EXTRA:
            raise
        fail(f"this needs parts that are not installed ({error.name}): pip install 'gpve[server]'")
    except KeyboardInterrupt:
        fail("interrupted", code=130)
    except BrokenPipeError:
        # Whoever read our output has gone: say nothing, but let no exit handler try to flush either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # Of a file that was named; all else is a defect.
        if not isinstance(error.filename, str | bytes):
            raise
        fail(f"{os.fsdecode(error.filename)}: {error.strerror}")
