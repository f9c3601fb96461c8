"""``gpve traces``: list, show, pull, generate and convert workloads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpve.cli.console import finite, print_json, print_table, progress

if TYPE_CHECKING:
    from gpve_sim.trace import Trace

traces_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Workloads: list, show, pull, generate, convert."
)
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Seed = Annotated[int, typer.Option(help="Seed of whatever is drawn.")]
ReaderName = Annotated[str | None, typer.Option(help="Reader to use on a path; it is recognised otherwise.")]
Mapping = Annotated[
    str | None, typer.Option(help="Columns of your own CSV: a TOML file, or id=vm,cpu_milli=cores*1000,...")
]


@traces_app.command("list")
def list_traces(json: Json = False) -> None:
    """All traces and inventories by name, and where they are.

    Example: gpve traces list --json
    """
    from gpve_sim.catalogue import ENTRIES, GENERATED, available

    there = available()
    rows = [
        {
            "name": name,
            "use": "nodes" if entry.reader is None else "trace",
            "about": entry.about,
            "path": str(there[name]) if name in there else None,
            "state": "here" if name in there else "gpve traces pull",
        }
        for name, entry in ENTRIES.items()
    ]
    rows += [
        {"name": name, "use": "trace", "about": about, "path": None, "state": "generated"}
        for name, about in GENERATED.items()
    ]
    if json:
        print_json(rows)
        return
    table = [(str(row["name"]), str(row["use"]), str(row["state"]), str(row["about"])) for row in rows]
    print_table("Traces", table, ("name", "use", "where", "about"))


@traces_app.command()
def show(
    trace: Annotated[str, typer.Argument(help="Name or path of a trace.")],
    reader: ReaderName = None,
    mapping: Mapping = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """What is in a trace: how many guests of what size, for how long, and over which cluster.

    Example: gpve traces show openb/default
    """
    from gpve_sim.catalogue import load

    found = describe(load(trace, reader=reader, seed=seed, mapping=mapping))
    if json:
        print_json(found)
        return
    rows = [(key.replace("_", " "), _shown(value)) for key, value in found.items() if key != "notes"]
    print_table(trace, rows)
    for note in found["notes"]:
        typer.echo(note)


@traces_app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A data set (openb) or a trace of it (openb/default).")],
    into: Annotated[Path | None, typer.Option(help="Folder of traces; the user's cache otherwise.")] = None,
    base_url: Annotated[str | None, typer.Option(help="A mirror of the public source.")] = None,
) -> None:
    """Fetch a data set from its public source, and check every file by SHA-256.

    What is there already and right is not fetched again.

    Example: gpve traces pull openb
    """
    from gpve_sim.pull import PUBLIC
    from gpve_sim.pull import pull as fetch

    with progress(f"pulling {name}") as bar:
        pulled = fetch(name, into=into, base_url=base_url or PUBLIC, progress=bar)
    typer.echo(
        f"{pulled.fetched} files fetched, {pulled.kept} were there already, in {pulled.folder} "
        f"(licence: {pulled.licence})"
    )
    for note in pulled.notes:
        typer.echo(note)


@traces_app.command()
def generate(
    name: Annotated[str, typer.Argument(help="openb-like, azure-like, peers, or a specification (.toml).")],
    out: Annotated[Path, typer.Argument(help="Guests: .csv, .csv.gz or .parquet; nodes go beside them.")],
    seed: Seed = 0,
    guests: Annotated[int | None, typer.Option(help="How many guests.")] = None,
    load: Annotated[
        float | None, typer.Option(help="Share of the cluster that is asked for: 0.8 is 80 %.", callback=finite)
    ] = None,
    hosts: Annotated[int | None, typer.Option(help="How many hosts (peers only).")] = None,
    departures: Annotated[
        bool | None, typer.Option("--departures/--no-departures", help="Whether guests depart (openb-like).")
    ] = None,
) -> None:
    """Draw a workload from a specification, and write it in the project's schema.

    Example: gpve traces generate peers peers.parquet --hosts 10000 --guests 1000000 --seed 1
    """
    from gpve_sim import generate as generator

    if name.endswith(".toml"):
        trace = generator.generate(
            generator.load_spec(name), seed=seed, guests=guests, load=load, departures=departures
        )
    else:
        trace = generator.generated(
            name.removeprefix("generated/"),
            seed=seed, guests=guests, load=load, hosts=hosts, departures=departures,
        )  # fmt: skip
    _write(trace, out)


@traces_app.command()
def convert(
    trace: Annotated[str, typer.Argument(help="Name or path of a trace.")],
    out: Annotated[Path, typer.Argument(help="Guests: .csv, .csv.gz or .parquet; usage and nodes go beside.")],
    reader: ReaderName = None,
    mapping: Mapping = None,
    seed: Seed = 0,
    start: Annotated[float, typer.Option(help="Only arrivals from this second on.", callback=finite)] = 0.0,
    end: Annotated[float | None, typer.Option(help="Only arrivals before this second.", callback=finite)] = None,
    rows: Annotated[str | None, typer.Option(help="Only these rows, such as 0:1000.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind (may be repeated).")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Only this group (may be repeated).")] = None,
    cpu: Annotated[str | None, typer.Option(help="Only so much milli-CPU, such as 0:4000.")] = None,
    gpus: Annotated[str | None, typer.Option(help="Only so many GPUs, such as 1:8.")] = None,
    sample: Annotated[int | None, typer.Option(help="Draw so many guests by the seed.")] = None,
    scale_time: Annotated[float, typer.Option(help="Multiply all times: 0.5 is twice as fast.", callback=finite)] = 1.0,
) -> None:
    """Write a trace in the project's schema, cut, filtered, sampled (in this order) and scaled in time.

    Example: gpve traces convert openb/default pods.parquet --gpus 1:8 --scale-time 0.01
    """
    from gpve_sim import transform
    from gpve_sim.catalogue import load

    found = load(trace, reader=reader, seed=seed, mapping=mapping)
    if rows is not None:
        low, high = _range(rows, "--rows")
        found = transform.rows(found, low, high)
    if start > 0 or end is not None:
        found = transform.window(found, start, float("inf") if end is None else end)
    found = transform.select(
        found,
        kinds=kind or (),
        groups=group or (),
        cpu_milli=_range(cpu, "--cpu") if cpu else None,
        gpus=_range(gpus, "--gpus") if gpus else None,
    )
    if sample is not None:
        found = transform.sample(found, sample, seed)
    if scale_time != 1.0:
        found = transform.scale_time(found, scale_time)
    _write(found, out)


def describe(trace: "Trace") -> dict[str, Any]:
    """Figures of a trace, by name."""
    import numpy as np

    from gpve.model import KINDS

    guests, nodes = trace.guests, trace.nodes
    kinds = np.bincount(guests.kind, minlength=len(KINDS))
    ends = np.isfinite(guests.departure_s)
    lives = (guests.departure_s - guests.arrival_s)[ends]
    milli = 0
    if guests.gpu_count is not None and guests.gpu_milli is not None:
        milli = int((guests.gpu_count.astype(np.int64) * guests.gpu_milli).sum())
    return {
        "name": trace.name,
        "guests": len(guests),
        "kinds": {kind: int(count) for kind, count in zip(KINDS, kinds, strict=True) if count},
        "first_arrival_s": float(guests.arrival_s.min()),
        "last_arrival_s": float(guests.arrival_s.max()),
        "never_depart": int((~ends).sum()),
        "median_life_s": float(np.median(lives)) if len(lives) else None,
        "cpu_milli": int(guests.cpu_milli.sum()),
        "memory_mib": int(guests.memory_mib.sum()),
        "gpu_milli": milli,
        "groups": len(guests.group_names),
        "usage_rows": len(trace.usage) if trace.usage is not None else 0,
        "departures": trace.departures,
        "nodes": len(nodes),
        "nodes_cpu_milli": int(nodes.cpu_milli.sum()),
        "nodes_memory_mib": int(nodes.memory_mib.sum()),
        "nodes_gpus": int(nodes.gpu_count.sum()),
        "sources": dict(trace.sources),
        "notes": list(trace.notes),
    }


def _write(trace: "Trace", out: Path) -> None:
    from gpve_sim.write import write_trace

    for path in write_trace(trace, out):
        typer.echo(str(path))
    for note in trace.notes:
        typer.echo(note, err=True)


def _range(text: str, option: str) -> tuple[int, int]:
    from gpve.model import InputError

    low, colon, high = text.partition(":")
    try:
        return int(low or 0), int(high) if high else 2**62 if colon else int(low)
    except ValueError:
        raise InputError(f"{text!r} is not a range such as 0:1000", column=option) from None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items()) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if isinstance(value, float) else str(value)
