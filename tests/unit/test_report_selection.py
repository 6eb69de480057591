"""The choice: the cheapest candidate within the distance, with a reason that has the figures."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flywheel.common.errors import ConfigError
from flywheel.config.loading import validate_config
from flywheel.config.promotion import PromotionConfig
from flywheel.report import figures
from flywheel.report.build import metric_of
from flywheel.report.model import CandidatePart
from flywheel.report.selection import best_of, choose
from flywheel.runs.plan import Plan, make_plan
from flywheel.workloads.metrics import METRICS, main_metric, metrics_of

PARAMETERS = {"1b": 1_000_000_000, "3b": 3_000_000_000}


def candidate(student: str, size: int, f1: float, half: float = 0.01, **changes: object) -> CandidatePart:
    bounds = (f1 - half, f1 + half)
    values = {"student": student, "size": size, "score": f1, "score_ci95": bounds}
    values |= {"score_error": half / 2, "eval_records": 10**9}
    return CandidatePart.model_validate({**values, "parameters": PARAMETERS[student], **changes})


def test_fewest_parameters_then_fewest_records() -> None:
    rows = [
        candidate("3b", 10, 0.99),
        candidate("1b", 20, 0.96),
        candidate("1b", 10, 0.95),
        candidate("1b", 5, 0.80),
    ]
    choice = choose(rows, PromotionConfig(within=0.1))
    assert choice.candidate is rows[2]
    assert choice.best is rows[0]
    assert choice.threshold == pytest.approx(0.9)
    assert choice.reason == (
        "1b @ 10 reaches 0.950, at least 0.938, with 98.4 % confidence over 4 candidates, within 0.10 of the "
        "teacher (at least 0.900 was asked), and is the cheapest that is shown to be. 3b @ 10 would gain 0.040 "
        "at 3 times the parameters."
    )


def test_the_distance_may_be_to_the_best() -> None:
    rows = [candidate("3b", 10, 0.70, half=0.001), candidate("1b", 10, 0.66, half=0.001)]
    assert choose(rows, PromotionConfig(within=0.05)).candidate is None
    choice = choose(rows, PromotionConfig(within=0.05, of="best"))
    assert choice.candidate is rows[1]
    assert "within 0.05 of the best (at least 0.650 was asked)" in choice.reason


def test_a_bound_below_the_bar_does_not_pass_whatever_the_score() -> None:
    choice = choose([candidate("1b", 10, 0.92, half=0.03)], PromotionConfig(within=0.1))
    assert choice.candidate is None
    assert "the best, 1b @ 10 reaches 0.920, at least 0.882, with 98.4 % confidence over 1 candidates." in (
        choice.reason
    )
    surer = choose([candidate("1b", 10, 0.92, half=0.01)], PromotionConfig(within=0.1))
    assert surer.candidate is not None
    assert "and is the only one that is shown to be. No candidate scores higher." in surer.reason


def test_a_dear_student_that_fails_does_not_stop_a_cheaper_one() -> None:
    rows = [candidate("3b", 10, 0.85), candidate("1b", 10, 0.96)]
    assert choose(rows, PromotionConfig(within=0.1)).candidate is rows[1]


def test_figures_that_may_be_chance_are_called_so() -> None:
    rows = [candidate("1b", 20, 0.93, half=0.04), candidate("1b", 10, 0.91, half=0.04)]
    reason = choose(rows, PromotionConfig(within=0.2)).reason
    assert "gain 0.020 at 2 times the training records; their 95 % intervals overlap" in reason


def test_failed_candidates_take_no_part() -> None:
    failed = CandidatePart(student="1b", size=5, state="failed", reason="killed")
    rows = [failed, candidate("3b", 5, 0.95)]
    assert choose(rows, PromotionConfig()).candidate is rows[1]
    assert best_of([failed]) is None
    choice = choose([failed], PromotionConfig())
    assert (choice.candidate, choice.threshold) == (None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (figures.f1(0.93149), "0.931"),
        (figures.f1(None), "–"),
        (figures.parameters(1_235_814_400), "1.24 B"),
        (figures.parameters(310_000), "310 k"),
        (figures.parameters(999), "999"),
        (figures.duration(0.04), "0.0 s"),
        (figures.duration(9.96), "10 s"),
        (figures.duration(59.6), "1 min"),
        (figures.duration(200), "3 min 20 s"),
        (figures.duration(7500), "2 h 5 min"),
        (figures.rate(5120.4), "5,120"),
        (figures.rate(12.44), "12.4"),
        (figures.milliseconds(0.83), "0.8"),
        (figures.times(2.589), "2.6 times"),
        (figures.times(25), "25 times"),
    ],
)
def test_figures_are_written_in_one_way(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    "kind, judged, own",
    [
        ("classification", False, "f1_weighted"),
        ("tool_calling", False, "function_name_and_args_accuracy"),
        ("tool_calling", True, "tool_calling_correctness"),
        ("generic", False, "similarity"),
        ("generic", True, "judge_rating"),
    ],
)
def test_each_type_of_workload_has_its_metric(kind: Any, judged: bool, own: str) -> None:
    assert main_metric(kind, judged=judged).name == own
    assert own in metrics_of(kind, judged=judged)
    assert set(metrics_of(kind, judged=judged)) <= set(METRICS)


def test_the_config_chooses_another_metric_of_the_same_type(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"metric": "function_name_accuracy"})
    assert metric_of(plan, "tool_calling", judged=False).short == "functions right"
    with pytest.raises(
        ConfigError, match=r"promotion\.metric: function_name_accuracy is not measured here.*f1_macro"
    ):
        metric_of(plan, "classification", judged=False)
    with pytest.raises(ConfigError, match="without a judge"):
        metric_of(plan_of(tmp_path, {"metric": "judge_rating"}), "generic", judged=False)


def plan_of(folder: Path, promotion: dict[str, str]) -> Plan:
    config = validate_config({"nims": [{"model_name": "a/b"}], "promotion": promotion}, "test")
    return make_plan(config, run_id="r", cutoff=datetime(2026, 1, 1, tzinfo=UTC))
