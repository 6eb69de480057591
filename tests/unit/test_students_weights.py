"""Where weights are found, and the hash that names them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tiny_students import save_student

import flywheel
from flywheel.common.errors import StudentError
from flywheel.config import Student
from flywheel.jobs import weights
from flywheel.jobs.weights import hub_name, weights_hash
from flywheel.students.loading import load_student, make_ready, prepare_process


def make_folder(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("words")
    return folder


def test_the_hash_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    one, two = make_folder(tmp_path / "one"), make_folder(tmp_path / "two")
    assert weights_hash(str(one)) == weights_hash(str(two))
    (two / "README.md").write_text("other words")
    assert weights_hash(str(one)) == weights_hash(str(two))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "chat_template.jinja"])
def test_the_hash_changes_with_every_file_that_matters(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "one")
    before = weights_hash(str(folder))
    (folder / name).write_bytes(b"changed")
    assert weights_hash(str(folder)) != before


def test_large_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = make_folder(tmp_path / "one")
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(65 << 20)
    first = weights_hash(str(folder))
    weights._file_hash.cache_clear()
    monkeypatch.setattr(
        weights, "file_digest", lambda path: pytest.fail(f"read {path}") if "model" in path else "x"
    )
    weights._file_hash(str((folder / "model.safetensors").resolve()), 65 << 20, _changed(folder))
    monkeypatch.undo()
    weights._file_hash.cache_clear()
    assert weights_hash(str(folder)) == first


def _changed(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_mtime_ns


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StudentError, match="holds no weights"):
        weights_hash(str(tmp_path))


def test_names_of_the_nim_catalogue_are_known_on_the_hub() -> None:
    assert hub_name("meta/llama-3.2-1b-instruct") == "meta-llama/Llama-3.2-1B-Instruct"
    assert hub_name("owner/model") == "owner/model"


def test_weights_that_are_nowhere_are_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    student = Student(model_name="owner/no-such-model")
    for act in (lambda: weights_hash(student.weights), lambda: load_student(student, torch.device("cpu"))):
        with pytest.raises(StudentError, match=r"owner/no-such-model: .*local folder.*HF_TOKEN.*HF_HOME"):
            act()


def test_a_cached_model_of_the_hub_is_named_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "a" * 40
    snapshot = tmp_path / "models--owner--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: str(snapshot / "config.json"))
    assert weights_hash("owner/model") == f"owner/model@{commit}"


def test_damaged_weights_are_an_error(tmp_path: Path) -> None:
    folder = save_student(tmp_path / "student")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(StudentError, match=str(folder)):
        load_student(Student(model_name="tiny", weights=str(folder)), torch.device("cpu"))


def test_a_student_is_loaded_in_fp32_and_frozen(tmp_path: Path) -> None:
    folder = save_student(tmp_path / "student")
    loaded = load_student(Student(model_name="tiny", weights=str(folder)), torch.device("cpu"))
    assert loaded.model.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.chat.stops == {4}
    assert loaded.base_name == str(folder)


def test_threads_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_THREADS", "1")
    monkeypatch.setenv("FLYWHEEL_DEVICE", "cpu")
    assert prepare_process() == torch.device("cpu")
    assert torch.get_num_threads() == 1
    for wrong in ("0", "two"):
        monkeypatch.setenv("FLYWHEEL_THREADS", wrong)
        with pytest.raises(StudentError, match="FLYWHEEL_THREADS"):
            prepare_process()
    assert os.environ["FLYWHEEL_THREADS"] == "two"


def test_what_was_made_ready_is_not_made_again_by_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import conversion_mapping

    make_ready()

    def never() -> None:
        raise AssertionError("the names of weights were compiled anew")

    monkeypatch.setattr(conversion_mapping, "_build_checkpoint_conversion_mapping", never)
    weights = str(Path(flywheel.__file__).parent / "demo/students/small")
    student = Student(model_name="flywheel/demo-small", weights=weights, context_length=2048)
    assert load_student(student, torch.device("cpu")).model is not None
