"""Draw a benchmark's chart from its JSON file: python -m benchmarks.charts FIGURES.json CHART.png.

`benchmarks.publish` runs it in the peers' environment, the only one that has matplotlib.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

GROWTH_OURS = "ours, written and sealed, by block"
GROWTH_PEERS = "the peers, by rows in the table"
SELECTIVITIES = "by the share of rows that pass"
STAGES = "latency by stage, the large tenant"
SOAK, WARM_UP = "means of a part of the run", "of them warm-up"
EF_CURVE = "recall and latency by HNSW_EF_SEARCH, sealed and compacted"

Figures = Mapping[str, Any]

# Legible on white and on black.
GREY = "#7d8590"
BARS = ("#8b949e", "#39c5cf", "#db61a2", "#57606a")
COLOURS = ("#d29922", "#3fa34d", "#a371f7", "#e5534b")
OURS_COLOUR = "#388bfd"
FILTERS = (OURS_COLOUR, *COLOURS)
SIZE, DOTS = (8, 4.2), 110


def growth(figures: Figures, axes: Any) -> None:
    """Draw rows/s over rows in the table."""
    ours: Sequence[Mapping[str, Any]] = figures[GROWTH_OURS]
    _line(axes, ours, "rows/s", "ours, sealing included", OURS_COLOUR)
    peers: Sequence[Mapping[str, Any]] = figures.get(GROWTH_PEERS, [])
    columns = [column for column in (peers[0] if peers else {}) if column.endswith("rows/s")]
    for column, colour in zip(columns, COLOURS, strict=False):
        reached = [point for point in peers if point[column] != ""]
        _line(axes, reached, column, column.removesuffix(" rows/s"), colour)
    axes.set(yscale="log", xlim=0, xlabel="rows in the table", ylabel="rows/s, 1,536 dimensions")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _legend(axes)


def peers(figures: Figures, axes: Any) -> None:
    """Draw a bar a side, for both column types."""
    tables = {title: rows for title, rows in figures.items() if title.startswith("1536 dimensions")}
    names = [row[""] for row in next(iter(tables.values()))]
    for number, (title, rows) in enumerate(reversed(tables.items())):
        places = [place + 0.4 * (number - 0.5) for place in range(len(names))]
        rates = [row["median"] for row in rows]
        colour = (COLOURS[0], OURS_COLOUR)[number]
        bars = axes.barh(places, rates, height=0.38, color=colour, label=title.rpartition(", ")[2])
        axes.bar_label(bars, [f" {rate:,}" for rate in rates], color=GREY, fontsize=8)
    axes.set(xlabel="rows/s, 1,536 dimensions, median")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.12)
    _legend(axes)


def million(figures: Figures, axes: Any) -> None:
    """Draw recall over latency, a point for each HNSW_EF_SEARCH."""
    points: Sequence[Mapping[str, Any]] = figures[EF_CURVE]
    for kind, colour in (("vector", OURS_COLOUR), ("halfvec", COLOURS[0])):
        times = [point[f"{kind} p50 ms"] for point in points]
        recalls = [point[f"{kind} recall@10"] for point in points]
        axes.plot(times, recalls, "o-", label=kind, color=colour, markersize=3.5, linewidth=1.8)
        for point, time, recall in zip(points, times, recalls, strict=True):
            axes.annotate(f" {point['HNSW_EF_SEARCH']}", (time, recall), color=GREY, fontsize=7, va="top")
    axes.set(xlim=0, xlabel="p50 ms, one client", ylabel="recall@10")
    _legend(axes)


def filtered(figures: Figures, axes: Any) -> None:
    """Draw p95 over selectivity, a line a kind of filter, and recall above it."""
    lines: Sequence[Mapping[str, Any]] = figures[SELECTIVITIES]
    recall = axes.twinx()
    for kind, colour in zip(dict.fromkeys(line["filter"] for line in lines), FILTERS, strict=False):
        mine = [line for line in lines if line["filter"] == kind]
        shares = [line["percent"] for line in mine]
        axes.plot(shares, [line["p95 ms"] for line in mine], "o-", label=kind, color=colour, markersize=3.5)
        recall.plot(
            shares, [line["recall@10"] for line in mine], "x--", color=colour, markersize=4, alpha=0.7
        )
    axes.set(xscale="log", ylim=(0, None), xlabel="% of rows that pass", ylabel="p95 ms (solid)")
    axes.invert_xaxis()
    axes.xaxis.set_major_formatter("{x:g}")
    recall.set(ylim=(0, 1.02), ylabel="recall@10 (dashed)")
    recall.grid(visible=False)
    recall.spines["top"].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left")


def hybrid(figures: Figures, axes: Any) -> None:
    """Draw a bar for each mode, of its stages one after the other."""
    lines: Sequence[Mapping[str, Any]] = figures[STAGES]
    modes = list(dict.fromkeys(line["mode"] for line in lines))
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    means = {(line["mode"], line["stage"]): line["mean ms"] for line in lines}
    ends = [0.0] * len(modes)
    for stage, colour in zip(stages, (OURS_COLOUR, *COLOURS, *BARS), strict=False):
        widths = [means.get((mode, stage), 0.0) for mode in modes]
        axes.barh(range(len(modes)), widths, left=ends, height=0.5, color=colour, label=stage)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(range(len(modes)), modes)
    axes.invert_yaxis()
    axes.set(xlabel="mean ms")
    _legend(axes)


def soak(figures: Figures, axes: Any) -> None:
    """Draw each figure over the time, as % of its mean after the warm-up: what is flat stays at 100."""
    rows: Sequence[Mapping[str, Any]] = figures[SOAK]
    minutes = [row["minute"] for row in rows]
    warm = sum(minute < figures[WARM_UP] / 60 for minute in minutes)
    columns = [column for column in rows[0] if column not in ("minute", "database, MB")]
    for column, colour in zip(columns, (OURS_COLOUR, *COLOURS, *BARS), strict=False):
        values = [row[column] for row in rows]
        mean = sum(values[warm:]) / len(values[warm:])
        if mean:
            shares = [100 * value / mean for value in values]
            axes.plot(minutes, shares, label=column, color=colour, linewidth=1.6)
    axes.axvspan(0, figures[WARM_UP] / 60, color=GREY, alpha=0.12, linewidth=0)
    axes.set(xlim=0, ylim=0, xlabel="minutes; shaded: the warm-up", ylabel="% of the mean after the warm-up")
    _legend(axes)


CHARTS: Mapping[str, Callable[[Figures, Any], None]] = {
    "filtered": filtered,
    "growth": growth,
    "hybrid": hybrid,
    "million": million,
    "peers": peers,
    "soak": soak,
}

CAPTIONS = {
    "filtered": "filtered: p95 and recall@10 by the share of rows that pass",
    "growth": "growth: rows/s, ours and the peers'",
    "hybrid": "hybrid: mean latency by stage",
    "million": "million: recall@10 over latency, by HNSW_EF_SEARCH",
    "peers": "peers: rows/s, ours and the peers'",
    "soak": "soak: memory, connections, descriptors and throughput over the time",
}


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    found = json.loads(source.read_text())
    _draw(CHARTS[found["name"]], found["figures"], target)


def _draw(chart: Callable[[Figures, Any], None], figures: Figures, target: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    grey = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color", "grid.color")
    mpl.rcParams |= dict.fromkeys(grey, GREY) | {"axes.grid": True, "grid.alpha": 0.3, "font.size": 9}
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    chart(figures, axes)
    figure.savefig(target, dpi=DOTS, transparent=True)


def _line(axes: Any, points: Sequence[Mapping[str, Any]], column: str, label: str, colour: str) -> None:
    rows = [point["rows in the end"] for point in points]
    axes.plot(
        rows,
        [point[column] for point in points],
        "o-",
        label=label,
        color=colour,
        markersize=3.5,
        linewidth=1.8,
    )


def _legend(axes: Any) -> None:
    axes.legend(frameon=False, fontsize=8, loc="best")


if __name__ == "__main__":
    main()
