"""Hostile inputs (tests/hostile.py) at every door that needs no server: an error in words, and nothing good is lost."""

from __future__ import annotations

import io
import json
import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ConfigError, FlywheelError, SourceError, WorkloadError
from flywheel.config.loading import load_config
from flywheel.config.source import SourceConfig
from flywheel.config.store import StoreConfig
from flywheel.config.teacher import TeacherConfig
from flywheel.runs.names import folder_name
from flywheel.runs.run import Run
from flywheel.sources import read_headlines, read_log_records
from flywheel.sources.preflight import look_at
from flywheel.sources.quarantine import Quarantine
from flywheel.stores import open_store
from flywheel.teacher.request import Requests
from flywheel.web.record_stream import AnswerFile, take
from flywheel.workloads.workload import Workload
from tests import hostile

NEWS = Workload.load("include/workloads/news_classifier.yaml")


@pytest.fixture(autouse=True)
def _nothing_gets_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))


def headlines_of(path: Path, tmp_path: Path) -> tuple[list[str], Quarantine]:
    with Quarantine(tmp_path / "q.jsonl") as aside:
        found = [headline.text for headline in read_headlines(SourceConfig(path=str(path)), aside)]
    for line in (tmp_path / "q.jsonl").read_bytes().splitlines():
        json.loads(line)
    return found, aside


@pytest.mark.parametrize(
    ("name", "data"), hostile.csv_rows(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_hostile_row_of_csv_costs_no_other_row(name: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    found, aside = headlines_of(path, tmp_path)
    assert [text for text in found if text.startswith(hostile.GOOD)] == [
        f"{hostile.GOOD} one",
        f"{hostile.GOOD} two",
    ]
    assert len(found) + aside.count >= 3
    requests = Requests.of(NEWS, TeacherConfig())
    for text in found:
        body = json.loads(requests.body(text))
        assert body["messages"][-1]["content"].startswith(NEWS.before) and requests.key(text)


@pytest.mark.parametrize(
    ("name", "data"), hostile.json_rows(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_hostile_line_of_json_costs_no_other_line(name: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    found, aside = headlines_of(path, tmp_path)
    assert [text for text in found if text.startswith(hostile.GOOD)] == [
        f"{hostile.GOOD} one",
        f"{hostile.GOOD} two",
    ]
    assert len(found) + aside.count == 3


@pytest.mark.parametrize(
    ("name", "file", "data"),
    hostile.source_files(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_file_is_read_or_is_an_error_that_names_it(
    name: str, file: str, data: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / file).write_bytes(data)
    before = sorted(os.listdir(tmp_path))
    for act in (
        lambda source: look_at(source, "source.0"),
        lambda source: headlines_of(folder / file, tmp_path),
    ):
        try:
            act(SourceConfig(path=str(folder / file)))
        except SourceError as error:
            assert str(folder / file) in str(error)
            assert str(error).isprintable()
    assert sorted({*os.listdir(tmp_path)} - {"q.jsonl"}) == before
    assert not Path("/tmp/owned.csv").exists()


def test_hostile_records_cost_no_other_record_and_each_is_answered(tmp_path: Path) -> None:
    lines, good = [], 0
    for _, line in hostile.record_lines():
        good += 1
        lines += [line, json.dumps(hostile.record(timestamp=1760845128 + good)).encode()]
    body: Any = io.BytesIO(b"\n".join(lines) + b"\n")
    store = StoreConfig(path=str(tmp_path / "records.sqlite"))
    told = AnswerFile()
    taken = take(
        SimpleNamespace(readline=body.readline, broken=False, give_up=lambda: None),
        told,
        store=store,
        root=ArtifactRoot(str(tmp_path / "artifacts")),
        workload=NEWS,
    )
    answers = [json.loads(line) for line in b"".join(told.chunks()).splitlines()]
    assert taken.stopped == "" and taken.lines == len(lines) == len(answers)
    assert taken.accepted + taken.quarantined == len(lines)
    status = {answer["line"]: answer["status"] for answer in answers}
    assert all(status[line] == "accepted" for line in range(2, len(lines) + 1, 2))
    with open_store(store) as opened:
        there = list(opened.read("news_classifier", "desk", 1 << 40))
        assert sum(record.timestamp > 1760845128 for record in there) == good
    logged = tmp_path / "log.jsonl"
    logged.write_bytes(b"\n".join(lines) + b"\n")
    with Quarantine(tmp_path / "q.jsonl") as aside:
        source = SourceConfig(path=str(logged), kind="log_records")
        read = list(read_log_records(source, aside, NEWS))
    assert len(read) + aside.count <= len(lines)
    assert sum(record.timestamp > 1760845128 for record in read) == good
    # What is kept can be made into prompts and requests again.
    for record in read:
        json.dumps(record.to_json())


@pytest.mark.parametrize(
    ("name", "data"), hostile.configs(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_hostile_config_is_read_or_refused_in_words(name: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(data)
    try:
        config = load_config(path)
    except ConfigError as error:
        assert str(path) in str(error) and len(str(error)) < 200_000
    else:
        config.model_dump_json()
    assert not Path("/tmp/owned").exists()


@pytest.mark.parametrize(
    ("name", "data"), hostile.workloads(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_hostile_workload_is_read_or_refused_in_words(name: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "workload.yaml"
    path.write_bytes(data)
    try:
        workload = Workload.load(path)
    except WorkloadError as error:
        assert str(path) in str(error) and len(str(error)) < 200_000
    else:
        assert workload.sha256 and workload.messages("x")
        assert not workload.classes or workload.label_of(workload.answer_for(workload.classes[0])) is not None
    assert not Path("/tmp/owned").exists()


@pytest.mark.parametrize(("name", "text"), hostile.names(), ids=lambda value: ascii(value)[:40])
def test_a_hostile_name_names_nothing_outside_the_artifact_root(name: str, text: str, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "artifacts"
    folder.mkdir(parents=True)
    (tmp_path / "root" / "plan.json").write_text("{}")
    root = ArtifactRoot(str(folder))
    with suppress(FlywheelError, OSError, ValueError):
        assert root.lookup("adapters", text) is None
    with suppress(FlywheelError, OSError, ValueError):
        root.read_json(f"runs/{text}/plan.json")
        pytest.fail("a file that is not there was read")
    with suppress(FlywheelError, OSError, ValueError):
        assert not root.find("datasets", text)
    run = folder_name(text)
    assert "/" not in run and run not in ("", ".", "..") and run.isprintable() and len(run.encode()) < 256
    with suppress(FlywheelError):  # an empty one
        assert not Run(root, text).is_planned
    assert sorted(os.listdir(tmp_path / "root")) == ["artifacts", "plan.json"]


@pytest.mark.parametrize(
    ("name", "data"),
    [*hostile.json_lines().items(), ("zeros", bytes(1000)), ("nothing", b""), ("a list", b"[]")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_manifest_counts_as_a_missing_artifact(name: str, data: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts/adapters/k1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(data)
    root = ArtifactRoot(str(tmp_path / "artifacts"))
    assert not root.find("adapters", "k1")
    assert root.lookup("adapters", "k1") is None
    with pytest.raises(FlywheelError):
        root.fetch("adapters", "k1")
