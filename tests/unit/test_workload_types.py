"""Tool calls and free texts from the log to the champion, with real training: scores that react."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flywheel.promotion.champion import read_champion
from flywheel.report.html import render_html
from flywheel.report.table import render_markdown
from tests.unit.turned_wheel import STUDENTS, planned, turn


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_DEVICE", "cpu")
    monkeypatch.setenv("FLYWHEEL_THREADS", "1")  # tests run side by side


def student(name: str) -> dict[str, Any]:
    return {
        "model_name": f"flywheel/demo-{name}",
        "name": name,
        "weights": str(STUDENTS / name),
        "context_length": 2048,
        "gpus": 0,
    }


def test_tool_calls_from_the_log_to_the_champion(tmp_path: Path) -> None:
    run = planned(
        tmp_path,
        "calls",
        300,
        nims=[student("caller")],
        sizes=[32, 256],
        data_split_config={"eval_size": 40, "min_total_records": 100, "val_ratio": 0},
        evaluation_config={"max_new_tokens": 64},
        promotion={"within": 0.95, "min_eval": 1},
    )
    report = turn(run)
    assert report.workload_type == "tool_calling"
    assert report.metric.name == "function_name_and_args_accuracy"
    (base,) = report.base
    few, many = report.candidates
    assert base.score is not None and few.score is not None and many.score is not None
    # The same student: untrained, after 3 steps, after 24.
    assert base.score < 0.2
    assert base.score < few.score + 0.05
    assert max(base.score, few.score) + 0.2 < many.score
    assert many.scores["function_name_accuracy"] >= many.score
    assert report.best is not None
    assert {"file_results()", "file_opinion()", "no call"} <= {part.label for part in report.best.per_class}
    champion = read_champion(run.root, "desk_calls", "demo")
    assert champion is not None and report.decision.choice is not None
    assert (champion.metric, champion.score) == (report.metric.name, report.decision.choice.score)
    for page in (render_markdown(report), render_html(report)):
        assert f"{many.score:.3f}" in page
    assert "Calls with the right arguments" in render_html(report)
    answers = Path(run.root.url) / "evaluations" / str(many.evaluation) / "predictions.jsonl"
    (first, *_) = (json.loads(line) for line in answers.read_text().splitlines())
    assert {"teacher", "student", "function_name_accuracy"} <= set(first)


def test_free_texts_from_the_log_to_the_champion(tmp_path: Path) -> None:
    run = planned(
        tmp_path,
        "briefs",
        300,
        nims=[student("medium")],
        sizes=[32, 256],
        data_split_config={"eval_size": 40, "min_total_records": 100, "val_ratio": 0},
        evaluation_config={"max_new_tokens": 48},
        promotion={"within": 0.95, "min_eval": 1},
    )
    report = turn(run)
    assert report.workload_type == "generic"
    assert report.metric.name == "similarity"
    (base,) = report.base
    few, many = report.candidates
    assert base.score is not None and few.score is not None and many.score is not None
    assert max(base.score, few.score) + 0.2 < many.score  # three steps teach nothing yet
    assert report.best is not None and report.best.per_class == []
    champion = read_champion(run.root, "desk_briefs", "demo")
    assert champion is not None and champion.metric == "similarity"
    assert "Similarity" in render_html(report)
