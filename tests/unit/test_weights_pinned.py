"""Weights of the Hub are those of the commit that the plan names; code that comes with weights never runs."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_students import save_dataset, save_student

from flywheel.common.errors import StudentError
from flywheel.config import Config, Student
from flywheel.config.loading import validate_config
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.jobs.spec import CustomizeSpec
from flywheel.jobs.weights import files_hash, hub_name, known_revision, pinned, weights_hash
from flywheel.runs.plan import make_plan, with_pinned_weights
from flywheel.stages.customize import customize
from flywheel.students.loading import load_student

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a cache of the Hub with two commits of acme/tiny, of which `main` is the older one."""
    cache = tmp_path / "hub"
    model = cache / "models--acme--tiny"
    for seed, commit in enumerate((OLD, NEW)):
        save_student(model / "snapshots" / commit, **({"seed": 1} if seed else {}))
    (model / "refs").mkdir()
    move(cache, OLD)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


def move(cache: Path, commit: str) -> None:
    """Have the name `main` stand for another commit, as its owner may at any time."""
    (cache / "models--acme--tiny/refs/main").write_text(commit)


def config_of(weights: str, root: Path, **changes: Any) -> Config:
    nims = [{"model_name": "acme/tiny", "name": "tiny", "weights": weights}]
    return validate_config({"nims": nims, "artifacts": {"root": str(root)}, **changes}, "test")


def test_a_plan_names_the_commit_that_the_hub_has_when_it_is_made(hub: Path, tmp_path: Path) -> None:
    config = config_of("acme/tiny", tmp_path)
    made = with_pinned_weights(make_plan(config, run_id="r", cutoff=datetime.now(UTC)))
    (student,) = made.config.nims
    assert student.weights == f"acme/tiny@{OLD}"
    key = weights_hash("acme/tiny")
    move(hub, NEW)
    # The name means something else by now; the plan does not.
    assert weights_hash("acme/tiny") == f"acme/tiny@{NEW}" != key
    assert weights_hash(student.weights) == known_revision(student.weights) == key
    assert with_pinned_weights(made) == made
    assert {"acme/tiny", "tiny"} <= made.config.student_names


def test_the_commit_that_a_plan_names_is_the_one_that_is_loaded(hub: Path) -> None:
    cpu = torch.device("cpu")
    old = load_student(Student(model_name="tiny", weights=f"acme/tiny@{OLD}"), cpu)
    move(hub, NEW)
    again = load_student(Student(model_name="tiny", weights=f"acme/tiny@{OLD}"), cpu)
    new = load_student(Student(model_name="tiny", weights="acme/tiny"), cpu)
    name = "model.embed_tokens.weight"
    assert torch.equal(old.model.state_dict()[name], again.model.state_dict()[name])
    assert not torch.equal(old.model.state_dict()[name], new.model.state_dict()[name])
    assert (old.revision, new.revision, old.base_name) == (OLD, NEW, "acme/tiny")


def test_an_adapter_says_which_weights_it_was_trained_on(hub: Path, tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    save_dataset(root, "d1", train=20)
    spec = CustomizeSpec(
        artifact_root=str(root),
        student=Student(model_name="tiny", weights=f"acme/tiny@{OLD}"),
        dataset="d1",
        size=20,
        training=TrainingConfig(epochs=1, batch_size=16, learning_rate=1e-3, validations=0),
        lora=LoraConfig(adapter_dim=4),
    )
    result = customize(spec)
    assert result.base_revision == OLD
    assert result.base_sha256 == files_hash(f"acme/tiny@{OLD}") != files_hash(f"acme/tiny@{NEW}")
    folder = root / result.path
    assert json.loads((folder / "adapter_config.json").read_text())["revision"] == OLD
    card = (folder / "README.md").read_text()
    assert OLD in card and result.base_sha256 in card
    # Without a revision in its spec the same weights are the same adapter.
    move(hub, OLD)
    assert (
        spec.model_copy(update={"student": Student(model_name="tiny", weights="acme/tiny")}).key == spec.key
    )


def test_a_folder_needs_no_commit_and_its_files_are_hashed(tmp_path: Path) -> None:
    folder = save_student(tmp_path / "at@home")
    assert pinned(str(folder)) == str(folder)
    assert files_hash(str(folder)) == weights_hash(str(folder))


def test_weights_that_cannot_be_looked_up_leave_the_plan_as_it_is(
    hub: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_plan(config_of("acme/none", tmp_path), run_id="r", cutoff=datetime.now(UTC))
    assert with_pinned_weights(made) == made
    assert "tiny: its weights are not pinned: acme/none" in caplog.text


def test_names_of_the_catalogue_keep_their_meaning_with_a_commit() -> None:
    assert hub_name(f"meta/llama-3.2-1b-instruct@{OLD}") == "meta-llama/Llama-3.2-1B-Instruct"
    assert weights_hash(f"meta/llama-3.2-1b-instruct@{OLD}") == f"meta-llama/Llama-3.2-1B-Instruct@{OLD}"


CODE = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Theirs(LlamaConfig):
    model_type = "theirs"
class TheirModel(LlamaForCausalLM):
    config_class = Theirs
class TheirTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.mark.parametrize("kind", ["config", "model", "tokenizer", "known"])
def test_code_that_comes_with_weights_never_runs(kind: str, tmp_path: Path) -> None:
    folder = save_student(tmp_path / "student")
    mark = tmp_path / "ran"
    (folder / "theirs.py").write_text(CODE.format(mark=str(mark)))
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    if kind in ("config", "model"):
        config["auto_map"] = {"AutoConfig": "theirs.Theirs", "AutoModelForCausalLM": "theirs.TheirModel"}
        config["model_type"] = "theirs" if kind == "config" else config["model_type"]
    if kind == "tokenizer":
        tokenizer |= {"auto_map": {"AutoTokenizer": ["theirs.TheirTokenizer", "theirs.TheirTokenizer"]}}
        tokenizer["tokenizer_class"] = "TheirTokenizer"
    if kind == "known":
        config["trust_remote_code"] = tokenizer["trust_remote_code"] = True
        config["auto_map"] = {"AutoModelForCausalLM": "theirs.TheirModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    student = Student(model_name="tiny", weights=str(folder))
    if kind in ("config", "tokenizer"):  # of a kind that only their code knows
        with pytest.raises(StudentError, match="code of its own, which is never run"):
            load_student(student, torch.device("cpu"))
    else:
        loaded = load_student(student, torch.device("cpu"))
        assert type(loaded.model).__module__.startswith("transformers.")
    assert not mark.exists()
    shutil.rmtree(folder)
