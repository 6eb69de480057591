"""A client is forgotten with all that is kept of him; nothing of another is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.cli.main import app
from flywheel.forgetting.base import Whose
from flywheel.forgetting.forget import ForgettingError, find, forget
from flywheel.jobs.spec import CustomizeSpec
from flywheel.runs.run import Run
from tests.unit.finished_run import config_of, finish, plan_of, write_dataset
from tests.unit.two_clients import GONE, STAYS, WORDS, bytes_of, left_of, rows_of, two_clients


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without an Airflow."""
    monkeypatch.delenv("AIRFLOW_HOME", raising=False)
    monkeypatch.setattr("flywheel.forgetting.machine_places._airflow_environment", lambda: None)
    return tmp_path


def test_a_client_is_forgotten_and_nothing_of_another_is_touched(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = two_clients(home, monkeypatch)
    gone_ids = [record.id for record in rows_of(config, GONE)["records"]]
    assert len(left_of(GONE, home)) > 20 and len(gone_ids) == 90
    rows, files = rows_of(config, STAYS), bytes_of(home / "artifacts")
    findings = find(config, Whose(GONE))
    lines = findings.lines()
    assert lines[0].startswith("In production, and goes: ") and "@" in lines[0]
    assert not any("says so" in line or "no class" in line for line in lines)  # ids, no texts
    assert {name for name, items in findings.items.items() if items} == {
        *("champions", "runs", "artifacts", "quarantine", "notes", "store", "mlflow")
    }
    assert bytes_of(home / "artifacts") == files  # listing changes nothing
    forget(config, findings, by="Ada")
    assert not left_of(GONE, home)
    left = bytes_of(home)
    ids = [record_id for record_id in gone_ids if any(record_id.encode() in data for data in left.values())]
    raw = [key for key in map(bytes.fromhex, gone_ids) if any(key in data for data in left.values())]
    assert not ids and not raw
    assert rows_of(config, STAYS) == rows
    assert rows_of(config, GONE) == {"records": [], "answers": {}, "runs": []}
    theirs = {
        name: data
        for name, data in files.items()
        if name in left or b"quuxly" in data.lower() or "quuxly" in name
    }
    quarantine = str(home / "artifacts/quarantine/records-1.jsonl")
    kept = [line for line in files[quarantine].splitlines(keepends=True) if b"quuxly" in line]
    assert left[quarantine] == b"".join(kept) and len(kept) == 2
    assert {n: d for n, d in theirs.items() if n != quarantine} == {
        n: left.get(n) for n in theirs if n != quarantine
    }
    log = left[str(home / "artifacts/forgotten/log.jsonl")]
    assert b'"by":"Ada"' in log and GONE.encode() in log and log.count(b"\n") == 1
    assert not (home / "artifacts/forgotten/pending").exists() or not list(
        (home / "artifacts/forgotten/pending").iterdir()
    )
    assert find(config, Whose(GONE)).is_empty
    # Nothing names the figures of a baseline, but they say which data set they are of.
    kinds = ("baseline.json", "other_split.json", "constant.json")
    figures = [name for name in files if name.endswith(kinds)]
    assert len(figures) >= 4 and len([name for name in figures if name in left]) == len(figures) // 2


def test_the_command_lists_first_and_removes_nothing_without_a_yes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = two_clients(home, monkeypatch, (GONE,))
    monkeypatch.setattr("flywheel.config.everywhere.configs", lambda *_: [config])
    before = bytes_of(home / "artifacts")
    asked = CliRunner().invoke(app, ["forget", "--client", GONE], input="n\n")
    assert asked.exit_code == 1 and "store" in asked.output and "for good" in asked.output
    assert bytes_of(home / "artifacts") == before
    other = CliRunner().invoke(app, ["forget", "--client", "nobody", "--yes"])
    assert other.exit_code == 0 and "There is nothing of client 'nobody'." in other.output
    done = CliRunner().invoke(app, ["forget", "--client", GONE, "--yes"])
    assert done.exit_code == 0, done.output
    assert not left_of(GONE, home)


def test_a_client_whose_run_is_under_way_is_not_forgotten(home: Path) -> None:
    config = config_of(str(home / "artifacts"), f"sqlite:///{home}/mlflow.db", client_id=GONE)
    run = Run.create(plan_of(config, "tonight"))
    with pytest.raises(ForgettingError, match="under way: tonight;"):
        find(config, Whose(GONE))
    assert find(config, Whose(STAYS)).is_empty
    for path in (home / "artifacts" / run.path).rglob("*"):
        os.utime(path, (1, 1))  # nothing has changed in it since 1970
    findings = find(config, Whose(GONE))
    os.utime(home / "artifacts" / run.path / "plan.json")
    with pytest.raises(ForgettingError):  # it has begun again since it was looked at
        forget(config, findings)
    assert run.is_planned


def test_checkpoints_of_a_clients_stopped_trainings_go(home: Path) -> None:
    weights = {"weights": "include/flywheel/demo/students/small"}
    config = config_of(str(home / "artifacts"), f"sqlite:///{home}/mlflow.db", client_id=GONE)
    keys = {}
    for client in (GONE, STAYS):
        run = Run.create(plan_of(config, f"of {WORDS[client]}", client_id=client))
        student = config.students[0].model_copy(update=weights)
        spec = CustomizeSpec(artifact_root=run.root.url, student=student, dataset=key_of(client), size=5)
        run.root.write_json(f"{run.path}/jobs/1b@5/customize.spec.json", spec.model_dump(mode="json"))
        run.root.write_json(f"{run.path}/cancelled.json", {})
        with run.root.scratch("adapters", spec.key) as scratch:
            (scratch / "state.pt").write_text("weights")
        keys[client] = spec.key
    forget(config, find(config, Whose(GONE)), by="Ada")
    left = [name for name in run.root.list("scratch/adapters") if not name.endswith(".lock")]
    assert left == [keys[STAYS]] and keys[GONE] not in str(bytes_of(home / "artifacts" / "scratch").keys())


def test_behind_a_url_it_is_the_same(home: Path, memory_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    config = config_of(memory_root, f"sqlite:///{home}/mlflow.db", client_id="desk")
    root = ArtifactRoot(memory_root)
    for client in (GONE, STAYS):
        run = finish(plan_of(config, f"of {WORDS[client]}", client_id=client), data_seed=len(client))
        run.root.write_json(f"{run.path}/stages/promote.json", {"result": {}})
        root.fetch("datasets", write_dataset(root, seed=len(client)))  # a copy of it on this machine
    before = {name: file.getvalue() for name, file in root.fs.store.items()}
    forget(config, find(config, Whose(GONE)), by="Ada")
    left = {name: file.getvalue() for name, file in root.fs.store.items()}
    gone = {name.split("/")[2] for name in before.keys() - left.keys()}
    assert gone == {"runs", "datasets", "adapters"} and left.items() - before.items()
    assert not [name for name, data in left.items() if b"zorblatt" in data and "forgotten" not in name]
    assert [path.name for path in (home / "cache").rglob("train.jsonl")] == [
        "train.jsonl"
    ]  # the other's copy
    assert {name: left.get(name) for name in before if "quuxly" in name} == {
        name: data for name, data in before.items() if "quuxly" in name
    }
