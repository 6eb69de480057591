"""The learning curve: the score over training records, one line for each student; as PNG and as SVG.

Both are drawn from the same series. Sizes are on a logarithmic axis; what has no size (a student before
training) stands in a lane of its own at the left. A student keeps colour and marker in both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flywheel.report import figures
from flywheel.report.model import Report

# Told apart also by people who see few colours, on white and on black alike; after six they start again,
# with another marker. The dark theme of the HTML has lighter ones in report.css.
COLOURS = ("#1f6feb", "#c2410c", "#0f766e", "#a21caf", "#6d5bd0", "#8a6a00")
MARKERS = ("o", "s", "^", "D", "v")
BASELINE_NAME = "TF-IDF + logistic regression"


@dataclass(frozen=True)
class Point:
    """A candidate on the curve; `low` and `high` bound its 95 % interval."""

    size: int
    f1: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """A student's line, or the baseline's; `base` is its score without training, where known."""

    name: str
    index: int
    points: list[Point] = field(default_factory=list)
    base: float | None = None

    @property
    def colour(self) -> str:
        """Its colour in the PNG and in the light theme."""
        return COLOURS[self.index % len(COLOURS)]

    @property
    def marker(self) -> str:
        """Its marker, as matplotlib calls it."""
        return MARKERS[self.index % len(MARKERS)]


def series_of(report: Report) -> list[Series]:
    """Return the lines of the students that have a point, in the order of the config."""
    found = []
    for index, student in enumerate(report.students):
        points = [
            Point(row.size, row.score, *(row.score_ci95 or (row.score, row.score)))
            for row in sorted(report.scored, key=lambda row: row.size)
            if row.student == student and row.score is not None
        ]
        base = next((row.score for row in report.base if row.student == student), None)
        if points or base is not None:
            found.append(Series(student, index, points, base))
    return found


def baseline_of(report: Report) -> Series:
    """Return the baseline's line; it has no intervals."""
    rows = sorted(report.baseline, key=lambda row: row.size)
    points = [Point(row.size, row.score, row.score, row.score) for row in rows]
    return Series(BASELINE_NAME, 0, points)


def draw_png(report: Report, path: Path) -> None:
    """Draw the learning curve into a PNG file of 1600 x 960 pixels."""
    # Imported here: it takes about a second. Figure and canvas without pyplot: no state is shared.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    sizes = report.sizes or [1]
    lane = sizes[0] / 2  # where the untrained students stand
    lines, baseline = series_of(report), baseline_of(report)
    axes.axhline(1.0, color="#57606a", linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate("teacher = 1.0", (lane, 1.0), (0, 4), textcoords="offset points", color="#57606a", size=8)
    for line in lines:
        x, y = [point.size for point in line.points], [point.f1 for point in line.points]
        style: dict[str, Any] = {"color": line.colour, "marker": line.marker, "markersize": 6}
        if x:
            low, high = [point.low for point in line.points], [point.high for point in line.points]
            axes.fill_between(x, low, high, color=line.colour, alpha=0.14, linewidth=0)
            if len(x) == 1:
                axes.vlines(x, low, high, color=line.colour, alpha=0.5)
            axes.plot(x, y, label=line.name, linewidth=2, **style)
        if line.base is not None:
            label = None if x else line.name
            axes.plot([lane], [line.base], markerfacecolor="white", linestyle="none", label=label, **style)
            if x:
                dotted: dict[str, Any] = {"linewidth": 1, "linestyle": (0, (1, 3)), "zorder": 1}
                axes.plot([lane, x[0]], [line.base, y[0]], color=line.colour, **dotted)
    if baseline.points:
        x, y = [point.size for point in baseline.points], [point.f1 for point in baseline.points]
        axes.plot(x, y, color="#57606a", linewidth=1.4, linestyle="--", marker=".", label=baseline.name)
    axes.set_xscale("log")
    axes.set_xlim(lane / 1.25, sizes[-1] * 1.25)
    axes.set_ylim(0, 1.06)
    axes.set_xticks([lane, *sizes], ["untrained", *(f"{size:,}" for size in sizes)])
    axes.minorticks_off()
    axes.set_xlabel("training records")
    axes.set_ylabel(f"{figures.in_sentence(report.metric.title)} against the teacher")
    axes.set_title("Learning curve, with 95 % intervals", loc="left", fontsize=11)
    axes.grid(axis="y", color="#d8dee4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    if lines or baseline.points:
        axes.legend(frameon=False, loc="lower right")
    figure.savefig(path)
