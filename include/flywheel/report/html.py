"""The report as one HTML file that needs nothing else: no script, no font, no address outside of it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from flywheel.common.utc import to_second
from flywheel.evaluation.cascade import CascadePoint, curve
from flywheel.evaluation.cost import cheapest_first
from flywheel.report import figures
from flywheel.report.curve_svg import draw_svg
from flywheel.report.model import CandidatePart, Report
from flywheel.report.parts import ConfusionPart
from flywheel.report.reliability_svg import draw_reliability
from flywheel.workloads.metrics import METRICS, Metric

if TYPE_CHECKING:
    from jinja2 import Template

_STATES = {"failed": "failed", "unavailable": "too few records", "missing": "no result"}


def render_html(report: Report) -> str:
    """Return the report as a self-contained HTML page."""
    calibration = report.best.calibration if report.best else None
    return _template().render(
        report=report,
        headline=headline(report),
        curve=draw_svg(report) if report.candidates or report.base else "",
        css=files("flywheel.report").joinpath("report.css").read_text(encoding="utf-8"),
        rows=[_row(report, size) for size in report.sizes],
        base={row.student: row for row in report.base},
        has_money=any(row.per_million is not None for row in report.scored),
        costs=cheapest_first(report.scored),
        tests=sorted(report.scored, key=lambda row: (row.test_place or 0, -row.size, row.student)),
        troubles=_troubles(report),
        others=_other_metrics(report),
        lower=figures.in_sentence,
        mark=lambda row: _mark(report, row),
        state=_STATES.get,
        heat=_heat(report.best.confusion) if report.best and report.best.confusion else [],
        answered=_answered(report),
        reliability=draw_reliability(calibration) if calibration else "",
        human_heat=_heat(report.teacher.human_confusion) if report.teacher.human_confusion else [],
        has_confidence=any(row.confidence is not None for row in report.teacher.human_disagreements),
        data=[(name, figures.count(value)) for name, value in _data(report) if value is not None],
        spans=_spans(report),
        classes=_classes(report),
        counters=_counters(report),
        stages=[(name, figures.duration(seconds)) for name, seconds in report.stages.items()],
        time=_time,
    )


def _answered(report: Report) -> list[CascadePoint]:
    """Return share answered against agreement of the best candidate, a tenth of the levels."""
    calibration = report.best.calibration if report.best else None
    points = list(curve(calibration)) if calibration else []
    return points[3::4] if len(points) > 12 else points


def _other_metrics(report: Report) -> list[Metric]:
    """Return the further metrics of the candidates' table."""
    own = {name for row in report.scored for name in row.scores} - {report.metric.name, "accuracy"}
    if report.workload_type == "classification" and report.metric.name != "f1_macro":
        return [METRICS["f1_macro"]]
    return [metric for name, metric in METRICS.items() if name in own]


def headline(report: Report) -> str:
    """Return the outcome of the run in one line."""
    decision, choice = report.decision, report.decision.choice
    name = f"{choice.student} @ {figures.count(choice.size)}" if choice else ""
    stays = report.production
    stay = "would stay in production" if decision.in_past else "stays in production"
    kept = f"{stays.student} @ {figures.count(stays.size)} {stay}" if stays else f"the teacher {stay}"
    if decision.state == "would be promoted":
        return f"{name} would be the new champion of that night"
    if decision.state == "promoted":
        return f"{name} is the new champion"
    if decision.state == "in place":
        if decision.in_past:
            return f"{name} would be the champion already, and stay"
        return f"{name} is the champion already, and stays"
    if decision.state == "rejected":
        return f"{name} was rejected; {kept}"
    if decision.state == "outdated":
        return f"{name} was made from older records than the champion; {kept}"
    if decision.state == "held":
        return f"{name} is good enough, but a person's word holds; {kept}"
    if choice:
        return f"{name} is proposed as champion"
    return f"No candidate is good enough; {kept}"


def _troubles(report: Report) -> list[tuple[str, str, str]]:
    """Return what has no result: its name, its state in words and the reason."""
    rows = [(f"{row.student}, untrained", row.state, row.reason) for row in report.base]
    rows += [(row.name, row.state, row.reason) for row in report.candidates]
    return [(name, _STATES[state], reason) for name, state, reason in rows if state != "scored"]


def _row(report: Report, size: int) -> dict[str, Any]:
    """Return a row of table 1."""
    baseline = next((row.score for row in report.baseline if row.size == size), None)
    cells = [report.candidate(student, size) for student in report.students]
    return {"size": size, "cells": cells, "baseline": baseline}


def _mark(report: Report, row: CandidatePart) -> str:
    """Return what a candidate is in this run: champion, proposed, best, or nothing."""
    choice = report.decision.choice
    if choice and (choice.student, choice.size) == (row.student, row.size):
        return (
            "champion" if report.champion else "proposed" if report.decision.state == "pending" else "chosen"
        )
    if report.best and (report.best.student, report.best.size) == (row.student, row.size):
        return "best"
    return ""


def _heat(confusion: ConfusionPart) -> list[dict[str, Any]]:
    """Return the rows of the confusion matrix, each cell with its share of its row in percent."""
    rows = []
    for label, counts in zip(confusion.labels, confusion.matrix, strict=True):
        total = sum(counts)
        cells = [
            {
                "count": count,
                "percent": round(100 * count / total) if total else 0,
                "right": column == label,
                "column": column,
            }
            for column, count in zip(confusion.columns, counts, strict=True)
        ]
        rows.append({"label": label, "total": total, "cells": cells})
    return rows


def _data(report: Report) -> list[tuple[str, int | None]]:
    data = report.data
    return [
        ("answers that plan said would be asked", data.foretold),
        ("headlines with the teacher’s label", data.labelled),
        *(
            (f"headlines that hold {what}, broken up in prompts", count)
            for what, count in data.marked.items()
        ),
        ("records new in the store", data.stored),
        ("records in the store before the cutoff", data.records),
        ("labelled under another version of the prompt, left out", data.other_prompts),
        ("of a class that no longer exists, left out", data.removed_classes),
        ("taken over from other versions of the prompt", data.taken_over),
        ("duplicates left out", data.exact_duplicates),
        ("near-duplicates left out", data.near_duplicates),
        ("used", data.used),
        ("events that they report, each counted once", data.events),
        ("training", data.train),
        ("validation", data.validation),
        ("calibration", data.calibration),
        ("eval, held out", data.eval),
        ("left out, in the gap or of an event that reaches into a later part", data.left_out),
        *((f"labelled by: {name}", count) for name, count in data.labelled_by.items()),
        ("of a text with another label, left out", data.conflicts),
    ]


def _spans(report: Report) -> list[tuple[str, str, str]]:
    """Return when the first and the last record of each part was known."""
    return [(name, _time(first), _time(last)) for name, (first, last) in report.data.known.items()]


def _classes(report: Report) -> dict[str, Any]:
    """Return the table of records by class and split."""
    splits = list(dict.fromkeys(split for counts in report.data.per_class.values() for split in counts))
    rows = sorted(report.data.per_class.items(), key=lambda item: -sum(item[1].values()))
    return {"splits": splits, "rows": rows}


def _counters(report: Report) -> list[tuple[str, str]]:
    """Return what the run itself paid for."""
    rows = [(name.replace("_", " "), value) for name, value in report.counters.items()]
    rows.insert(1, ("teacher’s prompt tokens", report.teacher.prompt_tokens))
    rows.insert(2, ("teacher’s answer tokens", report.teacher.completion_tokens))
    shown = [(name, figures.count(value)) for name, value in rows]
    teacher = report.teacher
    if teacher.estimated:
        told = f"{figures.count(teacher.estimated)}: the endpoint did not tell"
        shown.insert(3, ("answers whose tokens and cost are estimated", told))
    if teacher.cached_tokens:
        cached = figures.count(teacher.cached_tokens)
        shown.insert(2, ("of these found in the teacher’s prefix cache", cached))
    if report.cost:
        shown.append(("cost", report.cost.words))
    return shown


def _time(seconds: int) -> str:
    return f"{to_second(seconds)} UTC"


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("flywheel.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("f1", "interval", "chance", "count", "parameters", "duration", "rate", "milliseconds"):
        environment.filters[name] = getattr(figures, name)
    return environment.get_template("report.html.jinja")
