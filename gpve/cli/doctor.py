"""``gpve doctor``: what works here, what is missing, and what to do about it."""

from typing import Annotated

import typer

from gpve.cli.console import print_json, print_table


def doctor(json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Check this installation: packages, compile cache, traces, memory.

    Example: gpve doctor
    """
    from gpve_sim.doctor import examine

    findings = examine()
    if json:
        print_json([{"check": f.check, "ok": f.ok, "found": f.found, "advice": f.advice} for f in findings])
    else:
        rows = [(f.check, "ok" if f.ok else "missing", f.found if f.ok else f.advice) for f in findings]
        print_table("gpve doctor", rows, ("check", "", "found, or what to do"))
    if not all(f.ok for f in findings if f.needed):
        raise typer.Exit(1)
