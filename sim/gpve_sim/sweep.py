"""Sweeps: policies x seeds x clusters x traces, on all cores or on a Dask cluster, resumable.

Each cell of the sweep is a pure function of its specification, and its result is a small file of its own; the final
Parquet is made of those files in the order of the cells. So a sweep that was killed goes on where it stood, and gives
the same bytes, here and on Dask.
"""

import hashlib
import itertools
import json
import os
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from gpve.model.errors import InputError
from gpve.scheduler.fragmentation import typical_requests
from gpve_sim.catalogue import load, load_nodes
from gpve_sim.cluster import on_dask
from gpve_sim.comparison import VARY, vary
from gpve_sim.driver import MODES, Settings
from gpve_sim.experiment import replay_under
from gpve_sim.measures import measure
from gpve_sim.policies import find_decider
from gpve_sim.results import write_atomically
from gpve_sim.trace import Trace

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says."""

    traces: tuple[str, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    clusters: tuple[str, ...] = ("default",)
    """``default`` is the trace's own."""
    departures: bool | None = None
    queue: str = "drop"
    vary: tuple[str, ...] = VARY


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    trace: str
    policy: str
    cluster: str
    seed: int
    departures: bool | None
    queue: str
    vary: tuple[str, ...]

    def key(self) -> str:
        """Name of its result: a hash of all that it depends on, the text of the user's policy file included."""
        text = json.dumps(asdict(self), sort_keys=True)
        for part in (self.policy.rpartition(":")[0], self.trace, self.cluster):
            path = Path(part)
            if part and path.is_file():
                text += hashlib.sha256(path.read_bytes()).hexdigest()
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file. `InputError` for what it must not hold."""
    try:
        text = path.read_bytes().decode()
        values = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"is not TOML: {error}", file=path) from None
    known = [f.name for f in fields(Sweep)]
    for key in values:
        if key not in known:
            raise InputError(f"unknown key; known: {', '.join(known)}", file=path, line=_line(text, key), column=key)
    for key in ("traces", "policies", "clusters", "vary"):
        value = values.get(key)
        if value is None:
            if key in ("traces", "policies"):
                raise InputError("is missing", file=path, column=key)
            continue
        if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
            raise InputError("must be a list of names", file=path, line=_line(text, key), column=key)
        values[key] = tuple(value)
    seeds = values.get("seeds", 1)
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds > 0:
        seeds = list(range(seeds))
    if not isinstance(seeds, list) or not seeds or not all(isinstance(s, int) and s >= 0 for s in seeds):
        raise InputError(
            "must be a number of seeds, or a list of them",
            file=path,
            line=_line(text, "seeds"),
            column="seeds",
        )
    values["seeds"] = tuple(seeds)
    if not isinstance(values.get("departures", True), bool):
        raise InputError("must be true or false", file=path, line=_line(text, "departures"), column="departures")
    if values.get("queue", "drop") not in MODES:
        raise InputError(f"must be one of {', '.join(MODES)}", file=path, line=_line(text, "queue"), column="queue")
    for v in values.get("vary", ()):
        if v not in VARY:
            raise InputError(
                f"cannot hold {v!r}; known: {', '.join(VARY)}",
                file=path,
                line=_line(text, "vary"),
                column="vary",
            )
    sweep = Sweep(**values)
    for name in sweep.policies:
        find_decider(name)
    return sweep


def _line(text: str, key: str) -> int | None:
    for number, line in enumerate(text.splitlines(), 1):
        if line.split("=")[0].strip().strip('"') == key:
            return number
    return None


def cells_of(sweep: Sweep) -> list[Cell]:
    """All runs, in the order of the result's rows."""
    return [
        Cell(trace, policy, cluster, seed, sweep.departures, sweep.queue, sweep.vary)
        for trace, cluster, seed, policy in itertools.product(sweep.traces, sweep.clusters, sweep.seeds, sweep.policies)
    ]


@lru_cache(maxsize=8)
def _trace(name: str, seed: int) -> Trace:
    return load(name, seed=seed)


def run_cell(cell: Cell) -> dict[str, Any]:
    """Run one cell; its row, without anything that depends on the machine."""
    original = _trace(cell.trace, cell.seed if "lifetimes" in cell.vary else 0)
    nodes = original.nodes if cell.cluster == "default" else load_nodes(cell.cluster)
    departs = original.departures if cell.departures is None else cell.departures and original.departures
    trace, nodes = vary(original, nodes, cell.seed, cell.vary, departs)
    replayed = replay_under(
        trace,
        find_decider(cell.policy),
        nodes=nodes,
        settings=Settings(queue=cell.queue, departures=departs, seed=cell.seed),
        typical=typical_requests(original.guests, nodes.gpu_model_names),
    )
    row = {"trace": cell.trace, "cluster": cell.cluster, "policy": cell.policy, "seed": cell.seed}
    measured = measure(replayed, departs)
    del measured["replay_s"]
    return row | measured


def run_sweep(sweep: Sweep, out: Path, *, dask: str | None = None, workers: int | None = None,
              progress: Progress | None = None) -> Path:  # fmt: skip
    """Run what is missing, then write ``out`` (Parquet). Parts lie beside it in ``<out>.parts`` until it is whole."""
    cells = cells_of(sweep)
    parts = out.with_name(out.name + ".parts")
    parts.mkdir(parents=True, exist_ok=True)
    keys = [cell.key() for cell in cells]
    missing = [(key, cell) for key, cell in zip(keys, cells, strict=True) if not (parts / f"{key}.json").exists()]
    done = len(cells) - len(missing)
    if progress is not None:
        progress(done, len(cells))
    work = [(key, key, cell) for key, cell in missing]
    runner = on_dask(dask, run_cell, work) if dask is not None else _on_cores(missing, workers)
    for key, row in runner:
        text = json.dumps(row, sort_keys=True)
        write_atomically(parts / f"{key}.json", partial(_write_text, text))
        done += 1
        if progress is not None:
            progress(done, len(cells))
    _write(out, [json.loads((parts / f"{key}.json").read_text()) for key in keys])
    for path in parts.iterdir():
        path.unlink()
    parts.rmdir()
    return out


def _on_cores(missing: list[tuple[str, Cell]], workers: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    if not missing:
        return
    count = min(workers or os.cpu_count() or 1, len(missing))
    # Spawned, not forked: this process may have threads, and each child sets up its own compiler.
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(run_cell, cell): key for key, cell in missing}
        for finished in as_completed(waiting):
            yield waiting[finished], finished.result()


def _write_text(text: str, path: Path) -> None:
    path.write_text(text)


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows)
    write_atomically(out, lambda p: pq.write_table(table, p))
