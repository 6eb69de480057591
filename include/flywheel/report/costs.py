"""What a run cost: the teacher's tokens and the machines' hours, each by its price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flywheel.jobs.result import CustomizeResult, EvaluateResult
from flywheel.report.outcomes import Outcomes
from flywheel.report.parts import CostPart
from flywheel.runs.plan import Plan


def cost_of(plan: Plan, outcomes: Outcomes) -> CostPart:
    """Return what a run cost, by the prices of its plan."""
    label, prices = outcomes.label, plan.config.teacher.prices
    tokens = label.get("prompt_tokens", 0) + label.get("completion_tokens", 0)
    has_price = bool(label.get("cost") or prices.prompt or prices.completion or not tokens)
    gpus = {student.name: student.gpus for student in plan.config.students}
    hours = {"cpu": 0.0, "gpu": 0.0}
    money: float | None = 0.0
    for result in _done(outcomes):
        count = max(1, gpus.get(result.student, 1)) if result.device != "cpu" else 1
        spent = sum(result.timing.values()) / 3600
        hours["cpu" if result.device == "cpu" else "gpu"] += spent * count
        hour = plan.config.prices.hour(result.device, count)
        money = None if money is None or hour is None else money + spent * hour
    return CostPart(
        currency=prices.currency,
        tokens=tokens,
        teacher=label.get("cost", 0.0) if has_price else None,
        cpu_hours=round(hours["cpu"], 6),
        gpu_hours=round(hours["gpu"], 6),
        machines=None if money is None else round(money, 6),
    )


def teacher_each(label: Mapping[str, Any]) -> float | None:
    """Return what an answer of the teacher cost, by a label stage's result; None where that is not known."""
    cost, asked = label.get("cost"), label.get("asked")
    return cost / asked if cost and asked else None


def _done(outcomes: Outcomes) -> Iterator[CustomizeResult | EvaluateResult]:
    """Yield the results of jobs that this run did itself."""
    for job in (*outcomes.base, *outcomes.candidates):
        for result in (job.customize, job.evaluate, job.icl):
            if result is not None and not result.found:
                yield result
    if outcomes.champion is not None and not outcomes.champion.found:
        yield outcomes.champion
