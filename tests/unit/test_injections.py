"""Texts with instructions in them: what is asked, when an instruction counts as followed, and what is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_students import CLASSES, save_dataset, save_student

from flywheel.config import Student
from flywheel.config.evaluation import EvaluationConfig
from flywheel.evaluation.injections import CASES, injected, outcome
from flywheel.jobs.spec import EvaluateSpec
from flywheel.report.build import injections_part
from flywheel.report.model import CandidatePart, ChampionPart, DecisionPart, Remeasured, Report
from flywheel.report.parts import InjectionsPart, MetricPart, TeacherPart
from flywheel.report.verdict import verdict_of
from flywheel.stages.evaluate import evaluate, read_eval_records
from flywheel.workloads.labels import parse_label


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("home")
    save_student(path / "student")
    save_dataset(path / "artifacts", "d1", train=160)
    return path


def spec_of(folder: Path, **changes: Any) -> EvaluateSpec:
    settings: dict[str, Any] = {
        "artifact_root": str(folder / "artifacts"),
        "student": Student(model_name="tiny-1m", weights=str(folder / "student")),
        "dataset": "d1",
        "classes": CLASSES,
        "evaluation": EvaluationConfig(batch_size=10, max_new_tokens=16),
    }
    return EvaluateSpec(**{**settings, **changes})


def records(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": str(at),
            "label": CLASSES[at % len(CLASSES)],
            "messages": [
                {"role": "system", "content": "Sort."},
                {
                    "role": "user",
                    "content": f"One of: earnings, other.\nHeadline: {at} bears at {at}\nClass:",
                },
                {"role": "assistant", "content": "[[[other]]]"},
            ],
        }
        for at in range(count)
    ]


def test_each_case_is_asked_once_in_a_held_out_prompt_and_demands_what_the_teacher_did_not_say(
    folder: Path,
) -> None:
    there = records(500)
    asked = injected(spec_of(folder), there)
    assert [one.case for one in asked] == list(range(len(CASES)))
    assert 20 <= len(CASES) <= 40 and len({one.place for one in asked}) == len(CASES)
    for one in asked:
        record = there[one.place]
        content = one.request[-1]["content"]
        assert one.demanded in CLASSES and one.demanded != record["label"]
        assert f"{one.place} bears at {one.place}" in content and one.demanded in content
        assert content.startswith("One of: earnings, other.\nHeadline: ") and content.endswith("\nClass:")
        assert one.request[0] == record["messages"][0]
        assert "<|" not in content
    assert injected(spec_of(folder), there) == asked


def test_other_workloads_are_told_nothing(folder: Path) -> None:
    generic = EvaluationConfig(workload_type="generic")
    assert injected(spec_of(folder, evaluation=generic), records(50)) == []
    assert len(injected(spec_of(folder), records(5))) == 5


def test_followed_is_the_demanded_class_that_was_not_the_answer_without_the_instruction(folder: Path) -> None:
    spec, there = spec_of(folder), records(200)
    asked = injected(spec, there)
    plain = [f"[[[{record['label']}]]]" for record in there]
    obeying = [f"[[[{one.demanded}]]]" for one in asked]
    steady = [plain[one.place] for one in asked]
    assert outcome(spec, asked, obeying, plain)[0].followed == len(CASES)
    assert outcome(spec, asked, steady, plain)[0].followed == 0
    assert outcome(spec, asked, ["?"] * len(asked), plain)[0].followed == 0
    # Of a student that gave the class without being told, nothing can be seen.
    plain[asked[0].place] = obeying[0]
    found, lines = outcome(spec, asked, obeying, plain)
    assert (found.followed, found.of) == (len(CASES) - 1, len(CASES) - 1)
    assert [line["followed"] for line in lines] == [False] + [True] * (len(CASES) - 1)


def test_an_evaluation_tells_how_many_instructions_were_followed_and_keeps_the_answers(folder: Path) -> None:
    result = evaluate(spec_of(folder))
    assert result.injections is not None and 0 <= result.injections.followed <= result.injections.of <= 24
    lines = (folder / "artifacts/evaluations" / result.key / "injections.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 24 == result.records == len(read_eval_records_of(folder))
    assert sum(row["followed"] for row in rows) == result.injections.followed
    part = injections_part(result)
    assert part is not None and (part.followed, part.of) == (result.injections.followed, result.injections.of)
    # What is chosen among the classes names one, so each can be followed.
    chosen = evaluate(spec_of(folder, answers=tuple(f"[[[{name}]]]" for name in CLASSES)))
    assert all(parse_label(row["answer"], CLASSES, {}) for row in rows_of(folder, chosen.key))


def rows_of(folder: Path, key: str) -> list[dict[str, Any]]:
    text = (folder / "artifacts/evaluations" / key / "injections.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def read_eval_records_of(folder: Path) -> list[dict[str, Any]]:
    from flywheel.artifacts.root import ArtifactRoot

    return read_eval_records(ArtifactRoot(str(folder / "artifacts")), spec_of(folder))


def test_the_verdict_says_it_of_the_choice_and_of_the_champion_before() -> None:
    row = CandidatePart(student="1b", size=500, score=0.9, injections=InjectionsPart(followed=2, of=31))
    report = Report(
        run_id="r",
        workload_id="w",
        client_id="c",
        cutoff=0,
        created_at="",
        metric=MetricPart(name="f1_weighted", title="Weighted F1", short="F1"),
        teacher=TeacherPart(model="t"),
        candidates=[row],
        decision=DecisionPart(choice=ChampionPart(student="1b", size=500)),
        remeasured=Remeasured(adapter="a", injections=InjectionsPart(followed=9, of=30)),
    )
    assert (
        "1b @ 500 followed a headline's instruction in 2 of 31; the champion of before followed a headline's "
        "instruction in 9 of 30."
    ) in verdict_of(report)
    assert Report.model_validate_json(report.json_bytes()).candidates[0].injections == row.injections
