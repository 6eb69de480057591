"""What a run cost: the teacher's tokens and the machines' hours, each by its price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flywheel.jobs.result import CustomizeResult, EvaluateResult
from flywheel.jobs.spec import CHAMPION
from flywheel.report.outcomes import Outcomes
from flywheel.report.parts import CostPart
from flywheel.runs.plan import Candidate, Plan


def cost_of(plan: Plan, outcomes: Outcomes) -> CostPart:
    """Return what a run cost until it was scored, by the prices of its plan.

    A job holds its machine by the clock, with as many GPUs as its student asks for. A stage computes on the
    machine of Airflow and mostly waits for others: its CPU seconds count, where they have a price.
    """
    label, prices = outcomes.label, plan.config.teacher.prices
    tokens = label.get("prompt_tokens", 0) + label.get("completion_tokens", 0)
    has_price = bool(label.get("cost") or prices.prompt or prices.completion or not tokens)
    gpus = {student.name: student.gpus for student in plan.config.students}
    stages = [
        outcomes.used[name].cpu_seconds for name in ("label", "ingest", "curate") if name in outcomes.used
    ]
    cpu_hours, gpu_hours = sum(stages) / 3600, 0.0
    money: float | None = cpu_hours * (plan.config.prices.cpu_hour or 0.0)
    for name, result in _done(outcomes):
        count = max(1, gpus.get(result.student, 1)) if result.device != "cpu" else 1
        used = outcomes.used.get(name)
        spent = (used.wall_seconds if used else sum(result.timing.values())) / 3600
        if result.device == "cpu":
            cpu_hours += spent
        else:
            gpu_hours += spent * count
        hour = plan.config.prices.hour(result.device, count)
        money = None if money is None or hour is None else money + spent * hour
    return CostPart(
        currency=prices.currency,
        tokens=tokens,
        teacher=label.get("cost", 0.0) if has_price else None,
        cpu_hours=round(cpu_hours, 6),
        gpu_hours=round(gpu_hours, 6),
        machines=None if money is None else round(money, 6),
    )


def teacher_each(label: Mapping[str, Any]) -> float | None:
    """Return what an answer of the teacher cost, by a label stage's result; None where that is not known."""
    cost, asked = label.get("cost"), label.get("asked")
    return cost / asked if cost and asked else None


def _done(outcomes: Outcomes) -> Iterator[tuple[str, CustomizeResult | EvaluateResult]]:
    """Yield the results of jobs that this run did itself, with their names in `Outcomes.used`."""
    found: list[tuple[str, CustomizeResult | EvaluateResult | None]] = []
    for job in outcomes.base:
        found += [(f"{job.student}/base_eval", job.evaluate), (f"{job.student}/icl_eval", job.icl)]
    for job in outcomes.candidates:
        folder = Candidate(student=job.student, size=job.size or 0).folder
        found += [(f"{folder}/customize", job.customize), (f"{folder}/evaluate", job.evaluate)]
    found.append((f"{CHAMPION}/champion_eval", outcomes.champion))
    for name, result in found:
        if result is not None and not result.found:
            yield name, result
