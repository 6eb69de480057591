"""`flywheel doctor` looks at what a run needs as the run will: rows, files of weights, Airflow's connections."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flywheel.cli.doctor import _sources
from flywheel.config import Config
from flywheel.config.loading import validate_config
from flywheel.runtimes import open_runtime
from flywheel.runtimes.checks import Finding
from flywheel.students.whole import missing_in

DEMO = Path("include/flywheel/demo/students").resolve()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workloads = Path("include/workloads").resolve()
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    (tmp_path / "include").mkdir()
    (tmp_path / "include/workloads").symlink_to(workloads)


def config_of(**sections: Any) -> Config:
    return validate_config({"nims": [{"model_name": "test/1b"}], **sections}, "test")


def sources_of(tmp_path: Path, text: str, **settings: Any) -> tuple[str, str]:
    (tmp_path / "h.csv").write_text(text)
    (found,) = _sources(config_of(source=[{"path": str(tmp_path / "h.csv"), **settings}]))
    return found.state, found.detail


# -- sources -------------------------------------------------------------------------------------------


def test_the_first_rows_of_a_source_are_read(tmp_path: Path) -> None:
    state, detail = sources_of(tmp_path, "headline,date\n" + "Acme beats,2024-05-31\n" * 3)
    assert state == "ok"
    assert detail.endswith(
        "3 texts from 2024-05-31 00:00 to 2024-05-31 00:00; 1 file(s), their first 3 rows read"
    )


@pytest.mark.parametrize(
    ("text", "state", "said"),
    [
        ("title,date\nAcme,2024-05-31\n", "error", "no column 'headline'"),
        ("headline,date\n" + "Acme,03/04/2024\n" * 5, "error", "(key source.0.time_format)"),
        ("headline,date\nAcme,2024-05-31\n,2024-05-31\n", "warning", "1 of them cannot be used: "),
        ("", "error", "is empty"),
    ],
)
def test_what_is_wrong_in_a_source_is_told_by_file_and_key(
    tmp_path: Path, text: str, state: str, said: str
) -> None:
    found, detail = sources_of(tmp_path, text)
    assert (found, said in detail, "h.csv" in detail) == (state, True, True), detail


def test_a_source_without_a_file_is_a_warning(tmp_path: Path) -> None:
    (found,) = _sources(config_of(source=[{"path": str(tmp_path / "*.csv")}]))
    assert (found.state, "no file matches" in found.detail) == ("warning", True)


# -- students ------------------------------------------------------------------------------------------


def safetensors(size: int) -> bytes:
    header = json.dumps(
        {"__metadata__": {}, "w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    )
    return len(header).to_bytes(8, "little") + header.encode() + bytes(size)


def model(folder: Path, **files: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    whole = {"config.json": b"{}", "model.safetensors": safetensors(100), "tokenizer.json": b"{}"}
    for name, data in {**whole, **{key.replace("__", "."): value for key, value in files.items()}}.items():
        if data:
            (folder / name).write_bytes(data)
    return folder


INDEX = json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}).encode()


def test_a_whole_model_lacks_nothing(tmp_path: Path) -> None:
    assert missing_in(model(tmp_path / "m")) == ""
    for student in DEMO.iterdir():
        if student.is_dir():
            assert missing_in(student) == ""


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({"config__json": b""}, "no config.json"),
        ({"model__safetensors": b""}, "no weights"),
        ({"tokenizer__json": b""}, "no tokenizer"),
        ({"model__safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, "a pointer of git-lfs"),
        ({"model__safetensors": safetensors(100)[:-1]}, "is cut off: "),
        ({"model__safetensors": b"\x00" * 20}, "no file of safetensors"),
        ({"model__safetensors": b"\x02" + bytes(7) + b"[]"}, "is no file of safetensors"),
        ({"model__safetensors__index__json": INDEX}, "1 of 2 files with weights are not there: model-2"),
        ({"model__safetensors__index__json": b"[]"}, "model.safetensors.index.json is damaged"),
    ],
)
def test_what_a_folder_lacks_to_be_weights_is_named(
    tmp_path: Path, files: dict[str, bytes], missing: str
) -> None:
    assert missing in missing_in(model(tmp_path / "m", **files))


def student_of(weights: str, **runtime: Any) -> Finding:
    nims = [{"model_name": "test/1b", "weights": weights}]
    kubernetes = {"kubernetes": {"volume_claim": "shared"}} if runtime else {}
    (found,) = [
        finding
        for finding in open_runtime(config_of(nims=nims, runtime={**runtime, **kubernetes})).check()
        if finding.what == "student 1b"
    ]
    return found


def test_a_folder_without_weights_is_an_error_where_jobs_run_here_and_a_warning_where_pods_do(
    tmp_path: Path,
) -> None:
    folder = model(tmp_path / "m", model__safetensors=b"")
    found = student_of(str(folder))
    assert (found.state, found.detail) == (
        "error", f"{folder}: no weights: expected *.safetensors beside config.json",
    )  # fmt: skip
    assert student_of(str(folder), type="kubernetes").state == "warning"
    assert student_of(str(tmp_path / "gone")).state == "error"
    assert student_of(str(model(tmp_path / "whole"))).state == "ok"


def test_a_model_of_the_hub_is_looked_for_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert student_of("acme/tiny").state == "error"
    repository = tmp_path / "hub/models--acme--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("c0ffee")
    (repository / "snapshots").mkdir()
    snapshot = model(repository / "snapshots/c0ffee", model__safetensors=b"")
    assert "no weights" in student_of("acme/tiny").detail
    shutil.rmtree(snapshot)
    model(snapshot)
    assert student_of("acme/tiny").state == "ok"


# -- connections ---------------------------------------------------------------------------------------

EXAMINE = """
from airflow import settings
from airflow.models import Connection
from airflow.models.team import Team
Team.metadata.create_all(settings.engine, tables=[Team.__table__, Connection.__table__])
session = settings.Session()
session.add(Connection("flywheel_teacher", conn_type="http", host="http://127.0.0.1:9/v1", password="k"))
session.commit()
from flywheel.cli.doctor import findings
for finding in findings():
    if finding.what.startswith("teacher"):
        print("FOUND", finding.state, finding.detail)
        break
"""


def test_a_connection_of_airflows_database_is_found_as_a_task_finds_it(tmp_path: Path) -> None:
    (tmp_path / "include/config.yaml").write_text("nims: [{model_name: test/1b}]\n")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "FLYWHEEL_TEACHER"))},
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
    }
    done = subprocess.run(
        [sys.executable, "-c", EXAMINE], env=environment, capture_output=True, text=True, check=False
    )
    assert "FOUND warning http://127.0.0.1:9/v1/models: ConnectError" in done.stdout, done.stderr[-2000:]
