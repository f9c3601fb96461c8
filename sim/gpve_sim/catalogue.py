"""Traces by name: ``dataset/variant``, found in $GPVE_TRACES, else ../shared/traces, else the user's cache.

``generated/...`` are made on the spot, from committed specifications, and need no files.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpve.model import InputError, Nodes
from gpve_sim.manifest import whole
from gpve_sim.readers import reader_for, reader_named
from gpve_sim.readers.nodes import read_nodes
from gpve_sim.trace import Trace

OPENB_VARIANTS = ("default", "cpu100", "gpushare40", "gpuspec33", "multigpu20")


@dataclass(frozen=True)
class Entry:
    """One name of the catalogue."""

    name: str
    place: str
    """File or folder under the folder of traces; ``.gz`` may follow in fact."""
    about: str
    reader: str | None = None
    """None: an inventory of nodes."""
    options: tuple[tuple[str, str], ...] = ()
    """Arguments of the reader besides path, seed and nodes."""
    needs: tuple[str, ...] = ()
    """What must lie under the folder of traces for the name to be there; the place where empty."""

    @property
    def dataset(self) -> str:
        """The data set, as `gpve traces pull` names it."""
        return self.place.split("/")[0]


_AGENTS = ("agentcgroup", "weka-agent-sessions")
ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        *(
            Entry(f"openb/{v}", f"openb/openb_pod_list_{v}.csv", "GPU-sharing pods, Alibaba 2023", "openb")
            for v in OPENB_VARIANTS
        ),
        Entry("azure-vm-2017/dev", "azure-vm-2017/v1.dev.txt", "VMs of one Azure region, 3.5 days", "azure-vm"),
        Entry(
            "alibaba-dlrm-2025/default", "alibaba-dlrm-2025/disaggregated_DLRM_trace.csv",
            "inference services as virtual clusters, a month", "alibaba-dlrm",
        ),
        Entry("opendc-surf-week/default", "opendc-surf-week/tasks.parquet", "HPC jobs, a week, with load", "opendc"),
        Entry(
            "agents/azure-llm", ".", "AI agents; arrivals of an LLM service, 57 minutes", "agents",
            (("arrivals", "azure-llm"),), (*_AGENTS, "azure-llm-2023"),
        ),
        Entry(
            "agents/mooncake", ".", "AI agents; arrivals of an LLM service, 17 minutes", "agents",
            (("arrivals", "mooncake"),), (*_AGENTS, "mooncake"),
        ),
        Entry("openb/gpu_node", "openb/openb_node_list_gpu_node.csv", "1,213 GPU nodes (--nodes)"),
        Entry("openb/all_node", "openb/openb_node_list_all_node.csv", "1,523 nodes, GPU and not (--nodes)"),
        Entry("alibaba-spot-nodes-2026", "alibaba-spot-nodes-2026/node_info_df.csv", "4,278 GPU nodes (--nodes)"),
    )
}  # fmt: skip
GENERATED = {
    "generated/openb-like": "8,152 GPU-sharing pods over 1,213 nodes, in the counts of openb, in random order",
    "generated/azure-like": "VMs with the flavours, lifetimes and hours of azure-vm-2017",
    "generated/peers": "VMs as in comparisons of simulators: Poisson, lognormal lives, 80 % of the CPU in use",
}


def folders() -> tuple[Path, ...]:
    """Where traces are looked for, in order: $GPVE_TRACES alone if it is set, else the shared folder and the cache."""
    if named := os.environ.get("GPVE_TRACES"):
        return (Path(named),)
    root = Path(__file__).resolve().parents[2]
    shared = root.parent / "shared" / "traces"
    # Only beside a source checkout: an installed package has no repository around it.
    beside = (shared,) if (root / "pyproject.toml").exists() and shared.is_dir() else ()
    return (*beside, cache_folder())


def cache_folder() -> Path:
    """Where `gpve traces pull` leaves what it fetched: ~/.cache/gpve/traces, or in $XDG_CACHE_HOME."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "gpve" / "traces"


def find(entry: Entry) -> Path | None:
    """The file or folder of an entry; None where it is not on this machine."""
    for folder in folders():
        if entry.needs:
            # Half a data set would draw other agents by the same seed.
            if all((folder / need).is_dir() and whole(need, folder) for need in entry.needs):
                return folder
            continue
        for place in (entry.place, entry.place + ".gz"):
            if (folder / place).exists():
                return folder / place
    return None


def available() -> dict[str, Path | None]:
    """Traces and inventories that can be used now, by name; generated ones have no path."""
    found: dict[str, Path | None] = {name: path for name, entry in ENTRIES.items() if (path := find(entry)) is not None}
    return found | dict.fromkeys(GENERATED)


def load(
    name: str | Path,
    *,
    reader: str | None = None,
    seed: int = 0,
    nodes: Nodes | None = None,
    mapping: str | None = None,
    **options: Any,
) -> Trace:
    """The trace of a name or a path.

    ``reader`` forces a reader on a path; ``mapping`` reads a CSV with columns of one's own (see
    `gpve_sim.readers.mapping`). With ``nodes`` no default cluster is made. ``options`` go to a generator (guests,
    load, hosts). Raises `InputError`.
    """
    text = str(name)
    if text in GENERATED:
        from gpve_sim.generate import generated

        if reader is not None or mapping is not None:
            raise InputError(f"{text} is generated: there is nothing to read with a reader or a mapping")
        trace = generated(text.removeprefix("generated/"), seed=seed, **options)
        return trace if nodes is None else replace(trace, nodes=nodes)
    if options:
        raise InputError(f"{text} is not generated: it takes no {', '.join(options)}")
    if mapping is not None:
        from gpve_sim.readers.mapping import read as read_mapped

        return read_mapped(Path(name), mapping=mapping, seed=seed, nodes=nodes)
    entry = ENTRIES.get(text)
    if entry is None:
        path = Path(name)
        if not path.exists():
            raise _unknown(text)
        chosen = reader_named(reader) if reader else reader_for(path)
        return chosen.read(path, seed=seed, nodes=nodes)
    if entry.reader is None:
        raise InputError(f"{text} is an inventory of nodes: use it with --nodes")
    read: Callable[..., Trace] = reader_named(reader or entry.reader).read
    return replace(read(_there(entry), seed=seed, nodes=nodes, **dict(entry.options)), name=text)


def load_nodes(name: str | Path) -> Nodes:
    """The nodes of an inventory's name, of a trace's name (its default cluster), of a file, or of a text such as
    ``8x(96c,384G,8xV100)``. Raises `InputError`."""
    text = str(name)
    entry = ENTRIES.get(text)
    if entry is not None and entry.reader is None:
        return read_nodes(_there(entry))
    if entry is not None or text in GENERATED:
        return load(text).nodes
    path = Path(name)
    if path.exists():
        if path.name.removesuffix(".gz").endswith(".json"):
            return load(path).nodes
        return read_nodes(path)
    if "x(" in text:
        from gpve_sim.inventory import parse_inventory

        return parse_inventory(text)
    raise _unknown(text, nodes=True)


def _there(entry: Entry) -> Path:
    path = find(entry)
    if path is None:
        places = ", ".join(str(folder) for folder in folders())
        raise InputError(
            f"{entry.name} is not on this machine (looked in {places}); `gpve traces pull {entry.name}` fetches it"
        )
    return path


def _unknown(text: str, nodes: bool = False) -> InputError:
    from difflib import get_close_matches

    known = [*ENTRIES, *GENERATED]
    near = get_close_matches(text, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    what = "cluster" if nodes else "trace"
    return InputError(f"no file and no {what} is called {text}; {hint}`gpve traces list` shows the names")
