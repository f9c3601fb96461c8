"""The report of a comparison: one self-contained HTML file, and its plots."""

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpve import __version__
from gpve_sim.plots import COLORS, INK, MUTED, figure, title
from gpve_sim.results import write_atomically

if TYPE_CHECKING:
    import pandas as pd

    from gpve_sim.measures import Measure, Measured

_CURVES = {
    "gpu_pct": ("GPU allocated", "% of the cluster"),
    "cpu_pct": ("CPU allocated", "% of the cluster"),
    "fragmentation_pct": (
        "GPU fragments: idle, and of no use to a typical request",
        "% of the cluster's GPUs",
    ),
    "active_nodes": ("Nodes in use", "count"),
}


def draw_curves(comparison: "Measured", measure: str) -> Any:
    """One measure over the load: a line a row (mean of the seeds), a band from the least to the most."""
    headline, units = _CURVES.get(measure, (measure, ""))
    if measure not in comparison.curves.columns:
        from gpve.model.errors import InputError

        known = ", ".join(name for name in _CURVES if name in comparison.curves.columns)
        raise InputError(f"no curve of {measure!r}; this comparison has {known}")
    drawn, (axis,) = figure(9.0, 4.8)
    ends = []
    rows = list(comparison.runs["row"].drop_duplicates())
    lines = []
    for i, row in enumerate(rows):
        part = comparison.curves[comparison.curves["row"] == row]
        # Each seed has its own end: the grids are the same share of the way.
        part = part.assign(step=part.groupby("seed").cumcount())
        grouped = part.groupby("step")
        x, mean = grouped["x"].mean(), grouped[measure].mean()
        color = COLORS[i % len(COLORS)]
        style = "-" if i < len(COLORS) else "--"
        axis.plot(x, mean, color=color, linewidth=1.9, label=row, linestyle=style)
        axis.fill_between(x, grouped[measure].min(), grouped[measure].max(), color=color, alpha=0.13, linewidth=0)
        ends.append((float(mean.iloc[-1]), row))
        lines.append((x.to_numpy(), mean.to_numpy()))
    _zoom(axis, lines)
    axis.set_xlabel(comparison.x_label, color=MUTED, fontsize=9)
    title(axis, headline, units)
    handles, labels = axis.get_legend_handles_labels()
    rank = {row: -end for end, row in ends}
    order = sorted(range(len(labels)), key=lambda k: rank[labels[k]])
    axis.legend([handles[k] for k in order], [labels[k] for k in order], frameon=False, fontsize=9, ncols=1)
    return drawn


def _zoom(axis: Any, lines: list[tuple[Any, Any]]) -> None:
    """Where all lines run together for a long way, show only the part where they differ."""
    if len(lines) < 2:
        return
    length = min(len(y) for _, y in lines)
    together = [y[:length] for _, y in lines]
    spread = np.max(together, axis=0) - np.min(together, axis=0)
    apart = int(np.argmax(spread > 0.02 * np.max(together))) if spread.any() else 0
    first = apart - length // 20
    if first > length // 4:
        axis.set_xlim(left=float(lines[0][0][first]))
        low, high = min(y[first:].min() for y in together), max(y[first:].max() for y in together)
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def draw_differences(comparison: "Measured", measure: "Measure") -> Any:
    """Difference of each row from the baseline with its interval: at a glance, better or worse, and how sure."""
    found = comparison.differences()
    part = found[found["measure"] == measure.name].iloc[::-1].reset_index(drop=True)
    drawn, (axis,) = figure(9.0, 1.1 + 0.36 * max(len(part), 1))
    for i, row in part.iterrows():
        sure = not (row["low"] <= 0 <= row["high"])
        good = row["mean"] * measure.better > 0
        color = MUTED if not sure else (COLORS[2] if good else COLORS[1])
        axis.plot([row["low"], row["high"]], [i, i], color=color, linewidth=3, solid_capstyle="butt", alpha=0.55)
        axis.plot([row["mean"]], [i], "o", color=color, markersize=6)
    axis.axvline(0, color=INK, linewidth=1)
    axis.set_yticks(range(len(part)), part["row"])
    axis.set_ylim(-0.6, len(part) - 0.4)
    axis.set_xlabel(f"{measure.label}: difference from {comparison.baseline}, 95 % interval", color=MUTED, fontsize=9)
    return drawn


def _embedded(drawn: Any) -> str:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def text_table(comparison: "Measured") -> "pd.DataFrame":
    """The table as text: mean, and ± half the paired interval of the difference from the baseline."""
    import pandas as pd

    from gpve_sim.measures import MEASURES

    means = comparison.table()
    found = comparison.differences().set_index(["measure", "row"])
    out: dict[str, list[str]] = {}
    for measure in MEASURES:
        if measure.name not in means.columns:
            continue
        cells = []
        for row in means.index:
            cell = f"{means.at[row, measure.name]:,.{measure.digits}f}"
            if row != comparison.baseline:
                low, high = found.at[(measure.name, row), "low"], found.at[(measure.name, row), "high"]
                delta = found.at[(measure.name, row), "mean"]
                cell += f" ({delta:+.{measure.digits}f}"
                cell += f" ± {(high - low) / 2:.{measure.digits}f})" if high == high else ")"
            cells.append(cell)
        out[measure.label] = cells
    return pd.DataFrame(out, index=means.index)


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1b1f24;max-width:1080px;margin:2.5rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0 0 .2rem}
h2{font-size:1.1rem;margin:2.2rem 0 .6rem} p.sub{color:#6b7280;margin:.1rem 0 1.2rem}
table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}
th,td{padding:.35rem .7rem;text-align:right;
white-space:nowrap;border-bottom:1px solid #e5e7eb} th:first-child,td:first-child{text-align:left;font-weight:600}
td.best{background:#e6f4ea} img{max-width:100%;height:auto} li{margin:.2rem 0} .small{color:#6b7280;font-size:13px}
"""


_BEST = """<p class=small>Bounds, proven: the best may lie short of them. Without departures the distance is what is
missing from the bound, in % of it. With departures it is the share of the active nodes that would be spared if all
guests could move at once for free. Rules of groups are left out, which only makes the bounds easier.</p>"""


def _text(path: Path, text: str) -> None:
    path.write_text(text)


def write_report(comparison: "Measured", path: Path) -> Path:
    """Write the report to ``path`` (whole, or not at all)."""
    from gpve_sim.measures import MEASURES

    means = comparison.table()
    text = text_table(comparison)
    by_label = {m.label: m for m in MEASURES}
    head = "".join(f"<th>{html.escape(label)}</th>" for label in text.columns)
    rows = []
    for row in text.index:
        cells = []
        for label in text.columns:
            m = by_label[label]
            column = means[m.name]
            best = m.better and column.nunique() > 1 and column[row] == (column.max() if m.better > 0 else column.min())
            cells.append(f"<td{' class=best' if best else ''}>{html.escape(str(text.at[row, label]))}</td>")
        mark = " (baseline)" if row == comparison.baseline else ""
        rows.append(f"<tr><td>{html.escape(str(row))}{mark}</td>{''.join(cells)}</tr>")
    seeds = comparison.runs["seed"].nunique()
    varied = ", ".join(comparison.varied) or "nothing"
    plots = [_embedded(draw_curves(comparison, name)) for name in _CURVES if name in comparison.curves.columns]
    # The distance from the best says the same as what it is taken from, and with departures has but one seed.
    headline = [m for m in MEASURES if m.name in means.columns and m.better and m.name != "distance_pct"][:5]
    forests = [_embedded(draw_differences(comparison, m)) for m in headline] if seeds > 1 and len(means) > 1 else []
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in comparison.notes)
    bounds = "".join(f"<li>{html.escape(f'{k}: {v}')}</li>" for k, v in comparison.bounds.items())
    body = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>{html.escape(comparison.trace)}: comparison</title>
<style>{_STYLE}</style><h1>{html.escape(comparison.trace)}</h1>
<p class=sub>{len(means)} rows, {seeds} seeds each; seeds vary {html.escape(varied)}. GPVE {__version__}</p>
<table><tr><th></th>{head}</tr>{"".join(rows)}</table>
<p class=small>In brackets: difference from {html.escape(comparison.baseline)} and half its 95 % interval,
paired by seed (Student's t). Green: the best mean of its column.
Means over time where guests depart, else at the end.</p>
{f"<h2>The best possible</h2><ul>{bounds}</ul>{_BEST}" if bounds else ""}
<h2>Over the load</h2>{"".join(plots)}
{f"<h2>How sure</h2>{''.join(forests)}" if forests else ""}
{f"<h2>About the trace</h2><ul>{notes}</ul>" if notes else ""}
"""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda p: _text(p, body))
    return path
