"""``gpve nodes``: show and generate clusters."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpve.cli.console import print_json, print_table

if TYPE_CHECKING:
    from gpve.model import Nodes

nodes_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Clusters: show, generate.")


@nodes_app.command()
def show(
    nodes: Annotated[str, typer.Argument(help="Name, file, or text such as 8x(96c,384G,8xV100).")],
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """What a cluster has, by kinds of nodes. The name of a trace stands for its default cluster.

    Example: gpve nodes show openb/gpu_node
    """
    from gpve_sim.catalogue import load_nodes

    found = load_nodes(nodes)
    kinds = kinds_of(found)
    if json:
        total = {
            "nodes": len(found),
            "cpu_milli": int(found.cpu_milli.sum()),
            "memory_mib": int(found.memory_mib.sum()),
            "gpus": int(found.gpu_count.sum()),
        }
        names = ("count", "cpu_milli", "memory_mib", "gpu_count", "gpu_model")
        print_json({**total, "kinds": [dict(zip(names, kind, strict=True)) for kind in kinds]})
        return
    rows = [
        (model or "none", f"{count:,}", f"{cpu / 1000:,g}", f"{memory / 1024:,g}", str(gpus))
        for count, cpu, memory, gpus, model in kinds
    ]
    rows.append(
        (
            "all", f"{len(found):,}", f"{int(found.cpu_milli.sum()) / 1000:,g}",
            f"{int(found.memory_mib.sum()) / 1024:,.0f}", f"{int(found.gpu_count.sum()):,}",
        )
    )  # fmt: skip
    print_table(nodes, rows, ("GPU model", "nodes", "cores", "GiB", "GPUs"))


@nodes_app.command()
def generate(
    cluster: Annotated[
        str, typer.Argument(help="COUNTx(CPUc,MEMORYG[,GPUSxMODEL]), joined by +; or the name of a specification.")
    ],
    out: Annotated[Path, typer.Argument(help="File to write: .csv, .csv.gz or .parquet.")],
) -> None:
    """Write a list of nodes in the project's schema.

    Example: gpve nodes generate "8x(96c,384G,8xV100)+100x(64c,256G)" nodes.csv
    """
    from gpve_sim.catalogue import load_nodes
    from gpve_sim.write import write_nodes

    found = load_nodes(cluster)
    write_nodes(found, out)
    typer.echo(f"{len(found):,} nodes in {out}")


def kinds_of(nodes: "Nodes") -> list[tuple[int, int, int, int, str]]:
    """(count, cpu_milli, memory_mib, gpu_count, model) of equal nodes, most first."""
    import numpy as np

    columns = np.stack(
        [nodes.cpu_milli, nodes.memory_mib, nodes.gpu_count.astype(np.int64), nodes.gpu_model.astype(np.int64)]
    )
    kinds, counts = np.unique(columns, axis=1, return_counts=True)
    models = (*nodes.gpu_model_names, "")
    listed = [
        (int(count), int(cpu), int(memory), int(gpus), models[model])
        for (cpu, memory, gpus, model), count in zip(kinds.T.tolist(), counts.tolist(), strict=True)
    ]
    return sorted(listed, key=lambda kind: (-kind[0], kind[1:]))
