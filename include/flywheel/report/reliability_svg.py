"""The reliability diagram as inline SVG: how often answers of like confidence agree with the teacher."""

from __future__ import annotations

from flywheel.jobs.result import Calibration
from flywheel.report import figures

# In pixels of the drawing.
SIZE, LEFT, BOTTOM, TOP, RIGHT = 320, 46, 44, 12, 14


def draw_reliability(calibration: Calibration) -> str:
    """Return the diagram as an SVG element; colours and fonts come from report.css."""
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _x(tick), _y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{SIZE - RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        parts.append(f'<text x="{x:.1f}" y="{SIZE - BOTTOM + 17}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<line class="ideal" x1="{_x(0):.1f}" y1="{_y(0):.1f}" x2="{_x(1):.1f}" y2="{_y(1):.1f}"/>')
    for part in calibration.bins:
        x, low, high = _x(part.confidence), _y(part.low), _y(part.high)
        said = (
            f"{figures.count(part.records)} answers of confidence {figures.f1(part.confidence)}: "
            f"{figures.f1(part.right)} agree, {figures.f1(part.low)} to {figures.f1(part.high)}"
        )
        parts.append(
            f'<line class="range" x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}"/>'
            f'<circle cx="{x:.1f}" cy="{_y(part.right):.1f}" r="3.5"><title>{said}</title></circle>'
        )
    middle = (LEFT + SIZE - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{SIZE - 8}" text-anchor="middle">confidence</text>')
    up = (TOP + SIZE - BOTTOM) / 2
    parts.append(
        f'<text x="12" y="{up}" text-anchor="middle" transform="rotate(-90 12 {up})">'
        "agree with the teacher</text>"
    )
    title = f"Reliability diagram: expected calibration error {figures.f1(calibration.ece)}"
    return (
        f'<svg class="reliability" viewBox="0 0 {SIZE} {SIZE}" role="img" '
        'aria-labelledby="reliability-title">'
        f'<title id="reliability-title">{title}</title>{"".join(parts)}</svg>'
    )


def _x(share: float) -> float:
    return LEFT + share * (SIZE - LEFT - RIGHT)


def _y(share: float) -> float:
    return TOP + (1 - share) * (SIZE - TOP - BOTTOM)
