"""Tool calls and free texts on NeMo: the same prompts, answers and scores as in a local process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import load_config
from flywheel.config.evaluation import EvaluationConfig, WorkloadType
from flywheel.config.icl import IclConfig
from flywheel.config.student import Student
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.demo.tasks import Task, records
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.runtimes.nemo.job import hyperparameters
from flywheel.runtimes.nemo.runtime import prepare
from flywheel.stages.curate import line_of
from flywheel.stages.customize import customize
from flywheel.stages.evaluate import evaluate
from flywheel.workloads.records import Record
from flywheel_stand_ins.nemo.training import MAX_GRAD_NORM as CLIPPED
from tests.unit.nemo.nemo_jobs import Flywheel
from tests.unit.nemo.nemo_server import SMALL, running

WEIGHTS = Path("include/flywheel/demo/students").resolve()


def save_demo(root: ArtifactRoot, name: str, task: Task, train: int, held_out: int) -> None:
    """Write a dataset of a demo task, as curate writes it."""
    made = [
        line_of(record, record.id, parse_arguments=True)
        for record in (Record.from_json(line, (), {}) for line in records(task, train + held_out))
    ]
    with root.build("datasets", name) as folder:
        (folder / "train.jsonl").write_bytes(b"".join(made[:train]))
        (folder / "val.jsonl").write_bytes(b"")
        (folder / "eval.jsonl").write_bytes(b"".join(made[train:]))


@pytest.fixture
def flywheel(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Flywheel]:
    with running(tmp_path / "nemo", {SMALL: str(WEIGHTS / request.param)}) as server:
        material = tmp_path / "material"
        (material / "artifacts" / "datasets" / "d1").mkdir(parents=True)
        opened = Flywheel(server, material, tmp_path / "artifacts")
        yield opened
        assert server.wrong == []


def spec_of(flywheel: Flywheel, dataset: str, kind: WorkloadType, **more: object) -> EvaluateSpec:
    return EvaluateSpec(
        artifact_root=flywheel.root.url,
        student=flywheel.config.students[0],
        dataset=dataset,
        evaluation=EvaluationConfig(workload_type=kind, max_new_tokens=48, bootstrap_samples=100),
        **more,
    )


def locally(spec: EvaluateSpec, weights: str) -> dict[str, float]:
    return evaluate(spec.model_copy(update={"student": at(spec, weights)})).scores


def at(spec: EvaluateSpec, weights: str) -> Student:
    return spec.student.model_copy(update={"weights": str(WEIGHTS / weights), "gpus": 0})


@pytest.mark.parametrize(("size", "steps", "warmup"), [(64, 20, 6), (256, 20, 6), (1000, 64, 19)])
def test_the_rate_rises_over_its_share_of_the_steps_that_are_done(size: int, steps: int, warmup: int) -> None:
    config = load_config("include/tool_calling.yaml")
    job = CustomizeSpec(
        artifact_root="a",
        student=config.students[0],
        dataset="d",
        size=size,
        training=config.training_config,
        lora=config.lora_config,
    )
    told = hyperparameters(job)
    assert told.get("max_steps", -(-size // told["batch_size"]) * told["epochs"]) == steps
    assert told["warmup_steps"] == warmup


def test_the_stand_in_clips_gradients_as_the_configs_do_that_come_with_flywheel() -> None:
    configs = [load_config(f"include/{name}.yaml") for name in ("config", "generic", "tool_calling")]
    assert {config.training_config.max_grad_norm for config in configs} == {CLIPPED}


@pytest.mark.parametrize("flywheel", ["caller"], indirect=True)
def test_calls_are_learned_and_answered_on_nemo_as_in_a_local_process(flywheel: Flywheel) -> None:
    save_demo(flywheel.root, "calls", "calls", train=32, held_out=8)
    base = spec_of(flywheel, "calls", "tool_calling")
    found = flywheel.run(base)
    assert found.workload_type == "tool_calling"
    assert found.scores == pytest.approx(locally(base, "caller"))
    training = TrainingConfig(
        epochs=2, batch_size=16, learning_rate=5e-3, validations=0, warmup_ratio=0.3, max_grad_norm=CLIPPED
    )
    job = CustomizeSpec(
        artifact_root=flywheel.root.url,
        student=base.student,
        dataset="calls",
        size=32,
        training=training,
        lora=LoraConfig(adapter_dim=8, adapter_dropout=0.0),
    )
    adapter = flywheel.run(job).adapter
    customized = flywheel.run(base.model_copy(update={"adapter": adapter, "size": 32}))
    assert customized.scores["function_name_accuracy"] >= found.scores["function_name_accuracy"]
    here = job.model_copy(update={"student": at(base, "caller")})
    trained = customize(here)
    assert trained.adapter != adapter  # nothing was found: both were trained
    assert customized.scores == pytest.approx(
        locally(base.model_copy(update={"adapter": trained.adapter, "size": 32}), "caller")
    )
    answers = ArtifactRoot(flywheel.root.url).fetch("evaluations", customized.key) / "predictions.jsonl"
    texts = [json.loads(line)["answer"] for line in answers.read_text().splitlines()]
    assert any('"name"' in text for text in texts)


@pytest.mark.parametrize("flywheel", ["small"], indirect=True)
def test_free_texts_are_scored_on_nemo_with_and_without_examples(flywheel: Flywheel) -> None:
    save_demo(flywheel.root, "briefs", "briefs", train=24, held_out=6)
    plain = spec_of(flywheel, "briefs", "generic")
    icl = spec_of(flywheel, "briefs", "generic", icl=IclConfig(max_examples=2, reserved_tokens=100))
    assert flywheel.run(plain).scores == pytest.approx(locally(plain, "small"))
    found = flywheel.run(icl)
    assert found.icl_examples == 2
    assert found.scores == pytest.approx(locally(icl, "small"))


@pytest.mark.parametrize("flywheel", ["small"], indirect=True)
def test_what_is_uploaded_for_the_customizer_names_the_functions(flywheel: Flywheel) -> None:
    save_demo(flywheel.root, "calls", "calls", train=8, held_out=2)
    job = CustomizeSpec(
        artifact_root=flywheel.root.url, student=flywheel.config.students[0], dataset="calls", size=8
    )
    prepared = prepare(flywheel.job(job), flywheel.lines.append)
    assert prepared is not None and prepared.dataset is not None
    files = [path.read_bytes() for path in flywheel.server.folder.rglob("*") if path.is_file()]
    (uploaded,) = (data for data in files if data.count(b"\n") == 8)
    first = json.loads(uploaded.splitlines()[0])
    assert set(first) == {"messages", "tools"}
    assert first["tools"][0]["function"]["name"] == "file_results"
