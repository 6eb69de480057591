"""What all runs of a workload and client have cost, kept beside the champion: it outlives the runs' folders.

Each run has a file there, written when its labels are there and when it is scored. A run that is done again
from its labels on is another try, whose cost is added; within a try what was told once stays, also where a
job is done again and finds its result.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from pydantic import Field

from flywheel.artifacts.root import ArtifactRoot
from flywheel.promotion.champion import champion_folder
from flywheel.report.costs import cost_of, teacher_each
from flywheel.report.outcomes import Outcomes
from flywheel.report.parts import CostPart, ReportPart
from flywheel.runs.run import Run


class MonthCost(ReportPart):
    """What runs cost in a calendar month.

    Attributes:
        month: as `2026-11`, by the clock of the day: a backfilled night's money is spent today.
        runs: that cost something, or were seen, in it.
    """

    month: str
    runs: int
    cost: CostPart


class CostsSoFar(ReportPart):
    """What all runs of a workload and client have cost.

    Attributes:
        last: of the run that was seen last.
        months: from the first on.
        runs: by the run's id.
        teacher_per_million: money for a million answers of the teacher, by the last run that asked some.
    """

    last: CostPart
    total: CostPart
    months: list[MonthCost]
    runs: dict[str, CostPart]
    teacher_per_million: float | None = None


class _Try(ReportPart):
    at: float
    cost: CostPart
    per_million: float | None = None


class _Entry(ReportPart):
    run_id: str
    tries: dict[str, _Try] = Field(default_factory=dict)


def record_cost(run: Run, outcomes: Outcomes) -> None:
    """Keep what a run has cost until now.

    Args:
        outcomes: what its stages and jobs gave, as `gather` reads it.

    Raises:
        ArtifactError: the run has no plan, or a file of it is damaged.
    """
    plan = run.plan
    path = f"{_folder(plan.workload_id, plan.client_id)}/{run.path.rpartition('/')[2]}.json"
    there = _Entry.model_validate(run.root.read_json(path)) if run.root.exists(path) else None
    tries = there.tries if there else {}
    key, cost = _begun(run), cost_of(plan, outcomes)
    if key in tries:
        cost = _most(tries[key].cost, cost)
    each = teacher_each(outcomes.label)
    new = _Try(at=time.time(), cost=cost, per_million=each and each * 1e6)
    entry = _Entry(run_id=run.run_id, tries={**tries, key: new})
    run.root.write_json(path, entry.model_dump(mode="json"))


def costs_so_far(root: ArtifactRoot, workload_id: str, client_id: str, zone: str) -> CostsSoFar | None:
    """Return what all runs of a workload and client have cost; None where no run is known.

    Args:
        zone: time zone of the months.
    """
    folder = _folder(workload_id, client_id)
    entries = [
        _Entry.model_validate(root.read_json(f"{folder}/{name}"))
        for name in root.list(folder)
        if name.endswith(".json")
    ]
    tries = sorted((one for entry in entries for one in entry.tries.values()), key=lambda one: one.at)
    if not tries:
        return None
    months: dict[str, list[CostPart]] = {}
    for one in tries:
        month = datetime.fromtimestamp(one.at, ZoneInfo(zone)).strftime("%Y-%m")
        months.setdefault(month, []).append(one.cost)
    return CostsSoFar(
        last=tries[-1].cost,
        total=_added([one.cost for one in tries]),
        months=[MonthCost(month=name, runs=len(costs), cost=_added(costs)) for name, costs in months.items()],
        runs={
            entry.run_id: _added([one.cost for one in entry.tries.values()])
            for entry in entries
            if entry.tries
        },
        teacher_per_million=next((one.per_million for one in reversed(tries) if one.per_million), None),
    )


def _folder(workload_id: str, client_id: str) -> str:
    return f"{champion_folder(workload_id, client_id)}/costs"


def _begun(run: Run) -> str:
    """Return what a try is told by: when its first stage began."""
    for stage in ("label", "ingest"):
        path = f"{run.path}/stages/{stage}.json"
        if run.root.exists(path):
            return f"{run.root.read_json(path)['started_at']:.3f}"
    return "0"


def _added(costs: Sequence[CostPart]) -> CostPart:
    """Return the sum of costs; a part that has no price in one of them has none."""
    teacher, machines = ([getattr(cost, part) for cost in costs] for part in ("teacher", "machines"))
    return CostPart(
        currency=costs[-1].currency,
        tokens=sum(cost.tokens for cost in costs),
        teacher=None if None in teacher else round(sum(teacher), 6),
        cpu_hours=round(sum(cost.cpu_hours for cost in costs), 6),
        gpu_hours=round(sum(cost.gpu_hours for cost in costs), 6),
        machines=None if None in machines else round(sum(machines), 6),
    )


def _most(before: CostPart, now: CostPart) -> CostPart:
    """Return a try's cost as it was told before, or more."""
    most = {
        name: max(value, getattr(before, name) or 0)
        for name, value in now
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return now.model_copy(update=most)
