"""The report as text: for a terminal, and as Markdown for the review in Airflow's UI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flywheel.evaluation.cost import cheapest_first
from flywheel.report import figures
from flywheel.report.html import headline
from flywheel.report.model import BasePart, CandidatePart, Report

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

_STATES = {"failed": "failed", "unavailable": "too few records", "missing": "no result"}


def render_table(report: Report) -> Group:
    """Return what a `rich.console.Console` prints: tables, headline, verdict and warnings."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Table | Text] = []
    if report.candidates:
        parts.append(_table_1(report))
    if report.scored:
        parts += [Text(), _costs(report)]
    parts += [Text(), Text(headline(report), style="bold")]
    parts += [Text(sentence) for sentence in report.verdict]
    parts += [
        Text(f"{row.name}: {_STATES[row.state]}: {_first_line(row.reason)}", style="yellow")
        for row in report.candidates
        if row.state != "scored"
    ]
    parts += [Text(warning, style="yellow") for warning in report.warnings]
    if report.cost:
        parts.append(Text(f"This run cost {report.cost.words}."))
    return Group(*parts)


def render_markdown(report: Report) -> str:
    """Return headline, verdict and table 1 as Markdown."""
    students = report.students
    lines = [f"**{headline(report)}**", "", *(line for text in report.verdict for line in (text, ""))]
    constant = figures.f1(report.constant.score) if report.constant else "–"
    lines.append(f"| training records | {' | '.join(students)} | TF-IDF | one answer |")
    lines.append("|---:" * (len(students) + 3) + "|")
    bases = {row.student: row for row in report.base}
    rows = [["untrained", *(_base(bases.get(student)) for student in students), "–", constant]]
    if report.has_icl:
        rows.append(["with examples", *(_icl(bases.get(student)) for student in students), "–", constant])
    baseline = {row.size: row.score for row in report.baseline}
    for size in report.sizes:
        cells = [_cell(report, report.candidate(student, size)).plain for student in students]
        rows.append([figures.count(size), *cells, figures.f1(baseline.get(size)), constant])
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _table_1(report: Report) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        title=f"{report.metric.title} against the teacher (teacher = 1.0)",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("training records", justify="right")
    for student in report.students:
        table.add_column(student, justify="right")
    table.add_column("TF-IDF", justify="right", style="dim")
    table.add_column("one answer", justify="right", style="dim")
    constant = figures.f1(report.constant.score) if report.constant else "–"
    if report.base:
        bases = {row.student: row for row in report.base}
        before = [bases.get(student) for student in report.students]
        table.add_row("untrained", *map(_base, before), "–", constant)
        if report.has_icl:
            table.add_row("with examples", *map(_icl, before), "–", constant)
    baseline = {row.size: row.score for row in report.baseline}
    for size in report.sizes:
        cells = [_cell(report, report.candidate(student, size)) for student in report.students]
        table.add_row(figures.count(size), *cells, figures.f1(baseline.get(size)), constant)
    return table


def _base(row: BasePart | None) -> str:
    if row is None:
        return "–"
    return figures.f1(row.score) if row.state == "scored" else _STATES[row.state]


def _icl(row: BasePart | None) -> str:
    if row is None or (row.icl_score is None and not row.icl_reason):
        return "–"
    return figures.f1(row.icl_score) if row.icl_score is not None else _STATES["failed"]


def _cell(report: Report, row: CandidatePart | None) -> Text:
    from rich.text import Text

    if row is None:
        return Text("–")
    if row.state != "scored":
        return Text(_STATES[row.state], style="yellow")
    choice = report.decision.choice
    chosen = choice is not None and (choice.student, choice.size) == (row.student, row.size)
    return Text(figures.f1(row.score) + (" ◀" if chosen else ""), style="bold green" if chosen else "")


def _costs(report: Report) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="Cost beside quality, cheapest first", title_justify="left", box=SIMPLE_HEAD)
    table.pad_edge, table.collapse_padding = False, True
    table.add_column("candidate", no_wrap=True)
    measured = ("answers\n/ s", _batch_column(report), "p50 ms\nalone")
    for name in ("parameters", report.metric.short, "95 %", "training", *measured):
        table.add_column(name, justify="right", no_wrap=True)
    has_money = any(row.per_million is not None for row in report.scored)
    if has_money:
        table.add_column("a million\nanswers", justify="right", no_wrap=True)
    for row in cheapest_first(report.scored):
        table.add_row(*_cost_row(row), *([figures.money(row.per_million)] if has_money else []))
    return table


def _cost_row(row: CandidatePart) -> tuple[str, ...]:
    return (
        row.name,
        figures.parameters(row.parameters),
        figures.f1(row.score),
        figures.interval(row.score_ci95).replace(" to ", "–"),
        "found" if row.found else figures.duration(row.train_seconds),
        figures.rate(row.answers_per_second),
        figures.milliseconds(row.latency_p95_ms),
        figures.milliseconds(row.single_p50_ms),
    )


def _batch_column(report: Report) -> str:
    """Return what the latency is of: `p95 ms, batch of 100`, where all candidates had that size."""
    sizes = {row.batch_size for row in report.scored}
    size = sizes.pop() if len(sizes) == 1 else None
    return f"p95 ms\nbatch\nof {size}" if size else "p95 ms\nbatch"


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0]
