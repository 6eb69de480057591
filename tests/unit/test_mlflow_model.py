"""The registered champion labels texts by MLflow alone: in a process that cannot import this project's checkout."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flywheel
from flywheel.annotation.mlflow_model import source_in
from flywheel.common.errors import ArtifactError
from tests.unit.promoted_desk import SMALL, WORKLOAD, champion_in, predictions_of, promoted

# Leaves out what finds the checkout: the folder that it begins in, and the line of an editable installation.
ALONE = """
import os, sys
sys.path[:] = [path for path in sys.path if path and not os.path.isdir(os.path.join(path, "flywheel"))]
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with promoted(tmp_path_factory.mktemp("desk"), SMALL) as home:
        yield home


def model_of(folder: Path) -> Path:
    (found,) = (folder / "artifacts/champions").glob("*/*/mlflow/*/MLmodel")
    return found.parent


def alone(folder: Path, script: str, cwd: Path) -> str:
    command = [sys.executable, "-c", ALONE + script, f"sqlite:///{folder}/mlflow.db"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_alias_champion_labels_as_the_evaluation_did_without_the_checkout(
    folder: Path, tmp_path: Path
) -> None:
    lines = predictions_of(folder)
    registry = champion_in(folder).registry
    assert registry is not None
    (tmp_path / "texts.json").write_text(json.dumps([line["text"] for line in lines]))
    script = f"""
import json
model = mlflow.pyfunc.load_model("models:/{registry.model}@champion")
import flywheel
assert "code" in flywheel.__file__.split("/"), flywheel.__file__
texts = json.load(open("texts.json"))
found = model.predict(texts)
frame = model.predict(pandas.DataFrame({{"anything": texts[:3]}}))
assert list(frame["label"]) == list(found["label"][:3])
missing = model.predict(pandas.DataFrame({{"text": [texts[0], None]}}))
assert missing["label"].isna().tolist() == [False, True]
print(json.dumps([list(found.columns), list(found["label"])]))
"""
    columns, labels = json.loads(alone(folder, script, tmp_path).splitlines()[-1])
    assert columns == ["label", "probability", *WORKLOAD.classes]
    assert labels == [line["student"] for line in lines]


def test_its_signature_and_example_are_mlflows_own(folder: Path, tmp_path: Path) -> None:
    script = f"""
from mlflow.models import Model, validate_serving_input
path = {str(model_of(folder))!r}
model = Model.load(path)
print(model.signature.inputs.input_types(), model.signature.outputs.input_names()[:2])
print(len(validate_serving_input(path, model.get_serving_input(path))), model.load_input_example(path)[0])
"""
    signature, answered = alone(folder, script, tmp_path).splitlines()[-2:]
    assert signature == "[string] ['label', 'probability']"
    assert answered == "2 Acme raises its quarterly dividend"


def test_base_weights_are_not_in_it_and_its_card_says_where_they_are(folder: Path) -> None:
    model = model_of(folder)
    files = [path for path in model.rglob("*") if path.is_file()]
    weights = Path("include/flywheel/demo/students/small/model.safetensors").stat().st_size
    assert all(path.stat().st_size != weights for path in files)
    assert sum(path.stat().st_size for path in files if "code" in path.parts) < 2_000_000
    card = (model / "README.md").read_text()
    assert str(Path("include/flywheel/demo/students/small").resolve()) in card
    assert "FLYWHEEL_WEIGHTS" in card
    assert "Earnings" in card


def test_no_person_and_no_secret_is_in_it(folder: Path) -> None:
    about = json.loads((model_of(folder) / "data/model.json").read_text())
    assert set(about) == {
        *("name", "adapter", "student", "workload", "asked_text", "temperature", "base", "base_revision"),
        *("cutoff", "run_id", "sha256"),
    }


def test_the_code_that_comes_along_is_all_that_it_imports(folder: Path) -> None:
    copied = {
        path.relative_to(model_of(folder) / "code/flywheel").parts[0]
        for path in (model_of(folder) / "code").rglob("*.py")
    }
    assert not copied & {"web", "laptop", "orchestration", "runtimes", "stages", "cli", "demo"}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda data: (data / "adapter/adapter_model.safetensors").write_bytes(b"x"),
            "safetensors: damaged; download",
        ),
        (
            lambda data: (data / "adapter/adapter_config.json").unlink(),
            "adapter_config.json: missing; download",
        ),
    ],
)
def test_a_damaged_file_is_named_with_its_mend(folder: Path, tmp_path: Path, damage: Any, said: str) -> None:
    shutil.copytree(model_of(folder) / "data", tmp_path / "data")
    damage(tmp_path / "data")
    with pytest.raises(ArtifactError, match=said):
        source_in(tmp_path / "data")


def test_weights_are_found_by_the_variable_and_others_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    students = Path("include/flywheel/demo/students")
    shutil.copytree(students / "small", tmp_path / "mine")
    monkeypatch.setenv("FLYWHEEL_WEIGHTS", str(tmp_path / "mine"))
    assert source_in(model_of(folder) / "data").student.weights == str(tmp_path / "mine")
    monkeypatch.setenv("FLYWHEEL_WEIGHTS", str((students / "medium").resolve()))
    with pytest.raises(ArtifactError, match="not the base weights"):
        source_in(model_of(folder) / "data")


def test_its_requirements_are_those_of_the_locks() -> None:
    made = runpy.run_path("scripts/model_requirements.py")
    assert made["TARGET"].read_text() == made["requirements"](), "python scripts/model_requirements.py"


def test_it_and_the_champion_in_python_say_the_same(folder: Path) -> None:
    source = source_in(model_of(folder) / "data")
    champion = flywheel.champion(WORKLOAD.id, "desk", root=folder / "artifacts")
    assert (source.name, source.adapter) == (champion.name, champion.adapter)
    assert source.workload == WORKLOAD
    assert source.asked_text
    assert source.temperature is not None
