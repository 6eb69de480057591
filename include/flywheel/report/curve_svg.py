"""The learning curve as inline SVG, in the colours of the page's theme."""

from __future__ import annotations

import math
from html import escape

from flywheel.report import figures
from flywheel.report.curve import COLOURS, Point, Series, baseline_of, series_of
from flywheel.report.model import Report

# In pixels of the drawing; the page scales it to its width.
WIDTH, HEIGHT = 860, 430
LEFT, RIGHT, TOP, BOTTOM = 52, 190, 24, 54
LANE = 64  # between the untrained students and the first size
LABEL_GAP = 17  # between the names at the right end


def draw_svg(report: Report) -> str:
    """Return the learning curve as an SVG element; colours and fonts come from report.css."""
    lines, baseline = series_of(report), baseline_of(report)
    axis = _Axis(report.sizes or [1], lane=any(line.base is not None for line in lines))
    chosen = report.decision.choice
    parts = [*_grid(axis, [(size, axis.x(size)) for size in axis.sizes], report.metric.title)]
    if baseline.points:
        parts.append(f'<g class="baseline">{_polyline(axis, baseline.points)}')
        parts += [
            f'<circle cx="{axis.x(p.size):.1f}" cy="{axis.y(p.f1):.1f}" r="2.5"><title>{baseline.name}, '
            f"{figures.count(p.size)} records: {figures.f1(p.f1)}</title></circle>"
            for p in baseline.points
        ]
        parts.append("</g>")
    for line in lines:
        ring = chosen.size if chosen and chosen.student == line.name else None
        parts.append(_line(axis, line, ring))
    parts += _names(axis, lines, baseline)
    title = f"Learning curve: {_summary(lines, baseline)}"
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="curve-title">'
        f'<title id="curve-title">{escape(title)}</title>{"".join(parts)}</svg>'
    )


class _Axis:
    """Where sizes and F1 values lie in the drawing; sizes on a logarithmic scale."""

    def __init__(self, sizes: list[int], *, lane: bool) -> None:
        self.sizes = sizes
        self.lane = LEFT + 34 if lane else None
        self.start = LEFT + 34 + (LANE if lane else 0)
        self.end = WIDTH - RIGHT - 22
        self.low, self.high = math.log(sizes[0]), math.log(sizes[-1])

    def x(self, size: int) -> float:
        if self.high == self.low:
            return (self.start + self.end) / 2
        return self.start + (math.log(size) - self.low) / (self.high - self.low) * (self.end - self.start)

    def y(self, f1: float) -> float:
        return TOP + (1.04 - f1) / 1.04 * (HEIGHT - TOP - BOTTOM)


def _grid(axis: _Axis, ticks: list[tuple[int, float]], title: str) -> list[str]:
    parts = []
    for step in range(6):
        f1 = step / 5
        y = axis.y(f1)
        style = "teacher" if step == 5 else "grid"
        parts.append(f'<line class="{style}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{f1:.1f}</text>')
    what = escape(f"{figures.in_sentence(title)} against the teacher")
    parts.append(
        f'<text class="tick" x="{WIDTH - RIGHT + 12}" y="{axis.y(1) + 4:.1f}">teacher</text>'
        f'<text class="axis" x="{LEFT - 44}" y="12">{what}</text>'
        f'<text class="axis" x="{(axis.start + axis.end) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">'
        "training records (logarithmic)</text>"
    )
    bottom = HEIGHT - BOTTOM + 20
    if axis.lane is not None:
        parts.append(f'<text class="tick" x="{axis.lane}" y="{bottom}" text-anchor="middle">untrained</text>')
    reached = -math.inf
    for size, x in ticks:
        parts.append(_upright("grid", x, axis.y(0), axis.y(0) + 5))
        if x - reached >= 46:  # room for its number
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{bottom}" text-anchor="middle">'
                f"{figures.count(size)}</text>"
            )
            reached = x
    return parts


def _line(axis: _Axis, line: Series, ring: int | None) -> str:
    """Return a student's band, line, markers and untrained point; `ring` is the size of the choice."""
    parts = [f'<g class="s{line.index % len(COLOURS)}">']
    if len(line.points) > 1:
        upper = [f"{axis.x(p.size):.1f},{axis.y(p.high):.1f}" for p in line.points]
        lower = [f"{axis.x(p.size):.1f},{axis.y(p.low):.1f}" for p in reversed(line.points)]
        parts.append(f'<polygon class="band" points="{" ".join(upper + lower)}"/>')
    parts += [_upright("whisker", axis.x(p.size), axis.y(p.low), axis.y(p.high)) for p in line.points]
    if line.base is not None and axis.lane is not None:
        if line.points:
            first = line.points[0]
            parts.append(
                f'<line class="dots" x1="{axis.lane}" y1="{axis.y(line.base):.1f}" '
                f'x2="{axis.x(first.size):.1f}" y2="{axis.y(first.f1):.1f}"/>'
            )
        text = f"{line.name}, untrained: {figures.f1(line.base)}"
        parts.append(_marker(line, axis.lane, axis.y(line.base), text, hollow=True))
    parts.append(_polyline(axis, line.points))
    for p in line.points:
        x, y = axis.x(p.size), axis.y(p.f1)
        text = f"{line.name} @ {p.size}: {figures.f1(p.f1)} ({p.low:.3f} to {p.high:.3f})"
        if p.size == ring:
            parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="10"/>')
        parts.append(_marker(line, x, y, text))
    return "".join([*parts, "</g>"])


def _upright(style: str, x: float, y1: float, y2: float) -> str:
    return f'<path class="{style}" d="M{x:.1f} {y1:.1f}V{y2:.1f}"/>'


def _polyline(axis: _Axis, points: list[Point]) -> str:
    places = " ".join(f"{axis.x(p.size):.1f},{axis.y(p.f1):.1f}" for p in points)
    return f'<polyline points="{places}"/>' if len(points) > 1 else ""


def _marker(line: Series, x: float, y: float, text: str, *, hollow: bool = False) -> str:
    style = "mark hollow" if hollow else "mark"
    title = f"<title>{escape(text)}</title>"
    if line.marker == "o":
        return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="4.6">{title}</circle>'
    corners = {
        "s": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "^": ((0, -5.4), (5, 4), (-5, 4)),
        "D": ((0, -5.6), (5.6, 0), (0, 5.6), (-5.6, 0)),
        "v": ((0, 5.4), (5, -4), (-5, -4)),
    }[line.marker]
    places = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon class="{style}" points="{places}">{title}</polygon>'


def _names(axis: _Axis, lines: list[Series], baseline: Series) -> list[str]:
    """Return the names at the lines' right ends, moved apart where they would meet."""
    ends: list[tuple[float, str, str, Series | None]] = []
    for line in lines:
        value = line.points[-1].f1 if line.points else line.base
        if value is not None:
            style = f"s{line.index % len(COLOURS)}"
            ends.append((axis.y(value), style, f"{line.name}  {figures.f1(value)}", line))
    if baseline.points:
        value = baseline.points[-1].f1
        ends.append((axis.y(value), "baseline", f"TF-IDF  {figures.f1(value)}", None))
    ends.sort(key=lambda end: end[0])
    parts = []
    reached = axis.y(1.0)  # the teacher's name is there
    x = WIDTH - RIGHT + 20
    for y, style, text, named in ends:
        reached = max(y, reached + LABEL_GAP)
        parts.append(f'<g class="{style}">')
        if named is not None:
            parts.append(_marker(named, x - 2, reached, text))
        else:
            parts.append(f'<path class="key" d="M{x - 9} {reached:.1f}h14"/>')
        parts.append(f'<text class="name" x="{x + 11}" y="{reached + 4:.1f}">{escape(text)}</text></g>')
    return parts


def _summary(lines: list[Series], baseline: Series) -> str:
    """Say what the drawing shows, for those who do not see it."""
    texts = []
    for line in [*lines, baseline]:
        values = [f"{figures.f1(p.f1)} at {figures.count(p.size)}" for p in line.points]
        if line.base is not None:
            values.insert(0, f"{figures.f1(line.base)} untrained")
        if values:
            texts.append(f"{line.name}: {', '.join(values)}")
    return "; ".join(texts) or "no candidate has a result yet"
