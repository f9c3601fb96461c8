"""Write what the documentation takes from the code: the reference of policies with their pictures, and of commands.

Run it after a change of a policy's docstring or of a command: ``python docs/generate.py``. A test compares.
"""

import inspect
import sys
from importlib import import_module
from pathlib import Path

import numpy as np

from gpve.scheduler.policy import NAMES, load

HERE = Path(__file__).resolve().parent
HEAD = """# Policies

A policy scores every node that fits; the highest score wins, equal scores go to node order. The formulas are those of
the code. Pictures: the score that a node of 96 cores, 384 GiB and 8 GPUs gives to a request of 8 cores and 32 GiB
(left: by free CPU and free memory, no GPU asked) and of 8 cores, 32 GiB and half a GPU (right: by free CPU and
free GPU, in wholly free devices and one that is partly free); light is high. FGD is measured against
the commonest requests of the generated openb-like trace. A policy of your own: [how](../how-to/own-policy.md).
"""


def policies() -> str:
    """The reference of policies."""
    parts = [HEAD]
    for name in NAMES:
        text = inspect.getdoc(import_module("gpve.scheduler.policies." + name.replace("-", "_"))) or ""
        parts.append(f"## {name}\n\n{text}\n\n![Score of {name}](../images/policy-{name}.png)\n")
    return "\n".join(parts)


def commands() -> str:
    """The reference of commands, from their own help."""
    import typer.main

    from gpve.cli.main import app

    root = typer.main.get_command(app)
    machines = "`-o json` and `-o yaml`, or `--json` where that is all there is, print for machines."
    parts = [f"# Command line\n\nBad input ends with one sentence and exit code 2. {machines}\n"]

    def tell(command, path: str) -> None:  # type: ignore[no-untyped-def]
        children = getattr(command, "commands", None)
        if children:
            for name, child in children.items():
                tell(child, f"{path} {name}")
            return
        parts.append(f"## {path}\n\n{inspect.cleandoc(command.help or '').strip()}\n")
        rows = ["| argument or option | default | what |", "|---|---|---|"]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            names = ", ".join(f"`{o}`" for o in [*parameter.opts, *parameter.secondary_opts])
            names = names if parameter.opts[0].startswith("-") else f"`{(parameter.name or '').upper()}`"
            default = parameter.default
            shown = (
                "" if default is None or default == () or callable(default) or parameter.required else f"`{default}`"
            )
            rows.append(f"| {names} | {shown} | {(getattr(parameter, 'help', '') or '').replace('|', chr(92) + '|')} |")
        parts.append("\n".join(rows) + "\n")

    tell(root, "gpve")
    return "\n".join(parts)


def pictures() -> None:
    """A picture of each policy's score."""
    from gpve_sim.catalogue import load as load_trace
    from gpve_sim.plots import figure, save_figure, title

    from gpve.scheduler.cluster import request_record
    from gpve.scheduler.columns import NODE
    from gpve.scheduler.fragmentation import typical_requests

    trace = load_trace("generated/openb-like")
    typical = typical_requests(trace.guests, trace.nodes.gpu_model_names)
    (HERE / "images").mkdir(exist_ok=True)
    for name in NAMES:
        policy = load(name)
        score = policy.compiled[0]
        keep = policy.compiled[2]
        drawn, axes = figure(9.0, 3.6, panels=2)
        cpu = np.linspace(8000, 96000, 45)
        for axis, gpus in zip(axes, (0, 1), strict=True):
            other = np.linspace(32768, 393216, 45) if not gpus else np.linspace(500, 8000, 76)
            values = np.full((len(other), len(cpu)), np.nan)
            for i, y in enumerate(other):
                for j, x in enumerate(cpu):
                    nodes = np.zeros(1, NODE)
                    nodes["cpu"], nodes["mem"], nodes["gpu_count"] = 96000, 393216, 8
                    request = request_record(typical)
                    request["cpu"], request["mem"] = 8000, 32768
                    request["gpu_count"], request["gpu_milli"] = gpus, 500 * gpus
                    free = np.full(8, 1000, np.int32)
                    mem = 393216
                    if gpus:
                        whole, part = divmod(int(y), 1000)
                        free[:] = [1000] * whole + ([part] if whole < 8 else []) + [0] * (7 - whole)
                        if (free >= 500).sum() == 0:
                            continue
                    else:
                        mem = int(y)
                    values[i, j] = _score(score, keep, policy.keeps, int(x), mem, free, nodes, request)
            extent = (
                cpu[0] / 1000,
                cpu[-1] / 1000,
                other[0] / (1000 if gpus else 1024),
                other[-1] / (1000 if gpus else 1024),
            )
            axis.imshow(values, origin="lower", aspect="auto", extent=extent, cmap="viridis")
            axis.grid(False)
            axis.set_xlabel("free CPU, cores", fontsize=9)
            title(
                axis,
                "half a GPU asked" if gpus else "no GPU asked",
                "free GPU, devices" if gpus else "free memory, GiB",
            )
        save_figure(drawn, HERE / "images" / f"policy-{name}.png")


def _scorer():  # type: ignore[no-untyped-def]
    import numba

    @numba.njit
    def call(score, keep, keeps, cpu, mem, free, nodes, request):  # type: ignore[no-untyped-def]
        if keeps:
            keep(cpu, mem, free, nodes[0], request[0], 0)
        return score(cpu, mem, free, nodes[0], request[0])

    return call


_score = _scorer()


API = """# The API

HTTP under `/api/v1`, and gRPC (`proto/gpve/v1`), over the same use cases. A server documents its own at
`/api/v1/openapi.json` and `/api/v1/docs`. Rules that hold for every operation:

- `Authorization: Bearer TOKEN`. Only `/ca` and `/join` go without, and `/healthz`, `/readyz`, `/metrics` at the root.
- What takes long answers 202 and a *task*; `Location` names it, `/tasks/ID/follow` follows it.
- `Idempotency-Key`: the same key with the same request is the same task; with another request it is refused (409).
- A guest's `ETag` is its revision. `If-Match` makes an operation depend on it (412), `If-None-Match` saves an answer.
- Lists come in pages: `size` (at most 1,000), `page` is the `next` of the page before.
- `/watch` sends server-sent events in the order of commits. An event's `id` is the revision to resume behind
  (`revision`, or `Last-Event-ID`); of a revision with several changes only the last one has it. 410: not kept any more,
  list anew.
  A change has the shape of the guest, node, ... as it is asked for by itself; `row` is null when it is gone.
- A stream is never silent: after ten seconds in which there was nothing to tell comes a comment (`: nothing yet`), in
  lines of JSON an empty note. Over gRPC HTTP/2's own pings do that.
- Errors are problem details (RFC 9457): `type`, `title`, `status`, `detail`, `instance` (the id of the request),
  `errors` (field, problem), `allowed` (operations on the guest that would be possible now). Over gRPC the same document
  is in the trailing metadata `problem-bin`. What breaks a stream is its last event, `problem`.
- Bodies are JSON of at most 1 MiB and 32 levels; unknown fields are errors. Where there is GET there is HEAD.
- The last token that is good for the API cannot be withdrawn (409): make another first. If all have expired, start a
  server anew: it writes a new one into `token` in its directory (`gpve server --dir`).
- The log has a line of JSON for each request and each call, with `request` (its id, which is also in `X-Request-Id`),
  `actor`, and the `task` that it made. A task that ends undone or stuck is a warning with `task`, `flow`, `status`,
  `target` and why; what high availability did is told at the level info, all else that is done at debug.

| code | gRPC | when |
|---|---|---|
"""


def api() -> str:
    """The reference of the API: its rules, its problems, its operations."""
    from gpve.server.http.answers import PROBLEMS
    from gpve.server.http.app import build
    from gpve.server.problems import CODES

    described = build(None).openapi()  # type: ignore[arg-type]
    parts = [API]
    for code, problem in PROBLEMS.items():
        parts.append(f"| {code} | {CODES[int(code)].name} | {problem['description']} |\n")
    parts.append("\n| operation | what |\n|---|---|\n")
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            told = " ".join((operation.get("description") or operation.get("summary") or "").split())
            parts.append(f"| `{method.upper()} {path.removeprefix('/api/v1')}` | {told} |\n")
    return "".join(parts)


def main() -> None:
    """Write all."""
    (HERE / "reference" / "policies.md").write_text(policies())
    (HERE / "reference" / "cli.md").write_text(commands())
    (HERE / "reference" / "api.md").write_text(api())
    if "--no-pictures" not in sys.argv:
        pictures()


if __name__ == "__main__":
    main()
