"""The constant answer: what each candidate must beat, in every report, and never beaten by one that is equal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.config import Config
from flywheel.config.promotion import PromotionConfig
from flywheel.promotion.champion import read_champion
from flywheel.report import Report, read_report, render_markdown
from flywheel.report.constant import constant_of
from flywheel.report.model import CandidatePart
from flywheel.report.selection import choose
from flywheel.runs.plan import Plan
from flywheel.runs.run import Run
from flywheel.stages import pipeline as wheel
from flywheel.workloads.metrics import METRICS
from tests.unit.finished_run import config_of, curated, customized, evaluated, plan_of, publish_adapter

RECORDS = 1000
OWN = ("news_classifier", "default")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr("flywheel.stages.score.track", lambda *_: None)
    monkeypatch.setattr("flywheel.stages.score.baseline", lambda *_: [])
    monkeypatch.setattr("flywheel.stages.promote.register", lambda *_: None)
    return config_of(str(tmp_path / "artifacts"), f"sqlite:///{tmp_path}/mlflow.db")


def publish(root: ArtifactRoot, answers: Sequence[dict[str, Any]], labels: Sequence[str]) -> str:
    """Publish a data set whose training and eval records have these answers and labels."""
    key = key_of("dataset", list(answers), list(labels))
    lines = [
        orjson.dumps(
            {
                "id": f"r{at}",
                "label": label,
                "messages": [{"role": "user", "content": f"text {at}"}, {"role": "assistant", **answer}],
            }
        )
        for at, (answer, label) in enumerate(zip(answers, labels, strict=True))
    ]
    with root.build("datasets", key) as folder:
        for part in ("train", "val", "eval"):
            (folder / f"{part}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return key


def night(config: Config, plan: Plan, rare: int, hits: int, misses: int) -> tuple[Run, Report]:
    """Score a run whose eval set has so many rare records; its student finds `hits` of them.

    Of the frequent ones it takes `misses` for rare.
    """
    root = ArtifactRoot(config.artifacts.root)
    labels = ["Earnings" if at < rare else "OTHER" for at in range(RECORDS)]
    given = ["Earnings" if at < hits or rare <= at < rare + misses else "OTHER" for at in range(RECORDS)]
    dataset = publish(root, [{"content": plan.workload.answer_for(label)} for label in labels], labels)
    run = Run.create(plan)
    keep(run, "stages/curate", curated(dataset, RECORDS).model_dump(mode="json"))
    (candidate,) = plan.candidates
    keep(run, f"jobs/{candidate.folder}/customize", customized(candidate, dataset))
    publish_adapter(run.root, candidate, dataset)
    result = evaluated(candidate.student, candidate.size, dataset, 0.95)
    both = [[RECORDS - rare - misses, misses, 0], [rare - hits, hits, 0]]
    right = sum(one == other for one, other in zip(labels, given, strict=True)) / RECORDS
    matrix = {"labels": ["OTHER", "Earnings"], "matrix": both}
    scores = {**result["scores"], "f1_weighted": right}
    keep(run, f"jobs/{candidate.folder}/evaluate", result | {"confusion": matrix, "scores": scores})
    rows = [
        {"id": f"r{at}", "teacher": teacher, "student": student}
        for at, (teacher, student) in enumerate(zip(labels, given, strict=True))
    ]
    with root.build("evaluations", result["key"]) as folder:
        (folder / "predictions.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n")
    wheel.score(run)
    wheel.promote(run)
    return run, read_report(run.root, run.run_id)


def keep(run: Run, name: str, result: dict[str, Any]) -> None:
    run.root.write_json(f"{run.path}/{name}.json", {"result": result, "started_at": 1.0, "ended_at": 2.0})


def one_plan(config: Config) -> Plan:
    return plan_of(config, students=["1b"], sizes=[25])


def test_a_student_that_always_says_the_frequent_class_is_never_promoted(config: Config) -> None:
    run, report = night(config, one_plan(config), rare=30, hits=0, misses=0)
    (row,) = report.candidates
    assert row.score_low is not None and row.score_low > 0.9  # near enough to the teacher, by itself
    assert (row.gain, report.decision.choice) == (0.0, None)
    assert "None is shown to beat one constant answer for everything" in report.decision.reason
    assert any("1b @ 25 is not shown to be better, and is not promoted" in text for text in report.verdict)
    assert read_champion(run.root, *OWN) is None


def test_a_student_that_is_better_by_chance_alone_is_not_promoted(config: Config) -> None:
    _, report = night(config, one_plan(config), rare=30, hits=2, misses=1)
    (row,) = report.candidates
    assert row.gain is not None and row.gain > 0
    assert report.decision.choice is None


def test_a_student_that_finds_the_rare_class_is_promoted(config: Config) -> None:
    run, report = night(config, one_plan(config), rare=30, hits=25, misses=2)
    champion = read_champion(run.root, *OWN)
    assert champion is not None and champion.student == "1b"
    assert report.constant is not None and report.constant.answer == "OTHER"
    # 970 of 1,000 right, precision .97: 2 * .97 / 1.97, weighted by .97.
    assert report.constant.score == pytest.approx(0.97 * 2 * 0.97 / 1.97)


def test_the_constant_answer_is_in_table_page_and_json(config: Config) -> None:
    run, report = night(config, one_plan(config), rare=300, hits=280, misses=10)
    folder = Path(run.root.url) / run.path
    shown = json.loads((folder / "report.json").read_bytes())["constant"]
    assert (shown["answer"], shown["metric"]) == ("OTHER", "f1_weighted")
    figure = f"{shown['score']:.3f}"
    page = (folder / "report.html").read_text()
    assert '<th scope="col" class="quiet">one answer</th>' in page
    assert f'<td class="quiet">{figure}</td>' in page
    assert f"| 25 | {report.candidates[0].score:.3f} ◀ | – | {figure} |" in render_markdown(report)
    assert any(f"The one answer 'OTHER' for everything reaches {figure}" in text for text in report.verdict)


def test_of_the_best_a_student_as_good_as_the_constant_answer_is_not_chosen() -> None:
    row = CandidatePart(
        student="1b", size=5, score=0.6, score_error=0.001, eval_records=1000, gain=0.0, gain_error=0.001
    )
    promotion = PromotionConfig(of="best", within=0.05)
    assert choose([row], promotion).candidate is None
    assert choose([row.model_copy(update={"gain": 0.1})], promotion).candidate is not None


def test_the_constant_of_calls_is_the_most_frequent_call_and_of_texts_the_most_frequent_text(
    config: Config,
) -> None:
    root, plan = ArtifactRoot(config.artifacts.root), one_plan(config)

    def calling(symbol: str) -> dict[str, Any]:
        function = {"name": "get_quote", "arguments": {"symbol": symbol}}
        return {"content": "", "tool_calls": [{"type": "function", "function": function}]}

    calls = publish(
        root,
        [calling("A"), calling("A"), calling("B"), {"content": "none"}, {"content": "nothing"}],
        ["get_quote()"] * 3 + ["no call"] * 2,
    )
    metric = METRICS["function_name_and_args_accuracy"]
    part = constant_of(root, plan, calls, "tool_calling", metric).part
    assert (part.answer, part.score) == ('get_quote {"symbol":"A"}', 0.4)
    quiet = publish(
        root, [{"content": "a"}, {"content": "b"}, calling("A")], ["no call"] * 2 + ["get_quote()"]
    )
    part = constant_of(root, plan, quiet, "tool_calling", metric).part
    assert (part.answer, part.score) == ("no call", pytest.approx(2 / 3))
    texts = publish(root, [{"content": text} for text in ("a b", "c d", "c  d", "e")], ["text"] * 4)
    part = constant_of(root, plan, texts, "generic", METRICS["judge_rating"]).part  # which a judge alone has
    assert (part.answer, part.metric, part.scores["exact_match"]) == ("c d", "similarity", 0.5)
