"""What only agents have: output, programs inside them, what their node says of them."""

import signal
import sys
import time
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from gpve.cli.console import fail, finite
from gpve.cli.guest_show import GuestName, print_fields
from gpve.cli.output import ContextName, Form, OfProject, Output, cluster, show

OURS = 125
"""Exit code of `exec` where the program inside never ran, or nobody knows how it ended."""
LONGEST_S = 86_400.0


class InsideCommand(TyperCommand):
    """A command whose exit code is another program's: what is wrong with the command itself has a code of its own."""

    def make_context(self, *given: Any, **named: Any) -> Any:
        """As click's."""
        try:
            return super().make_context(*given, **named)
        except Exception as error:
            if getattr(error, "exit_code", 0) == 2:
                error.exit_code = OURS  # type: ignore[attr-defined]
            raise


def logs(
    guest: GuestName,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes.")] = False,
    tail: Annotated[int, typer.Option(help="Only about so many bytes from the end; 0: all.", min=0)] = 0,
    project: OfProject = None,
    context: ContextName = None,
) -> None:
    """Print an agent's output.

    Example: gpve agent logs scout --follow
    """
    with cluster(context) as client:
        for piece in client.logs(client.get("agent", guest, project).id, follow=follow, tail_bytes=tail):
            _print(piece)


def exec_(
    guest: GuestName,
    command: Annotated[list[str], typer.Argument(help="The program, after --.")],
    stdin: Annotated[
        bool, typer.Option("--stdin", "-i", help="Give it what is read here, 256 KiB at the most.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds; 0: none.", min=0.0, max=LONGEST_S, callback=finite)] = 60.0,
    project: OfProject = None,
    context: ContextName = None,
) -> None:
    """Run one more program inside an agent, under the same policy.

    Exit code: the program's; 128 and the signal's number if a signal ended it, as 137 after the timeout; 125 if it
    could not be run, or it is not known how it ended.

    Example: gpve agent exec scout -- /bin/ls -l
    """
    from gpve.client.calls import MOST_STDIN

    # One byte more than there may be is enough to know, of an input that never ends as well.
    given = sys.stdin.buffer.read(MOST_STDIN + 1) if stdin else b""
    if len(given) > MOST_STDIN:
        fail(f"standard input: {MOST_STDIN:,} bytes are the most that a program can be given, and this is more", OURS)
    code = None
    with cluster(context, OURS) as client:
        number, began = client.get("agent", guest, project).id, time.monotonic()
        for piece in client.exec(number, command, stdin=given, timeout_ms=round(1000 * timeout)):
            if piece.exit is not None:
                code = piece.exit
            else:
                _print(piece)
    if code is None:
        fail("the server broke off: it is not known how the program ended", OURS)
    if code == -signal.SIGKILL and 0 < timeout <= time.monotonic() - began:
        sys.stderr.write(f"gpve: it was ended after {timeout:g} s; --timeout gives it longer\n")
    raise typer.Exit(code if code >= 0 else 128 - code)


def _print(piece: Any) -> None:
    stream = sys.stdout if piece.stream == "stdout" else sys.stderr
    stream.buffer.write(piece.data)
    stream.flush()


def status(
    guest: GuestName, project: OfProject = None, output: Output = Form.TABLE, context: ContextName = None
) -> None:
    """What an agent's node says of it now: state, restarts, last exit, what it uses.

    Example: gpve agent status scout -o json
    """
    with cluster(context) as client:
        said = client.agent_status(client.get("agent", guest, project).id)
    show(said, output, lambda: print_fields(said))
