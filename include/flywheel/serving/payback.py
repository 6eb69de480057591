"""What a flywheel has cost so far, what its students have saved in production, and when that pays.

An answer of a student saves what the teacher's would have cost, less what its own does. The teacher's is the
mean of what the night's own cost (`flywheel.serving.nights`), else what the last run paid for one.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.promotion.champion import Champion, read_champion
from flywheel.promotion.costs import MonthCost, costs_so_far
from flywheel.report.files import read_report
from flywheel.report.parts import CostPart
from flywheel.serving.nights import Night, nights


class Payback(BaseModel):
    """When students have saved what they cost.

    Attributes:
        cost: money that is to be saved; None: it has no price.
        after: answers in the teacher's place that save it; None: a price is missing, or nothing is saved.
        answered: that were given in production, by the nights of `serving.watch`.
        saved: by these; None where a price is missing.
        paid: whether that is the cost; None where it is not known.
    """

    cost: float | None = None
    after: int | None = None
    answered: int = 0
    saved: float | None = None
    paid: bool | None = None

    def words(self, currency: str) -> str:
        """Return it in a sentence's end: `after 1,024 answers; 2,000 were given and saved 3.20 USD: paid`."""
        after = "not known" if self.after is None else f"after {self.after:,} answers in the teacher's place"
        if not self.answered:
            return f"{after}; none was given in production yet"
        saved = "" if self.saved is None else f" and saved {self.saved:,.2f} {currency}"
        paid = {True: ": it has paid", False: ": it has not paid yet", None: ""}[self.paid]
        return f"{after}; {self.answered:,} were given in production{saved}{paid}"


class Costs(BaseModel):
    """What all runs of a workload and client have cost, and what it came to.

    Attributes:
        last: of the run that was seen last; `total` of all, `months` from the first on. None: there was none.
        teacher_per_million: money for a million answers of the teacher, by the last run that asked some.
        champion_per_million: the same of the champion's; None: its machine's hours have no price, or there is
            no champion.
        making: when the champion pays for the run that made it; None: there is no champion, or its run's cost
            is not known.
        all_runs: when students have paid for all runs, answers of all champions counted, at the price of the
            one in force.
    """

    workload_id: str
    client_id: str
    last: CostPart | None = None
    total: CostPart | None = None
    months: list[MonthCost] = Field(default_factory=list)
    teacher_per_million: float | None = None
    champion_per_million: float | None = None
    making: Payback | None = None
    all_runs: Payback | None = None

    def lines(self) -> list[str]:
        """Return it in lines, for people."""
        if self.total is None or self.last is None:
            return [f"{self.workload_id} ({self.client_id}): no run has cost anything yet."]
        currency = self.total.currency
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
                found.append(f"a million answers of {who}: {each:,.4g} {currency}")
        for what, pays in (("its own run", self.making), ("all runs", self.all_runs)):
            if pays is not None:
                found.append(f"the champion pays for {what} {pays.words(currency)}")
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
    champion = read_champion(root, workload_id, client_id)
    champion_each = _per_million(root, champion) if champion else None
    prices, there = (so_far.teacher_per_million, champion_each), nights(root, workload_id, client_id)
    made = so_far.runs.get(champion.run_id) if champion else None
    own = [night for night in there if champion and night.adapter == champion.adapter]
    return found.model_copy(
        update={
            "last": so_far.last,
            "total": so_far.total,
            "months": so_far.months,
            "teacher_per_million": so_far.teacher_per_million,
            "champion_per_million": champion_each,
            "making": _payback(made.total, prices, own) if made else None,
            "all_runs": _payback(so_far.total.total, prices, there) if champion else None,
        }
    )


def _payback(
    cost: float | None, prices: tuple[float | None, float | None], there: Sequence[Night]
) -> Payback:
    """Return when answers have saved a cost.

    Args:
        prices: money for a million answers, of the teacher and of the champion.
        there: the nights whose students' answers count.
    """
    found = Payback(cost=cost, answered=sum(night.by_student for night in there))
    teacher, champion = prices
    if champion is None:
        return found
    if teacher is not None and cost is not None and teacher > champion:
        found.after = round(cost / (teacher - champion) * 1e6)
    if there:
        # Where a night's teacher had no price, the last run's is taken.
        gross = [
            night.by_student * teacher / 1e6 if night.saved is None and teacher is not None else night.saved
            for night in there
        ]
        known = [one for one in gross if one is not None]
        if len(known) == len(gross):
            found.saved = round(sum(known) - found.answered * champion / 1e6, 6)
            found.paid = None if cost is None else found.saved >= cost
    return found


def _per_million(root: ArtifactRoot, champion: Champion) -> float | None:
    """Return money for a million answers of the champion, as the run measured it that it comes from."""
    try:
        row = read_report(root, champion.run_id).candidate(champion.student, champion.size)
    except ArtifactError:  # the run is gone
        return None
    return row.per_million if row else None
