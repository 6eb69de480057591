"""What all runs into a store may spend in a calendar month."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flywheel.common.errors import BudgetError
from flywheel.config.teacher import MonthBudget, Prices
from flywheel.teacher.month import MonthSpending
from flywheel.teacher.spending import Spending
from tests.unit.test_teacher_spending import USAGE


def of_month(path: Path, run_id: str, budget: MonthBudget) -> Spending:
    """Return the sums of a run, with those of its month; 1 USD for a million tokens."""
    month = MonthSpending(budget, path.with_suffix(".months.json"), "UTC", run_id)
    return Spending(prices=Prices(prompt=1.0, completion=1.0), path=path, run_id=run_id, month=month)


def ask(spending: Spending) -> None:
    spending.end(spending.begin(b"x" * 400), b"x" * 400, USAGE)


def test_a_month_has_a_budget_over_all_runs_and_their_killed_and_repeated_tries(tmp_path: Path) -> None:
    path, budget = tmp_path / "spent.json", MonthBudget(tokens=500)
    ended = of_month(path, "ended", budget)
    ask(ended)
    ended.save()
    ended.forget()
    killed = of_month(path, "killed", budget)
    ask(killed)
    killed.save()
    # It goes on after the kill, and is not counted twice; the ended one, done again, is.
    ask(of_month(path, "killed", budget))
    repeated = of_month(path, "ended", budget)
    ask(repeated)
    repeated.save()
    ask(repeated)
    month = datetime.now(UTC).strftime("%Y-%m")
    with pytest.raises(BudgetError, match=rf"month_budget.tokens: 440 of 500 are spent in {month}$"):
        ask(repeated)
    (tmp_path / "spent.months.json").write_bytes(
        (tmp_path / "spent.months.json").read_bytes().replace(month.encode(), b"2020-01")
    )
    ask(of_month(path, "next", budget))


def test_who_asks_at_the_same_time_sees_what_the_other_has_spent(tmp_path: Path) -> None:
    run, endpoint = (of_month(tmp_path / "spent.json", name, MonthBudget(calls=3)) for name in ("run", "day"))
    ask(run)
    ask(endpoint)
    run.save()
    endpoint.save()  # it reads what the run has spent
    ask(endpoint)
    with pytest.raises(BudgetError, match=r"month_budget.calls: all 3 are spent in \d{4}-\d\d$"):
        ask(endpoint)


def test_a_months_sums_that_cannot_be_read_are_no_new_budget(tmp_path: Path) -> None:
    (tmp_path / "spent.months.json").write_text('{"2026-')
    with pytest.raises(
        BudgetError, match=r"spent.months.json: is not what a month has spent.*Remove the file"
    ):
        of_month(tmp_path / "spent.json", "run", MonthBudget(calls=3))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (MonthBudget(calls=1), "month_budget.calls: all 1 are spent"),
        (MonthBudget(cost=0.0002), "month_budget.cost: 0.00 USD of 0.00 USD are spent"),
    ],
)
def test_a_months_calls_and_money_have_bounds(tmp_path: Path, budget: MonthBudget, message: str) -> None:
    first = of_month(tmp_path / "spent.json", "first", budget)
    ask(first)
    first.save()
    with pytest.raises(BudgetError, match=message):
        ask(of_month(tmp_path / "spent.json", "second", budget))
