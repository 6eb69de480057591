"""The encoder student: trained with LoRA and a head, resumed, examined, in plain peft with the same answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForFeatureExtraction
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from tiny_encoders import save_encoder
from tiny_students import CLASSES, save_dataset, save_student

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import JobError, StudentError
from flywheel.config import Student
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.jobs.families import family_of
from flywheel.jobs.progress import Progress
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.serving.student import Question, Source
from flywheel.stages.customize import customize
from flywheel.stages.evaluate import evaluate
from flywheel.students.classifiers import text_of
from flywheel.students.encoder import load
from flywheel.students.encoder.model import batches
from flywheel.workloads.short_prompts import ShortPrompt
from flywheel.workloads.workload import Workload


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_DEVICE", "cpu")
    monkeypatch.setenv("FLYWHEEL_THREADS", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("home")
    save_encoder(path / "encoder")
    save_dataset(path / "artifacts", "d1", train=160, calibration=90, held_out=60)
    return path


def student(folder: Path, name: str = "encoder") -> Student:
    return Student(model_name="tiny-encoder", family="encoder", weights=str(folder / name), gpus=0)


def made_of(folder: Path, **changes: Any) -> CustomizeSpec:
    settings: dict[str, Any] = {
        "artifact_root": str(folder / "artifacts"),
        "student": student(folder),
        "dataset": "d1",
        "size": 160,
        "training": TrainingConfig(epochs=12, batch_size=16, learning_rate=1e-2, validations=2),
        "lora": LoraConfig(adapter_dim=4, adapter_dropout=0.1),
    }
    return CustomizeSpec(**{**settings, **changes})


def examined(folder: Path, adapter: str | None, **changes: Any) -> EvaluateSpec:
    settings: dict[str, Any] = {
        "student": student(folder),
        "dataset": "d1",
        "classes": CLASSES,
        "adapter": adapter,
    }
    return EvaluateSpec(artifact_root=str(folder / "artifacts"), **{**settings, **changes})


def test_it_learns_classes_and_gives_each_a_calibrated_probability(folder: Path) -> None:
    seen: list[Progress] = []
    made = customize(made_of(folder), seen.append)
    assert (made.family, made.steps, made.samples) == ("encoder", 120, 1920)
    assert made.parameters is not None and made.trainable_parameters is not None
    assert made.trainable_parameters < made.parameters
    assert made.val_loss is not None and made.val_loss <= made.losses[-1].val_loss and seen[-1].step == 120
    result = evaluate(examined(folder, made.adapter))
    assert result.scores["f1_weighted"] > 0.8
    assert result.calibration is not None and result.calibration.records == 30
    assert result.parameters == made.parameters
    path = folder / "artifacts" / result.predictions
    for line in map(json.loads, path.read_text().splitlines()):
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=0.002)
        assert max(line["probabilities"], key=line["probabilities"].get) == line["student"]


def test_a_training_that_was_ended_goes_on_from_its_checkpoint_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = customize(made_of(folder))
    shutil.copytree(folder / "artifacts/datasets", tmp_path / "artifacts/datasets")
    training = made_of(folder).training.model_copy(update={"checkpoint_seconds": 1e-9})
    spec = made_of(folder, artifact_root=str(tmp_path / "artifacts"), training=training)
    monkeypatch.setattr("flywheel.students.trainer._PROGRESS_SECONDS", 0)

    def end(progress: Progress) -> None:
        if progress.step == 90:
            raise JobError("ended")

    with pytest.raises(JobError):
        customize(spec, end)
    assert not ArtifactRoot(spec.artifact_root).find("adapters", spec.key)
    made = customize(spec)
    assert (made.resumed_from_step, made.steps, made.steps_run) == (90, 120, 30)
    assert made.adapter == whole.adapter
    for name in ("adapter_model.safetensors", "adapter_config.json", "head.safetensors", "encoder.json"):
        one, two = folder / "artifacts" / whole.path / name, tmp_path / "artifacts" / made.path / name
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("kind", ["bert", "classifier", "roberta", "deberta", "modernbert"])
def test_encoders_of_all_kinds_answer_in_plain_peft_as_here(kind: str, folder: Path, tmp_path: Path) -> None:
    save_encoder(tmp_path / kind, kind)
    training = TrainingConfig(epochs=1, batch_size=32, learning_rate=2e-2, validations=0)
    made = customize(made_of(folder, student=student(tmp_path, kind), training=training))
    path = folder / "artifacts" / made.path
    ours = load(student(tmp_path, kind), path)
    texts = ["profit dividends bank", "weather", "strong guidance for the whole year a b c d"]
    plain = AutoPeftModelForFeatureExtraction.from_pretrained(path).eval()
    head = load_file(path / "head.safetensors")
    tokens = ours.tokenizer(texts, padding=True, return_tensors="pt")
    mask = tokens["attention_mask"]
    with torch.inference_mode():
        states = plain(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
    means = torch.stack([row[: int(kept.sum())].mean(0) for row, kept in zip(states, mask, strict=True)])
    expected = (means @ head["weight"].T + head["bias"]).double().log_softmax(-1).numpy()
    assert ours.log_probabilities(texts) == pytest.approx(expected, abs=1e-4)
    config = json.loads((path / "adapter_config.json").read_text())
    assert config["target_modules"] and not any("pooler" in name for name in config["target_modules"])


def test_the_head_begins_as_the_logistic_regression_on_the_features_as_they_are(folder: Path) -> None:
    still = TrainingConfig(epochs=1, batch_size=160, learning_rate=1e-12, validations=0)
    ours = load(student(folder), folder / "artifacts" / customize(made_of(folder, training=still)).path)
    rows = (folder / "artifacts/datasets/d1/train.jsonl").read_text().splitlines()
    records = [json.loads(row) for row in rows]
    texts = [text_of(ShortPrompt.of(records).shorten(record["messages"][:-1])) for record in records]
    with torch.inference_mode():
        features = np.concatenate([ours.features([row]).numpy() for row in ours.encode(texts)])
    scaled = (features - features.mean(0)) / features.std()
    plain = LogisticRegression(max_iter=300).fit(scaled, [record["label"] for record in records])
    assert ours.log_probabilities(texts) == pytest.approx(plain.predict_log_proba(scaled), abs=2e-2)


def test_a_training_that_makes_it_worse_leaves_the_head_as_it_began(folder: Path) -> None:
    wild = TrainingConfig(
        epochs=1, batch_size=16, learning_rate=3.0, warmup_ratio=0, max_grad_norm=1e6, validations=2
    )
    made = customize(made_of(folder, training=wild))
    assert made.val_loss is not None and all(
        point.val_loss is None or point.val_loss > made.val_loss for point in made.losses
    )


def test_a_text_is_cut_where_the_encoder_has_no_more_places(folder: Path) -> None:
    ours = load(student(folder), folder / "artifacts" / customize(made_of(folder)).path)
    assert ours.longest == 40 and ours.tokens("profit " * 100) == 40
    assert np.isfinite(ours.log_probabilities(["profit " * 100, ""])).all()


def test_batches_hold_so_many_tokens_with_their_padding() -> None:
    rows = [[1] * length for length in (3, 9, 5, 2, 30)]
    assert batches(rows, 18) == [[4], [1, 2], [0, 3]]
    assert sorted(place for batch in batches(rows, 10) for place in batch) == [0, 1, 2, 3, 4]


def test_weights_of_no_encoder_and_a_damaged_head_are_refused(folder: Path, tmp_path: Path) -> None:
    save_student(tmp_path / "llama")
    with pytest.raises(StudentError, match="LlamaForCausalLM is no encoder"):
        customize(made_of(folder, student=student(tmp_path, "llama")))
    damaged = shutil.copytree(folder / "artifacts" / customize(made_of(folder)).path, tmp_path / "damaged")
    (damaged / "head.safetensors").write_bytes(b"x")
    with pytest.raises(StudentError, match="does not fit"):
        load(student(folder), damaged)


def test_settings_that_nobody_set_are_found_and_make_another_adapter(folder: Path) -> None:
    training = TrainingConfig(batch_size=64, validations=0, epochs=1)
    made = customize(made_of(folder, training=training))
    assert made.learning_rate is not None and made.learning_rate > 1e-3  # by its width of 32
    assert made_of(folder, training=training, student_prompt="text").key == made.adapter
    assert made_of(folder, training=training, seed=1).key != made.adapter


def test_the_endpoint_asks_it_as_it_was_examined(folder: Path) -> None:
    made = customize(made_of(folder))
    result = evaluate(examined(folder, made.adapter))
    workload = Workload("tiny", CLASSES, {}, "", "Headline: ", "")
    source = Source(
        name="tiny @ 160",
        student=student(folder),
        adapter=made.adapter,
        folder=folder / "artifacts" / made.path,
        workload=workload,
        asked_text=True,
        temperature=result.calibration.temperature if result.calibration else None,
        classifies=True,
    )
    served = family_of(source.student).serve(source)
    lines = (folder / "artifacts" / result.predictions).read_text().splitlines()[:10]
    asked = [json.loads(line) for line in lines]
    answers = served.answer([Question([{"role": "user", "content": line["text"]}]) for line in asked])
    for line, answer in zip(asked, answers, strict=True):
        assert answer.label == line["student"]
        assert answer.probabilities[answer.label] == pytest.approx(
            line["probabilities"][answer.label], abs=1e-3
        )
