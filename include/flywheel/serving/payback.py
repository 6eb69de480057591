"""What a flywheel has cost so far, what its students have saved in production, and when that pays."""

from __future__ import annotations

from pydantic import BaseModel, Field

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.promotion.champion import read_champion
from flywheel.promotion.costs import MonthCost, costs_so_far
from flywheel.report.files import read_report
from flywheel.report.parts import CostPart
from flywheel.serving.nights import nights


class Costs(BaseModel):
    """What all runs of a workload and client have cost, and what it came to.

    Attributes:
        last: of the run that was seen last; `total` of all, `months` from the first on. None: there was none.
        teacher_per_million: money for a million answers of the teacher, by the last run that asked some.
        champion_per_million: the same of the champion's; None: its machine's hours have no price, or there is
            no champion.
        pays_after: answers of the champion, in the teacher's place, that save what all runs have cost; None
            where a price is missing, or where it saves nothing.
        answered: that students gave in production, by the nights of `serving.watch`; `saved` by them.
        paid: whether that is what all runs have cost; None where it is not known.
    """

    workload_id: str
    client_id: str
    last: CostPart | None = None
    total: CostPart | None = None
    months: list[MonthCost] = Field(default_factory=list)
    teacher_per_million: float | None = None
    champion_per_million: float | None = None
    pays_after: int | None = None
    answered: int = 0
    saved: float | None = None
    paid: bool | None = None

    def lines(self) -> list[str]:
        """Return it in lines, for people."""
        if self.total is None or self.last is None:
            return [f"{self.workload_id} ({self.client_id}): no run has cost anything yet."]
        money = f"{{:,.2f}} {self.total.currency}".format
        found = [
            f"{self.workload_id} ({self.client_id}), the last run: {self.last.words}",
            *(f"{month.month}, {month.runs} runs: {month.cost.words}" for month in self.months),
            f"so far: {self.total.words}",
        ]
        for who, each in (
            ("the teacher", self.teacher_per_million),
            ("the champion", self.champion_per_million),
        ):
            if each is not None:
                found.append(f"a million answers of {who}: {money(each)}")
        if self.pays_after is not None:
            found.append(
                f"the champion pays for all runs after {self.pays_after:,} answers in the teacher's place"
            )
        if self.answered:
            saved = "" if self.saved is None else f", which saved {money(self.saved)}"
            found.append(f"students gave {self.answered:,} answers in production{saved}")
        if self.paid:
            found.append("that has paid for all runs")
        return found


def costs(root: ArtifactRoot, workload_id: str, client_id: str, zone: str) -> Costs:
    """Return what a flywheel has cost and saved.

    Args:
        zone: time zone of the months.
    """
    so_far = costs_so_far(root, workload_id, client_id, zone)
    found = Costs(workload_id=workload_id, client_id=client_id)
    if so_far is None:
        return found
    champion_each = _champion_per_million(root, workload_id, client_id)
    there = nights(root, workload_id, client_id)
    saved = [night.saved for night in there if night.saved is not None]
    total = so_far.total.total
    return found.model_copy(
        update={
            "last": so_far.last,
            "total": so_far.total,
            "months": so_far.months,
            "teacher_per_million": so_far.teacher_per_million,
            "champion_per_million": champion_each,
            "pays_after": so_far.pays_after(champion_each),
            "answered": sum(night.by_student for night in there),
            "saved": round(sum(saved), 6) if saved else None,
            "paid": sum(saved) >= total if saved and total is not None else None,
        }
    )


def _champion_per_million(root: ArtifactRoot, workload_id: str, client_id: str) -> float | None:
    """Return money for a million answers of the champion, as the run measured it that it comes from."""
    champion = read_champion(root, workload_id, client_id)
    if champion is None:
        return None
    try:
        row = read_report(root, champion.run_id).candidate(champion.student, champion.size)
    except ArtifactError:  # the run is gone
        return None
    return row.per_million if row else None
