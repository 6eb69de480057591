"""The customize stage: trains, publishes, finds; its adapters load in plain peft."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from tiny_students import save_dataset, save_student
from transformers import AutoModelForCausalLM

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, JobError, NotEnoughRecordsError, StudentError
from flywheel.config import Student
from flywheel.config.student import CustomizerConfig
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.jobs.progress import Progress
from flywheel.jobs.spec import CustomizeSpec
from flywheel.stages import customize as stage
from flywheel.stages.customize import customize
from flywheel.students.adapter import load_adapter
from flywheel.students.decoder import Decoder
from flywheel.students.engine import row_loss
from flywheel.students.loading import _kept, load_student
from flywheel.students.rows import build_row


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("home")
    save_student(path / "student")
    save_dataset(path / "artifacts", "d1", train=60)
    return path


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_DEVICE", "cpu")
    monkeypatch.setenv("FLYWHEEL_THREADS", "1")


def make_spec(folder: Path, **changes: Any) -> CustomizeSpec:
    settings: dict[str, Any] = {
        "artifact_root": str(folder / "artifacts"),
        "student": Student(model_name="tiny-1m", weights=str(folder / "student")),
        "dataset": "d1",
        "size": 40,
        "training": TrainingConfig(epochs=2, batch_size=16, learning_rate=5e-3, validations=2),
        "lora": LoraConfig(adapter_dim=4),
    }
    return CustomizeSpec(**{**settings, **changes})


def test_an_adapter_is_made_once_and_then_found(folder: Path) -> None:
    seen: list[Progress] = []
    spec = make_spec(folder)
    made = customize(spec, seen.append)
    assert not made.found and made.steps == made.steps_run == 6
    assert made.train_records == 40 and made.samples == 80 and made.prefix_tokens > 50
    assert made.val_loss == made.losses[-1].val_loss
    assert made.trainable_parameters < made.parameters
    assert seen[-1].step == 6
    again = customize(spec)
    assert again.found and again.steps_run == 0 and again.steps == 6
    assert again.adapter == made.adapter == spec.key
    assert not (folder / "artifacts" / "scratch" / "adapters" / spec.key).exists()


def test_a_damaged_adapter_is_trained_again_by_the_same_job(folder: Path, tmp_path: Path) -> None:
    save_dataset(tmp_path / "artifacts", "d1", train=60)
    spec = make_spec(folder, artifact_root=str(tmp_path / "artifacts"))
    weights = tmp_path / "artifacts" / customize(spec).path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(bytes(len(whole)))
    again = customize(spec)
    assert (again.found, again.steps_run) == (False, 6)
    assert weights.read_bytes() == whole


@pytest.mark.parametrize("weights", ["student", "./student", "../home/student", "~/home/student"])
def test_an_adapter_loads_in_plain_peft_from_any_folder(
    weights: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    shutil.copytree(folder / "student", home / "student")
    save_dataset(home / "artifacts", "d1", train=40)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLYWHEEL_HOME", str(home))
    monkeypatch.chdir(home)
    named = Student(model_name="tiny-1m", weights=weights)
    training = TrainingConfig(epochs=1, batch_size=40, validations=0)
    spec = make_spec(home).model_copy(update={"student": named, "training": training})
    made = customize(spec)
    there = spec.model_copy(update={"student": Student(model_name="tiny-1m", weights=str(home / "student"))})
    assert made.adapter == there.key  # however the same weights are named
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("FLYWHEEL_HOME")
    path = home / "artifacts" / made.path
    loaded = AutoPeftModelForCausalLM.from_pretrained(path)
    assert loaded.active_adapter == "default"
    base = next(line for line in (path / "README.md").read_text().splitlines() if "base_model:" in line)
    assert Path(base.removeprefix("base_model: ")).is_absolute()


def test_the_adapter_loads_in_plain_peft_with_the_same_loss(folder: Path) -> None:
    result = customize(make_spec(folder))
    path = folder / "artifacts" / result.path
    config = json.loads((path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder / "student")
    assert config["target_modules"] == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]
    assert config["r"] == 4 and config["lora_alpha"] == 8
    card = (path / "README.md").read_text()
    assert "library_name: peft" in card and "`d1`" in card
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "student"), path)
    loaded = load_student(make_spec(folder).student, torch.device("cpu"))
    records = stage.read_records(folder / "artifacts/datasets/d1/train.jsonl", 3)
    samples, _ = loaded.chat.samples([record["messages"] for record in records], 1000)
    decoder = Decoder(load_adapter(loaded.model, path))
    for sample in samples:
        ours = row_loss(decoder, build_row(sample.prompt[:0], [sample]))
        ids = torch.tensor([*sample.prompt.tolist(), *sample.answer.tolist()])
        logits = plain(input_ids=ids[None]).logits[0, len(sample.prompt) - 1 : -1]
        theirs = torch.nn.functional.cross_entropy(logits, ids[len(sample.prompt) :], reduction="sum")
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_the_same_spec_gives_the_same_adapter_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    save_dataset(tmp_path / "artifacts", "d1", train=60)
    here = customize(make_spec(folder))
    there = customize(make_spec(folder, artifact_root=str(tmp_path / "artifacts")))
    assert not there.found
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        one, two = folder / "artifacts" / here.path / name, tmp_path / "artifacts" / there.path / name
        assert one.read_bytes() == two.read_bytes()


def test_a_job_that_was_ended_goes_on_from_its_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(
        folder, seed=5, training=make_spec(folder).training.model_copy(update={"checkpoint_seconds": 1e-9})
    )
    steps = []

    def end(progress: Progress) -> None:
        steps.append(progress.step)
        raise JobError("ended")

    monkeypatch.setattr("flywheel.students.trainer._PROGRESS_SECONDS", 0)
    with pytest.raises(JobError):
        customize(spec, end)
    assert not ArtifactRoot(spec.artifact_root).find("adapters", spec.key)
    result = customize(spec)
    assert result.resumed_from_step == steps[0] == 1
    assert result.steps == 6 and result.steps_run == 5


def test_examples_over_the_limit_are_left_out_and_counted(folder: Path) -> None:
    student = make_spec(folder).student
    limited = student.model_copy(update={"customizer_configs": CustomizerConfig(max_seq_length=140)})
    result = customize(make_spec(folder, student=limited))
    assert 0 < result.dropped < 40 and result.train_records == 40 - result.dropped
    assert result.dropped_reasons == {"longer than 140 tokens": result.dropped}
    with pytest.raises(StudentError, match="no training examples are left"):
        customize(make_spec(folder, student=student.model_copy(update={"context_length": 20})))


def test_a_size_beyond_the_dataset_is_an_error(folder: Path) -> None:
    with pytest.raises(NotEnoughRecordsError, match="has 60 training records, fewer than the 61"):
        customize(make_spec(folder, size=61))


def test_a_missing_dataset_and_a_broken_line_are_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="datasets/none: no such artifact"):
        customize(make_spec(folder, dataset="none"))
    (tmp_path / "train.jsonl").write_text(
        '{"id": 1, "label": "x", "messages": [{"content": ""}]}\n{"id": 2}\n'
    )
    with pytest.raises(ArtifactError, match=r"train.jsonl, line 2: no record"):
        stage.read_records(tmp_path / "train.jsonl")


def test_jobs_that_share_a_process_load_their_student_once_and_make_the_same_adapters(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = AutoModelForCausalLM.from_pretrained

    def counted(*arguments: Any, **options: Any) -> Any:
        loaded.append(1)
        return load(*arguments, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    made = []
    for kept_for in ("", "0"):
        monkeypatch.setenv("FLYWHEEL_KEPT_FOR", kept_for)
        adapters = []
        for size in (20, 30):
            spec = make_spec(folder, size=size, seed=11)
            shutil.rmtree(folder / "artifacts/adapters" / spec.key, ignore_errors=True)
            customize(spec)
            adapters.append(
                (folder / "artifacts/adapters" / spec.key / "adapter_model.safetensors").read_bytes()
            )
        made.append(adapters)
    assert made[0] == made[1]
    assert len(loaded) == 3
    _kept.clear()
