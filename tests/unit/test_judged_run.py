"""A run of free texts with a judge and with examples in prompts: report, promotion, and what is asked again."""

from __future__ import annotations

from pathlib import Path

import pytest

from flywheel.promotion.champion import read_champion
from flywheel.report.html import render_html
from flywheel.report.model import Report
from flywheel.report.table import render_markdown
from flywheel.stages import pipeline as wheel
from flywheel_stand_ins.judge import JudgeBehaviour, StandInJudge
from tests.unit.teacher_servers import served
from tests.unit.test_workload_types import student
from tests.unit.turned_wheel import planned, turn


def test_a_judge_rates_a_whole_run_and_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_DEVICE", "cpu")
    monkeypatch.setenv("FLYWHEEL_THREADS", "1")
    judge = StandInJudge(JudgeBehaviour(position_bias=1))
    with served(judge.app) as url:
        run = planned(
            tmp_path,
            "briefs",
            280,
            nims=[student("medium")],
            sizes=[240],
            data_split_config={"eval_size": 30, "min_total_records": 100, "val_ratio": 0},
            evaluation_config={"max_new_tokens": 40},
            icl_config={"max_examples": 2, "reserved_tokens": 100},
            llm_judge_config={"url": url, "model_name": "stand-in-judge"},
            promotion={"within": 0.99, "min_eval": 1},
        )
        report = turn(run)
        asked = judge.calls["calls"]
        wheel.score(run)
        assert judge.calls["calls"] == asked
    assert report.metric.name == "judge_rating"
    (base,), (candidate,) = report.base, report.candidates
    assert base.score is not None and candidate.score is not None and base.icl_score is not None
    assert base.score < candidate.score
    assert {"judge_rating", "similarity", "exact_match"} <= set(candidate.scores)
    assert report.judge is not None and report.judge.asked == asked > 0
    assert report.judge.unusable == 0
    champion = read_champion(run.root, "desk_briefs", "demo")
    assert champion is not None and (champion.metric, champion.score) == ("judge_rating", candidate.score)
    page = render_html(report)
    assert "none, with examples in the prompt" in page and "stand-in-judge rated pairs" in page
    assert f"| with examples | {base.icl_score:.3f} |" in render_markdown(report)
    again = Report.read(Path(run.root.url) / run.path)
    assert again.judge is not None and again.judge.asked == 0
    assert again.judge.found == report.judge.asked + report.judge.found
