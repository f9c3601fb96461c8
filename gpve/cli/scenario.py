"""``gpve scenario``: stories of accidents, played in the simulated world."""

from pathlib import Path
from typing import Annotated

import typer

from gpve.cli.console import print_json, print_table

scenario_app = typer.Typer(no_args_is_help=True, help="Stories of accidents in the simulated world: list, run.")

Folder = Annotated[Path, typer.Option(help="Where scenarios are.")]
FOLDER = Path("tests/scenarios")
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


@scenario_app.command("list")
def list_scenarios(folder: Folder = FOLDER, as_json: AsJson = False) -> None:
    """All scenarios, each with its story in a sentence.

    Example: gpve scenario list
    """
    from gpve_sim.world.scenario import folders, story

    rows = [(path.name, story(path)) for path in folders(folder)]
    if as_json:
        print_json([{"name": name, "story": told} for name, told in rows])
    else:
        print_table("", rows, ("scenario", "story"))


@scenario_app.command()
def run(
    name: Annotated[str, typer.Argument(help="Name of a scenario, or the path of its folder.")],
    folder: Folder = FOLDER,
    update: Annotated[bool, typer.Option("--update", help="Write the log to expect.log, if all expectations hold.")] = (
        False
    ),
    as_json: AsJson = False,
) -> None:
    """Play a scenario and print its log. Exit code 1 if an expectation fails or the log is another than expect.log.

    Example: gpve scenario run target-dies-after-the-commit
    """
    from gpve_sim.world.scenario import find, play, write_log

    path = find(name, folder)
    played = play(path)
    written = update and write_log(path, played)
    good = played.good or written
    if as_json:
        said = {"name": played.name, "good": good, "failures": played.failures, "written": written}
        print_json({**said, "difference": played.difference, "log": played.log.splitlines()})
    elif good:
        typer.echo(played.log, nl=False)
        if written:
            typer.echo(f"written to {path / 'expect.log'}", err=True)
    else:
        for line in [*played.failures, *played.difference]:
            typer.echo(line)
    if not good:
        raise typer.Exit(1)
