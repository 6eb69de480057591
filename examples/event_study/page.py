# ruff: noqa: E501  a page of HTML
"""The page of the study: its pictures, by matplotlib, and what they show, in HTML without anything from elsewhere."""

from __future__ import annotations

import html
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from examples.event_study.made import DEALS, MERGERS, TRUTH
from examples.event_study.study import AFTER, Response

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } img { max-width: 100%; height: auto } figcaption { color: #555; font-size: .9rem }
figure { margin: 1.5rem 0 } table { border-collapse: collapse } td, th { padding: .3rem .8rem; text-align: right;
border-bottom: 1px solid #ddd } td:first-child, th:first-child { text-align: left } code { background: #f2f2f2 }
"""
_OURS, _AHEAD, _TRUE = "#1f6f43", "#b3261e", "#555555"
# The same bytes wherever it is drawn: no time and no version in the file.
_METADATA = {"Software": None}


def write_page(
    folder: Path, by_class: dict[str, Response], honest: Response, ahead: Response, facts: list[str]
) -> Path:
    """Write index.html, events.png and lookahead.png into a folder; return the page.

    Args:
        by_class: responses by class, of labels that are point in time.
        honest, ahead: around mergers, by labels point in time and by those of today's champion.
        facts: sentences on how the labels were made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _draw_events(folder / "events.png", by_class)
    _draw_lookahead(folder / "lookahead.png", honest, ahead)
    page = folder / "index.html"
    page.write_text(_page(by_class, honest, ahead, facts), encoding="utf-8")
    return page


def _draw_events(path: Path, by_class: dict[str, Response]) -> None:
    columns = 3
    rows = -(-len(by_class) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(10, 2.7 * rows), sharex=True, sharey=True, squeeze=False
    )
    for axis, (label, one) in zip(axes.flat, by_class.items(), strict=False):
        axis.axhline(0, color="#999", linewidth=0.7)
        axis.axvline(0, color="#999", linewidth=0.7, linestyle=":")
        axis.fill_between(one.days, one.low, one.high, color=_OURS, alpha=0.2, linewidth=0)
        axis.plot(one.days, one.mean, color=_OURS, linewidth=1.6)
        axis.plot([0], [TRUTH.get(label, 0.0)], "x", color=_TRUE)
        axis.set_title(f"{label} ({one.events:,})", fontsize=10)
    for axis in axes.flat[len(by_class) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("days from the headline")
    for axis in axes[:, 0]:
        axis.set_ylabel("abnormal return, %")
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata=_METADATA)
    plt.close(figure)


def _draw_lookahead(path: Path, honest: Response, ahead: Response) -> None:
    figure, axis = plt.subplots(figsize=(8, 4.2))
    axis.axhline(0, color="#999", linewidth=0.7)
    for one, colour, name in (
        (ahead, _AHEAD, "labels of today's champion: look-ahead"),
        (honest, _OURS, "labels of the champion of the day: point in time"),
    ):
        axis.fill_between(one.days, one.low, one.high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(one.days, one.mean, color=colour, linewidth=1.8, label=f"{name} ({one.events:,} events)")
    axis.set_xlabel("days from the headline")
    axis.set_ylabel("abnormal return, %")
    axis.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata=_METADATA)
    plt.close(figure)


def _page(by_class: dict[str, Response], honest: Response, ahead: Response, facts: list[str]) -> str:
    rows = "\n".join(
        f"<tr><td>{html.escape(label)}</td><td>{one.events:,}</td><td>{TRUTH.get(label, 0.0):+.1f}</td>"
        f"<td>{_band(one.on_the_day)}</td><td>{_band(one.later)}</td></tr>"
        for label, one in by_class.items()
    )
    told = "\n".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Event study: point in time and look-ahead</title><style>{_STYLE}</style></head>
<body>
<h1>What headlines do to prices, and what only seems so</h1>
<p>Headlines and prices are made, by <code>examples/event_study/made.py</code>: it is known what a class does to a
price, and that it does nothing afterwards. The labels are a student's of flywheel, of nights of that year.</p>
<ul>
{told}
</ul>
<h2>Events by class, point in time</h2>
<figure><img src="events.png" alt="Mean abnormal return by day around headlines of each class, with bands">
<figcaption>Mean abnormal return by day, 95 % bands of a bootstrap over companies; the cross is the truth. A wrong label pulls a response towards 0.</figcaption>
</figure>
<table>
<tr><th>class</th><th>events</th><th>truth, %</th><th>on the day, % [95 %]</th>
<th>days 1 to {AFTER}, % [95 %]</th></tr>
{rows}
</table>
<h2>The same question, asked of labels that have read the future</h2>
<figure><img src="lookahead.png" alt="Abnormal returns around mergers by two kinds of labels">
<figcaption>{MERGERS}, headlines before {DEALS:%B %Y}.</figcaption></figure>
<p>In the last quarter eight companies are bought. Their talks of earlier months meant nothing to anybody then, and
their prices had risen after them. A student that was trained on the last quarter knows whose talks these are,
and calls the old ones mergers. By its labels, buying after a merger's headline earns
<strong>{_band(ahead.later)} %</strong> in {AFTER} days. By the labels that could be had on the day it earns
<strong>{_band(honest.later)} %</strong>; the truth is 0.</p>
</body>
</html>
"""


def _band(one: tuple[float, float, float]) -> str:
    return f"{one[0]:+.2f} [{one[1]:+.2f}, {one[2]:+.2f}]"
