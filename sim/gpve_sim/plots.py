"""Pictures of a replay: what was allocated, what lies idle and why, how many nodes are in use."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpve.scheduler.fragmentation import CLASSES
from gpve_sim.driver import Replayed
from gpve_sim.results import Files, capacity, has_gpus, timeline

INK = "#1b1f24"
MUTED = "#6b7280"
GRID = "#e5e7eb"
COLORS = ("#1f6feb", "#d9480f", "#2b8a3e", "#862e9c", "#e8a200", "#0b7285", "#a61e4d")
_CLASS_LABELS = {
    "q1": "neither CPU nor GPUs suffice",
    "q2": "GPUs too fragmented",
    "q4": "CPU short beside free GPUs",
    "xl": "idle for CPU-only requests",
    "xr": "idle, CPU-only, CPU short",
    "na": "model not admitted",
    "q3": "usable",
}


def figure(width: float = 9.0, height: float = 5.2, panels: int = 1) -> tuple[Any, list[Any]]:
    """A figure with plain axes, light grid and no frame; (figure, axes)."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), dpi=110)
    # Margins by hand: a layout that finds them draws everything twice, which a quick replay would feel.
    inch = {"left": 0.75 / width, "right": 1 - 0.2 / width, "bottom": 0.55 / height, "top": 1 - 0.4 / height}
    drawn.subplots_adjust(**inch, wspace=0.22)
    axes = list(np.ravel(drawn.subplots(1, panels)))
    for axis in axes:
        axis.grid(True, color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(colors=MUTED, labelsize=9)
        for side in ("top", "right", "left", "bottom"):
            axis.spines[side].set_visible(False)
    return drawn, axes


def title(axis: Any, headline: str, units: str) -> None:
    """A headline that says what is seen, and the units below it."""
    axis.set_title(headline, loc="left", color=INK, fontsize=11, fontweight="bold")
    axis.set_ylabel(units, color=MUTED, fontsize=9)


def load_axis(replayed: Replayed, columns: dict[str, np.ndarray]) -> tuple[np.ndarray, str]:
    """The horizontal axis: time in fitting units, or what had arrived where nothing departs."""
    if len(replayed.load.departure):
        seconds = columns["time_s"] - columns["time_s"][0]
        span = float(seconds[-1]) if len(seconds) else 0.0
        for unit, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
            if span > 3 * unit:
                return seconds / unit, f"time, {name}"
        return seconds, "time, seconds"
    gpus = capacity(replayed)["gpu_milli"]
    if gpus and columns["arrived_gpu_milli"][-1] > 0:
        return 100 * columns["arrived_gpu_milli"] / gpus, "GPUs asked for so far, % of the cluster"
    return columns["arrived"], "guests arrived"


def draw_allocation(replayed: Replayed, columns: dict[str, np.ndarray]) -> Any:
    """Allocated (and, where known, used) shares of each resource."""
    drawn, (axis,) = figure()
    x, label = load_axis(replayed, columns)
    whole = capacity(replayed)
    lines = [
        ("CPU", "cpu_milli", COLORS[0]),
        ("memory", "memory_mib", COLORS[1]),
        ("GPU", "gpu_milli", COLORS[2]),
    ]
    for name, key, color in lines:
        if whole[key] and key in columns:
            axis.plot(x, 100 * columns[key] / whole[key], color=color, label=name, linewidth=1.8)
        if f"used_{key}" in columns and whole[key]:
            used = 100 * columns[f"used_{key}"] / whole[key]
            axis.plot(x, used, color=color, linestyle=":", label=f"{name} used", linewidth=1.4)
    axis.set_ylim(0, 105)
    axis.set_xlabel(label, color=MUTED, fontsize=9)
    title(axis, f"Allocated under {replayed.policy.name}", "% of the cluster")
    axis.legend(frameon=False, fontsize=9, loc="best")
    return drawn


def draw_fragments(replayed: Replayed, columns: dict[str, np.ndarray]) -> Any:
    """Free GPU capacity by what keeps a typical request from using it."""
    drawn, (axis,) = figure()
    x, label = load_axis(replayed, columns)
    whole = capacity(replayed)["gpu_milli"]
    order = [c for c in ("xl", "na", "q2", "q4", "q1", "xr", "q3") if c in CLASSES]
    stack = [100 * columns[f"frag_{c}_milli"] / whole for c in order]
    kept = [i for i, layer in enumerate(stack) if layer.max(initial=0) > 0.05]
    palette = ["#d0d7de" if order[i] == "q3" else COLORS[k % len(COLORS)] for k, i in enumerate(kept)]
    axis.stackplot(x, [stack[i] for i in kept], labels=[_CLASS_LABELS[order[i]] for i in kept], colors=palette)
    axis.set_xlabel(label, color=MUTED, fontsize=9)
    axis.set_ylim(0)
    title(
        axis,
        f"Free GPU capacity under {replayed.policy.name}: what a typical request can use",
        "% of the cluster's GPUs",
    )
    axis.legend(frameon=False, fontsize=9, loc="upper right")
    return drawn


def draw_nodes(replayed: Replayed, columns: dict[str, np.ndarray]) -> Any:
    """Nodes in use and queue; power."""
    drawn, (left, right) = figure(width=11.0, height=4.4, panels=2)
    x, label = load_axis(replayed, columns)
    left.plot(x, columns["active_nodes"], color=COLORS[0], label="active nodes", linewidth=1.8)
    left.plot(x, columns["open_nodes"], color=MUTED, label="open nodes", linewidth=1.2, linestyle="--")
    if columns["waiting"].max(initial=0) > 0:
        left.plot(x, columns["waiting"], color=COLORS[1], label="guests waiting", linewidth=1.4)
    left.set_ylim(0)
    title(left, "Nodes", "count")
    right.plot(x, columns["power_w"] / 1000, color=COLORS[3], label="all nodes on", linewidth=1.8)
    awake = (columns["power_w"] - columns["power_empty_w"]) / 1000
    right.plot(x, awake, color=COLORS[4], label="empty nodes off", linewidth=1.8)
    right.set_ylim(0)
    title(right, "Power", "kW")
    for axis in (left, right):
        axis.set_xlabel(label, color=MUTED, fontsize=9)
        axis.legend(frameon=False, fontsize=9, loc="best")
    return drawn


def save_figure(drawn: Any, path: Path) -> None:
    """Write a figure as PNG, whatever the path's suffix."""
    drawn.savefig(path, format="png")


def plots_of(replayed: Replayed) -> Files:
    """allocation.png, nodes.png and, with GPUs, fragmentation.png."""
    table = timeline(replayed)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    drawings = {"allocation.png": draw_allocation, "nodes.png": draw_nodes}
    if has_gpus(replayed):
        drawings["fragmentation.png"] = draw_fragments
    return {name: partial(_draw, draw, replayed, columns) for name, draw in drawings.items()}


def _draw(draw: Any, replayed: Replayed, columns: dict[str, np.ndarray], path: Path) -> None:
    save_figure(draw(replayed, columns), path)
