"""The champion as a model of MLflow's flavour `python_function`: a folder that labels texts by itself.

    champions/<workload>/<client>/mlflow/<key>/     an artifact (flywheel.artifacts.root)
        MLmodel, requirements.txt, conda.yaml, python_env.yaml, input_example.json, serving_input_example.json
        README.md           what it is, what it needs, how it is asked
        data/model.json     prompt, classes, temperature, base weights by revision, hashes of the adapter
        data/adapter/       the adapter's files, a copy
        code/flywheel/      the rooms of the package that ask a student

Base weights are not in it: they are the Hub's, or a folder's. The format is MLflow's own and plain
(https://mlflow.org/docs/latest/ml/model/), so that it is written here in milliseconds, where importing
`mlflow.pyfunc` takes seconds of each promotion.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import yaml

from flywheel.artifacts.manifests import Manifest
from flywheel.artifacts.root import MANIFEST, ArtifactRoot, key_of
from flywheel.jobs.result import EvaluateResult
from flywheel.jobs.spec import RESULT
from flywheel.jobs.weights import base_name, hub_name, known_revision, local_folder
from flywheel.promotion.champion import champion_folder

if TYPE_CHECKING:
    from flywheel.report.model import CandidatePart
    from flywheel.runs.plan import Plan

LOADER = "flywheel.annotation.mlflow_model"
ABOUT, ADAPTER = "model.json", "adapter"
# Of what a folder holds; its key changes with it.
_VERSION = 1
# What asks a student, and what that stands on.
_ROOMS = (
    *("artifacts", "common", "config", "curation", "evaluation", "jobs", "promotion", "runs", "serving"),
    *("students", "workloads"),
)
_MODULES = (
    *("__init__", "annotation/__init__", "annotation/mlflow_model", "annotation/model"),
    "annotation/texts",
)
_EXAMPLE = ["Acme raises its quarterly dividend", "Bolt cuts its full year outlook"]
_REQUIREMENTS = Path(__file__).with_name("model_requirements.txt")


def keep_model(root: ArtifactRoot, plan: Plan, row: CandidatePart) -> tuple[str, str] | None:
    """Write a candidate as a model of MLflow; return the kind and key of the artifact, made or found.

    None where it writes free texts or calls: there are no labels then.

    Raises:
        ArtifactError: its adapter is gone or damaged, or the root cannot be written.
    """
    assert row.adapter is not None
    evaluation = _evaluation(root, row)
    classifies = evaluation is None or evaluation.workload_type == "classification"
    if not plan.workload.classes or not classifies:
        return None
    adapter = root.fetch("adapters", row.adapter)
    about = _about(plan, row, adapter, evaluation)
    code = dict(_code())
    kind = f"{champion_folder(plan.workload_id, plan.client_id)}/mlflow"
    key = key_of("model", _VERSION, about, _digest(code), _REQUIREMENTS.read_text())
    if root.find(kind, key):
        return kind, key
    with root.build(kind, key) as folder:
        data = folder / "data"
        shutil.copytree(adapter, data / ADAPTER, ignore=shutil.ignore_patterns(MANIFEST))
        (data / ABOUT).write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))
        for name, source in code.items():
            target = folder / "code" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        (folder / "README.md").write_text(_card(about), encoding="utf-8")
        _describe(folder, about["workload"]["classes"])
    return kind, key


def _about(
    plan: Plan, row: CandidatePart, adapter: Path, evaluation: EvaluateResult | None
) -> dict[str, Any]:
    """Return what `flywheel.annotation.mlflow_model` makes a `Source` of."""
    student = plan.config.student(row.student)
    said: dict[str, Any] = {}
    if (adapter / RESULT).exists():  # another runtime's adapter has none
        said = orjson.loads((adapter / RESULT).read_bytes())
    revision = said.get("base_revision") or said.get("base_sha256") or known_revision(student.weights)
    weights = base_name(student.weights) if local_folder(student.weights) else student.weights
    calibration = evaluation.calibration if evaluation else None
    return {
        "name": row.name,
        "adapter": row.adapter,
        "student": student.model_copy(update={"weights": weights}).model_dump(mode="json"),
        "workload": asdict(plan.workload),
        "asked_text": bool(said.get("short_prompt")),
        "temperature": calibration.temperature if calibration else None,
        "base": hub_name(student.model_name),
        "base_revision": revision,
        "cutoff": plan.cutoff,
        "run_id": plan.run_id,
        "sha256": Manifest.of(adapter).sha256,
    }


def _evaluation(root: ArtifactRoot, row: CandidatePart) -> EvaluateResult | None:
    folder = root.lookup("evaluations", row.evaluation) if row.evaluation else None
    return EvaluateResult.model_validate_json((folder / RESULT).read_bytes()) if folder else None


def _code() -> Iterator[tuple[str, Path]]:
    """Yield the modules that go along, by their path in `code/`."""
    package = Path(__file__).parents[1]
    for name in _MODULES:
        yield f"flywheel/{name}.py", package / f"{name}.py"
    for room in _ROOMS:
        for path in sorted((package / room).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"flywheel/{path.relative_to(package).as_posix()}", path


def _digest(code: dict[str, Path]) -> str:
    total = hashlib.sha256()
    for name, path in code.items():
        total.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _describe(folder: Path, classes: list[str]) -> None:
    """Write what MLflow reads: flavour, environment, signature and example."""
    requirements = _REQUIREMENTS.read_text()
    mlflow = next(line for line in requirements.splitlines() if line.startswith("mlflow=="))
    python = ".".join(map(str, sys.version_info[:3]))
    pins = requirements.splitlines()
    setuptools = next(line for line in pins if line.startswith("setuptools=="))
    outputs = [{"type": "string", "name": "label", "required": False}]
    outputs += [{"type": "double", "name": name, "required": False} for name in ("probability", *classes)]
    flavor = {
        "code": "code",
        "data": "data",
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        "loader_module": LOADER,
        "python_version": python,
        "streamable": False,
    }
    model = {
        "flavors": {"python_function": flavor},
        "mlflow_version": mlflow.partition("==")[2],
        "signature": {
            "inputs": json.dumps([{"type": "string", "required": True}]),
            "outputs": json.dumps(outputs),
            "params": None,
        },
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "json_object",
        },
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
    }
    conda = {
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": pins}],
        "name": "mlflow-env",
    }
    environment = {
        "python": python,
        "build_dependencies": ["pip", setuptools, "wheel"],
        "dependencies": ["-r requirements.txt"],
    }
    for name, content in (("MLmodel", model), ("conda.yaml", conda), ("python_env.yaml", environment)):
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    (folder / "requirements.txt").write_text(requirements)
    (folder / "input_example.json").write_text(json.dumps(_EXAMPLE))
    (folder / "serving_input_example.json").write_text(json.dumps({"inputs": _EXAMPLE}, indent=2))


def _card(about: dict[str, Any]) -> str:
    student, workload = about["student"], about["workload"]
    weights = f"`{student['weights']}`" if student["weights"] else "none: it has no base weights"
    is_folder = bool(student["weights"]) and local_folder(student["weights"]) is not None
    whose = ""
    if student["weights"]:
        where = (
            "that folder has to be there, or FLYWHEEL_WEIGHTS names another one with the same files"
            if is_folder
            else "the Hugging Face Hub gives them (HF_TOKEN where it asks for one), or FLYWHEEL_WEIGHTS "
            "names a folder with the same files"
        )
        whose = f"""
The base weights are not in this folder, which keeps it small: {where}. Revision
`{about["base_revision"] or "not known"}`; others are refused.
"""
    return f"""# {about["name"]}, champion of {workload["id"]}

Sorts texts into {len(workload["classes"])} classes, as its teacher did: {", ".join(workload["classes"])}.

```python
import mlflow
model = mlflow.pyfunc.load_model("models:/NAME@champion")
model.predict({_EXAMPLE!r})     # label, probability, one column a class
```

`mlflow models serve -m models:/NAME@champion` answers `POST /invocations` with `{{"inputs": ["a text"]}}`.
The package that asks the student is in `code/`, the libraries are in `requirements.txt`. A text that is
missing or empty has no label.

| | |
|---|---|
| base weights | {weights} |
| adapter | `{about["adapter"]}`, of run `{about["run_id"]}` |
| asked | {"the text alone" if about["asked_text"] else "the whole prompt around the text"} |
| temperature of its probabilities | {about["temperature"] or "not calibrated"} |
{whose}"""
