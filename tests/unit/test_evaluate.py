"""The evaluate stage: answers are parsed, scored, kept and found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from tiny_students import CLASSES, save_dataset, save_student
from transformers import AutoModelForCausalLM, AutoTokenizer

from flywheel.common.errors import StudentError
from flywheel.config import Student
from flywheel.config.evaluation import EvaluationConfig
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.evaluation.icl import own_texts
from flywheel.jobs.progress import Progress
from flywheel.jobs.result import CustomizeResult, EvaluateResult
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.stages.customize import customize
from flywheel.stages.evaluate import evaluate
from flywheel.students import answering, generation


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_DEVICE", "cpu")
    monkeypatch.setenv("FLYWHEEL_THREADS", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("home")
    save_student(path / "student")
    save_dataset(path / "artifacts", "d1", train=160, calibration=40)
    return path


def student(folder: Path) -> Student:
    return Student(model_name="tiny-1m", weights=str(folder / "student"))


@pytest.fixture(scope="module")
def trained(folder: Path) -> CustomizeResult:
    training = TrainingConfig(epochs=6, batch_size=16, learning_rate=1e-2, validations=0)
    return customize(
        CustomizeSpec(
            artifact_root=str(folder / "artifacts"),
            student=student(folder),
            dataset="d1",
            size=160,
            training=training,
            lora=LoraConfig(adapter_dim=16),
        )
    )


def make_spec(folder: Path, **changes: Any) -> EvaluateSpec:
    settings: dict[str, Any] = {
        "artifact_root": str(folder / "artifacts"),
        "student": student(folder),
        "dataset": "d1",
        "classes": CLASSES,
        "evaluation": EvaluationConfig(batch_size=10, max_new_tokens=16),
    }
    return EvaluateSpec(**{**settings, **changes})


def read_predictions(folder: Path, path: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "artifacts" / path).read_text().splitlines()]


def test_an_adapter_teaches_the_form_of_the_answers(folder: Path, trained: CustomizeResult) -> None:
    seen: list[Progress] = []
    base = evaluate(make_spec(folder))
    custom = evaluate(make_spec(folder, adapter=trained.adapter, size=160), seen.append)
    assert base.adapter is None and base.size is None and base.unparsable > 20
    assert custom.unparsable < 4
    low, high = custom.intervals["f1_weighted"]
    assert low <= custom.scores["f1_weighted"] <= high
    assert custom.parameters > base.parameters
    assert [progress.step for progress in seen] == [10, 20, 30, 40, 48]
    assert 0 < custom.latency_ms.p50 <= custom.latency_ms.p95


def test_answers_are_those_of_plain_transformers_and_peft(folder: Path, trained: CustomizeResult) -> None:
    result = evaluate(make_spec(folder, adapter=trained.adapter, size=160))
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    model = AutoModelForCausalLM.from_pretrained(folder / "student")
    model = PeftModel.from_pretrained(model, folder / "artifacts" / trained.path)
    records = [
        json.loads(line) for line in (folder / "artifacts/datasets/d1/eval.jsonl").read_text().splitlines()
    ]
    for record, line in list(zip(records, read_predictions(folder, result.predictions), strict=True))[:6]:
        prompt = tokenizer.apply_chat_template(
            record["messages"][:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**prompt, do_sample=False, max_new_tokens=16)
        answer = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert line["answer"] == answer.strip()


def test_answers_chosen_among_the_labels_always_name_one(folder: Path, trained: CustomizeResult) -> None:
    answers = tuple(f"[[[{label}]]]" for label in CLASSES)
    for adapter, size in ((None, None), (trained.adapter, 160)):
        result = evaluate(make_spec(folder, adapter=adapter, size=size, answers=answers))
        assert result.unparsable == 0
        written = {line["answer"] for line in read_predictions(folder, result.predictions)}
        assert written <= set(answers)
        for line in read_predictions(folder, result.predictions):
            assert (adapter is not None) == ("probabilities" in line)
            if adapter is not None:
                # A class whose probability rounds to nothing is left out.
                assert sum(line["probabilities"].values()) == pytest.approx(1, abs=0.002)
                assert max(line["probabilities"], key=line["probabilities"].get) == line["student"]
    assert result.calibration is not None and (
        result.calibration.records,
        result.calibration.level_records,
    ) == (30, 10)
    free = evaluate(make_spec(folder, adapter=trained.adapter, size=160))
    assert free.calibration is None
    assert free.key != result.key


class Clock:
    """Stands still but for what a batch takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(answering, "perf_counter", clock)
    return clock


def test_a_slow_first_batch_is_neither_in_p95_nor_in_the_answers_a_second(
    folder: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_dataset(tmp_path / "artifacts", "d1", train=160)
    asked: list[int] = []
    answer_batch = generation._answer_batch

    def slow_at_first(*arguments: Any) -> list[list[int]]:
        """Takes 60 s the first time, then 2 s and 0.1 s a prompt."""
        prompts = len(arguments[2])
        clock.now += 2.0 + 0.1 * prompts if asked else 60.0
        asked.append(prompts)
        return answer_batch(*arguments)

    monkeypatch.setattr(generation, "_answer_batch", slow_at_first)
    result = evaluate(make_spec(folder, artifact_root=str(tmp_path / "artifacts")))
    # On a CPU the warm-up is small; no more prompts are asked alone than fill a second.
    # 24 held-out texts, and the same with an instruction in each.
    assert asked == [1, 10, 10, 10, 10, 8, 1]
    assert result.warmup_seconds == pytest.approx(60.0)
    assert result.batch_size == 10
    assert result.latency_ms.p50 == result.latency_ms.p95 == pytest.approx(3000.0)
    assert result.records_per_second == pytest.approx(48 / (4 * 3.0 + 2.8))
    assert result.single_ms is not None
    assert result.single_ms.p50 == result.single_ms.p95 == pytest.approx(2100.0)
    kept = (tmp_path / "artifacts/evaluations" / result.key / "result.json").read_text()
    assert EvaluateResult.model_validate_json(kept).warmup_seconds == result.warmup_seconds


def test_results_of_the_version_before_are_read(folder: Path) -> None:
    old = evaluate(make_spec(folder)).model_dump(mode="json")
    for name in ("batch_size", "warmup_seconds", "single_ms"):
        del old[name]
    assert EvaluateResult.model_validate(old).single_ms is None


def test_predictions_hold_each_record_in_order_and_its_own_text(
    folder: Path, trained: CustomizeResult
) -> None:
    result = evaluate(make_spec(folder, adapter=trained.adapter, size=160))
    lines = read_predictions(folder, result.predictions)
    records = [
        json.loads(line) for line in (folder / "artifacts/datasets/d1/eval.jsonl").read_text().splitlines()
    ]
    assert [line["id"] for line in lines] == [record["id"] for record in records]
    for line, record in zip(lines, records, strict=True):
        assert line["teacher"] == record["label"]
        assert line["text"] and line["text"] in record["messages"][1]["content"]
        assert "Read the headline" not in line["text"]
        if line["student"]:
            assert line["student"] in line["answer"]
    agreeing = sum(line["teacher"] == line["student"] for line in lines)
    assert result.scores["accuracy"] == pytest.approx(agreeing / len(lines))


def test_an_evaluation_is_found_again_under_the_name_of_the_asking(
    folder: Path, trained: CustomizeResult
) -> None:
    first = evaluate(make_spec(folder, adapter=trained.adapter, size=160))
    again = evaluate(make_spec(folder, adapter=trained.adapter, size=99))
    assert again.found and again.key == first.key and again.size == 99
    assert again.scores == first.scores


def test_prompts_beyond_the_context_count_as_unanswered(folder: Path) -> None:
    short = student(folder).model_copy(update={"context_length": 150})
    result = evaluate(make_spec(folder, student=short))
    lines = read_predictions(folder, result.predictions)
    assert result.records == 24 == len(lines)
    assert any(line["answer"] == "" for line in lines) and any(line["answer"] != "" for line in lines)
    nothing = evaluate(make_spec(folder, student=short.model_copy(update={"context_length": 20})))
    assert nothing.unparsable == 24 and nothing.scores["f1_weighted"] == 0


def test_an_adapter_of_another_student_is_an_error(
    folder: Path, trained: CustomizeResult, tmp_path: Path
) -> None:
    other = Student(model_name="other-2m", weights=str(save_student(tmp_path / "other", hidden_size=64)))
    with pytest.raises(StudentError, match="cannot be loaded onto this student"):
        evaluate(make_spec(folder, student=other, adapter=trained.adapter))


def test_own_texts_are_what_the_requests_do_not_share() -> None:
    def request(text: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": "s"}, {"role": "user", "content": f"Say: {text}\nClass:"}]

    assert own_texts([request("oil up"), request("gold down"), request("tin")]) == [
        "oil up",
        "gold down",
        "tin",
    ]
    assert own_texts([request("same"), request("same")]) == ["Say: same\nClass:"] * 2
    assert own_texts([[{"role": "system", "content": "s"}]]) == [""]


def test_a_student_of_short_prompts_is_asked_and_trained_on_the_text_alone(
    folder: Path, trained: CustomizeResult
) -> None:
    training = TrainingConfig(epochs=6, batch_size=16, learning_rate=1e-2, validations=0)
    spec = CustomizeSpec(
        artifact_root=str(folder / "artifacts"),
        student=student(folder),
        dataset="d1",
        size=160,
        student_prompt="text",
        training=training,
        lora=LoraConfig(adapter_dim=16),
    )
    short = customize(spec)
    assert short.adapter != trained.adapter
    assert trained.short_prompt is None
    assert short.short_prompt is not None
    assert short.prefix_tokens < trained.prefix_tokens
    result = evaluate(make_spec(folder, adapter=short.adapter, size=160))
    # By plain transformers and peft, from what the adapter's folder says.
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    model = AutoModelForCausalLM.from_pretrained(folder / "student")
    model = PeftModel.from_pretrained(model, folder / "artifacts" / short.path)
    form = json.loads((folder / "artifacts" / short.path / "result.json").read_text())["short_prompt"]
    card = (folder / "artifacts" / short.path / "README.md").read_text()
    assert "the text alone" in card and '[{"role": "user", "content": TEXT}]' in card
    lines = (folder / "artifacts/datasets/d1/eval.jsonl").read_text().splitlines()
    for record, line in list(
        zip(map(json.loads, lines), read_predictions(folder, result.predictions), strict=True)
    )[:4]:
        first = record["messages"][len(form["messages"])]["content"]
        own = first[len(form["before"]) : len(first) - len(form["after"])].strip()
        assert 0 < len(own) < len(first) / 2
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": own}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        out = model.generate(**prompt, do_sample=False, max_new_tokens=16)
        answer = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert line["answer"] == answer.strip()
