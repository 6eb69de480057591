"""Cheapest means measured cost, and no noise decides."""

from __future__ import annotations

import pytest

from flywheel.config.prices import PricesConfig
from flywheel.evaluation.cost import cheapest_first, median_interval, per_million
from flywheel.report.model import BaselinePart, CandidatePart, DecisionPart, Report
from flywheel.report.parts import MetricPart, TeacherPart
from flywheel.report.verdict import verdict_of


def row(
    student: str,
    size: int,
    parameters: int,
    seconds: tuple[float, float, float] | None,
    money: float | None = None,
) -> CandidatePart:
    return CandidatePart(
        student=student, size=size, parameters=parameters, answer_seconds=seconds, per_million=money
    )


def names(rows: list[CandidatePart]) -> list[str]:
    return [one.name for one in cheapest_first(rows)]


def test_a_student_that_answers_faster_is_cheaper_though_it_has_more_parameters() -> None:
    rows = [row("1b", 500, 10**9, (0.010, 0.009, 0.011)), row("moe", 500, 3 * 10**9, (0.002, 0.0019, 0.0021))]
    assert names(rows) == ["moe @ 500", "1b @ 500"]


def test_money_decides_where_there_are_prices_for_all() -> None:
    gpu = row("1b", 500, 10**9, (0.001, 0.001, 0.001), per_million(0.001, 3.0))
    cpu = row("linear", 500, 10**5, (0.002, 0.002, 0.002), per_million(0.002, 0.1))
    assert names([gpu, cpu]) == ["linear @ 500", "1b @ 500"]
    cpu.per_million = None
    assert names([gpu, cpu]) == ["1b @ 500", "linear @ 500"]


@pytest.mark.parametrize("other", [(0.0095, 0.006, 0.02), (0.0095, 0.0094, 0.0096)])
def test_within_noise_the_one_with_fewer_parameters_is_the_cheaper(other: tuple[float, float, float]) -> None:
    rows = [row("big", 500, 200, other), row("small", 500, 100, (0.010, 0.0099, 0.0101))]
    assert names(rows) == ["small @ 500", "big @ 500"]


def test_of_one_student_the_records_decide_whatever_its_jobs_took() -> None:
    rows = [row("1b", 5000, 100, (0.001, 0.001, 0.001)), row("1b", 500, 100, (0.009, 0.009, 0.009))]
    assert names(rows) == ["1b @ 500", "1b @ 5000"]
    # What differs between its jobs is noise that its distance to another one is seen through.
    rows.append(row("tiny", 500, 10, (0.004, 0.004, 0.004)))
    assert names(rows)[0] == "tiny @ 500"


def test_where_one_was_not_timed_parameters_decide() -> None:
    rows = [row("big", 500, 200, (0.001, 0.001, 0.001)), row("small", 500, 100, None)]
    assert names(rows) == ["small @ 500", "big @ 500"]


def test_the_median_of_batches_has_an_interval_by_order() -> None:
    assert median_interval([]) is None
    assert median_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    middle, low, high = median_interval([float(value) for value in range(1, 101)]) or (0, 0, 0)
    assert (middle, low, high) == (50.5, 41.0, 60.0)


def test_an_hour_costs_by_what_a_job_ran_on() -> None:
    prices = PricesConfig(cpu_hour=0.1, gpu_hour=2.0)
    assert (prices.hour("cpu", 0), prices.hour("NVIDIA H200", 2), prices.hour("NVIDIA H200", 0)) == (
        0.1,
        4.0,
        2.0,
    )
    assert PricesConfig().hour("cpu", 0) is None
    assert per_million(0.0036, 1.0) == pytest.approx(1.0)


def test_the_verdict_says_when_tfidf_would_have_won() -> None:
    line = BaselinePart(size=1000, score=0.95, score_ci95=(0.93, 0.97), scores={"f1_weighted": 0.95})
    report = Report(
        run_id="r",
        workload_id="w",
        client_id="c",
        cutoff=0,
        created_at="",
        metric=MetricPart(name="f1_weighted", title="Weighted F1", short="F1"),
        teacher=TeacherPart(model="t"),
        baseline=[line],
        decision=DecisionPart(threshold=0.9),
    )
    assert any(
        "as a student of family linear it would have been good enough" in one for one in verdict_of(report)
    )
    line.score_ci95 = (0.89, 0.97)
    assert not any("family linear" in one for one in verdict_of(report))
