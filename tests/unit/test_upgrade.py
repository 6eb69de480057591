"""What an older flywheel left is brought up: from version 1, also through kills; a newer one's is refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.config import Config
from flywheel.curation.result import CurateResult
from flywheel.jobs.result import EvaluateResult
from flywheel.promotion.champion import Champion, champion_history, decisions, read_champion
from flywheel.promotion.restore import restore
from flywheel.promotion.timeline import Timeline
from flywheel.report import read_report
from flywheel.runs.run import open_run
from flywheel.stages.pipeline import begin
from flywheel.stages.promote import PromoteResult
from flywheel.stages.upgrade import VERSION, bring_up, refuse_newer, upgrade
from flywheel.stores import open_store
from flywheel.stores.sqlite import SCHEMA_VERSION
from tests.unit.finished_run import config_of, plan_of

# As the flywheel wrote them that knew no versions: two nights, each with a champion, and a store.
WRITTEN = Path(__file__).parent / "version_1"
PROJECT = Path(__file__).parents[2]
SCOPE = ("news_classifier", "default")
FOLDER = "champions/news_classifier/default"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home with a state of version 1, its champion not yet in the history."""
    for name, content in json.loads((WRITTEN / "artifacts.json").read_text()).items():
        path = tmp_path / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    _, last = sorted((tmp_path / "artifacts" / FOLDER / "history").iterdir())
    last.unlink()
    (tmp_path / "state").mkdir()
    with sqlite3.connect(tmp_path / "state/records.sqlite") as store:
        store.executescript((WRITTEN / "store.sql").read_text())
    store.close()
    (tmp_path / "include").mkdir()
    (tmp_path / "include/workloads").symlink_to(PROJECT / "include/workloads")
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def config() -> Config:
    return config_of("artifacts", "sqlite:////nowhere/mlflow.db")


def contents(home: Path) -> dict[str, Any]:
    """Return all JSON of the artifact root."""
    files = sorted((home / "artifacts").rglob("*.json"))
    return {str(path.relative_to(home)): json.loads(path.read_text()) for path in files}


def test_a_state_of_version_1_is_brought_up_and_all_of_it_can_be_read(home: Path, config: Config) -> None:
    root = ArtifactRoot(config.artifacts.root)
    assert refuse_newer(root) == 1
    before = Champion.model_validate_json((home / "artifacts" / FOLDER / "champion.json").read_text())
    assert upgrade(config)
    assert refuse_newer(root) == VERSION
    assert read_champion(root, *SCOPE) == before
    history = champion_history(root, *SCOPE)
    assert [champion.run_id for champion in history] == ["night-1", "night-2"]
    stored = [
        json.loads(path.read_text())["score"]
        for folder in ("", "history")
        for path in sorted((home / "artifacts" / FOLDER / folder).glob("*.json"))
    ]
    assert stored == [0.93, 0.9, 0.93]
    entries = Timeline(root, *SCOPE).entries()
    assert [(entry.run_id, entry.decision, entry.in_line) for entry in entries] == [
        ("night-2", "promoted", True),
        ("night-1", "promoted", True),
    ]
    assert [entry.champion for entry in entries] == history[::-1]
    for night in ("night-1", "night-2"):
        run = open_run(config.artifacts.root, night)
        assert len(run.plan.candidates) == 9
        assert run.load("stages/curate", CurateResult).eval == 20
        assert run.load("stages/promote", PromoteResult).promoted
        assert len(read_report(root, night).candidates) == 9
    assert open_run(config.artifacts.root, "night-2").load("jobs/1b@10/evaluate", EvaluateResult).size == 10
    with sqlite3.connect(home / "state/records.sqlite") as plain:
        assert plain.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    plain.close()
    with open_store(config.store) as store:
        (first, *_) = read = list(store.read("news_classifier", "desk", 1 << 40))
        assert len(read) == 7
        assert first.known_at is not None
        assert dict(store.read_answers())["k1"].content == "[[[other]]]"
        assert store.scopes() == [("news_classifier", "desk"), ("news_classifier", "other")]
        assert sorted(key for key, _ in store.read_answers()) == ["k1", "k2"]


def test_an_upgrade_that_was_done_does_nothing(home: Path, config: Config) -> None:
    upgrade(config)
    before = {path: path.stat().st_mtime_ns for path in (home / "artifacts").rglob("*.json")}
    assert upgrade(config) == []
    assert {path: path.stat().st_mtime_ns for path in (home / "artifacts").rglob("*.json")} == before


KILLED = """
import os, stat, sys
from flywheel.artifacts.root import ArtifactRoot
from flywheel.stages.upgrade import bring_up

left, fsync = int(sys.argv[1]), os.fsync
def sync_or_die(file):
    global left
    left -= stat.S_ISREG(os.fstat(file).st_mode)  # folders are synced, too
    if left < 0:
        os.kill(os.getpid(), 9)
    fsync(file)
os.fsync = sync_or_die
bring_up(ArtifactRoot("artifacts"))
"""


def test_an_upgrade_killed_before_any_of_its_writes_is_gone_on_with(home: Path, config: Config) -> None:
    """SIGKILL before the 1st, 2nd, ... write, each by a process that finds what the one before has left."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "include")}
    ends = []
    for _ in range(30):
        # Each does one write more, and is killed at the next.
        done = subprocess.run([sys.executable, "-c", KILLED, "1"], env=environment, cwd=PROJECT, check=False)
        ends.append(done.returncode)
        contents(home)  # none is half written
        if done.returncode == 0:
            break
    # Three champions, two entries, two decisions with their copies, a view, two nights' scores, a version after each step.
    assert ends == [*[-signal.SIGKILL] * (len(ends) - 1), 0]
    assert len(ends) > 10
    through_kills = contents(home)
    root = ArtifactRoot(config.artifacts.root)
    assert refuse_newer(root) == VERSION
    assert [champion.run_id for champion in champion_history(root, *SCOPE)] == ["night-1", "night-2"]
    (home / "artifacts/version.json").unlink()
    bring_up(root)
    assert contents(home) == through_kills


def test_manifests_of_sizes_alone_get_hashes_and_what_is_damaged_stays_so(home: Path, config: Config) -> None:
    root = ArtifactRoot(config.artifacts.root)
    whole, damaged = root.list("adapters")
    for key in (whole, damaged):
        root.write_bytes(f"adapters/{key}/weights", b"12345")
        root.write_json(f"adapters/{key}/manifest.json", {"files": {"weights": 5}})
    root.write_bytes(f"adapters/{damaged}/weights", b"1234")
    upgrade(config)
    hashes = root.read_json(f"adapters/{whole}/manifest.json")["sha256"]
    assert hashes == {"weights": hashlib.sha256(b"12345").hexdigest()}
    assert (root.find("adapters", whole), root.find("adapters", damaged)) == (True, False)
    root.write_bytes(f"adapters/{whole}/weights", b"54321")
    assert not root.find("adapters", whole)


def test_a_run_brings_the_root_up_that_it_is_planned_in(home: Path, config: Config) -> None:
    begin(plan_of(config, "night-3", 4))
    root = ArtifactRoot(config.artifacts.root)
    assert refuse_newer(root) == VERSION
    assert len(champion_history(root, *SCOPE)) == 2


def test_a_new_root_begins_with_the_version_of_today_and_without_a_word(memory_root: str) -> None:
    root = ArtifactRoot(memory_root)
    assert bring_up(root) == []
    assert root.read_json("version.json") == {"version": VERSION}


def test_what_a_newer_flywheel_wrote_is_refused_with_what_to_do(home: Path, config: Config) -> None:
    (home / "artifacts/version.json").write_text('{"version": 99}')
    before = contents(home)
    for opened in (lambda: upgrade(config), lambda: begin(plan_of(config, "night-3", 4))):
        with pytest.raises(ArtifactError, match=r"of version 99, .* up to \d+: install the flywheel"):
            opened()
    assert contents(home) == before


@pytest.mark.parametrize("content", ["7", '{"version": "two"}', '{"version": 0}', "{"])
def test_a_damaged_version_file_is_named(home: Path, config: Config, content: str) -> None:
    (home / "artifacts/version.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"artifacts/version\.json"):
        upgrade(config)


def test_a_damaged_champion_stays_as_it_is_and_the_others_are_brought_up(home: Path, config: Config) -> None:
    damaged = home / "artifacts/champions/news_classifier/other/champion.json"
    damaged.parent.mkdir()
    damaged.write_text('{"student": 7')
    root = ArtifactRoot(config.artifacts.root)
    bring_up(root)
    assert damaged.read_text() == '{"student": 7'
    assert len(champion_history(root, *SCOPE)) == 2


def test_flywheel_upgrade_says_what_it_did(home: Path) -> None:
    config = {"nims": [{"model_name": "meta/llama-1b", "name": "1b"}], "sizes": [5]}
    config["workload"] = "include/workloads/news_classifier.yaml"
    (home / "config.yaml").write_text(json.dumps(config))
    environment = {
        **os.environ, "PYTHONPATH": str(PROJECT / "include"), "FLYWHEEL_CONFIG": str(home / "config.yaml")
    }  # fmt: skip
    command = [sys.executable, "-m", "flywheel.cli.main", "upgrade"]
    said = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert f"{home}/artifacts is of version 2 now: champions have whole histories" in said[0]
    assert said[1] == "Artifacts and records are of this version.\n"


def test_a_roll_back_of_before_has_a_number(home: Path, config: Config) -> None:
    root, folder = ArtifactRoot(config.artifacts.root), home / "artifacts" / FOLDER
    last = json.loads((folder / "champion.json").read_text())
    back = {
        **last,
        "adapter": "561037e124958a263fbf",
        "promoted_at": "2026-11-30T06:00:01+00:00",
        "reason": "Rolled back by a.b@desk from 1b @ 10 of run night-2 to 1b @ 25 of run night-1.",
    }
    (folder / "champion.json").write_text(json.dumps(back))
    when = "20261130T053222Z"
    (folder / f"history/{when}-{last['adapter']}.json").write_text(json.dumps(last))
    (folder / "history/20261130T060001Z-561037e124958a263fbf.json").write_text(json.dumps(back))
    (folder / "history/20261130T060001Z-561037e124958a263fbf.json.a463ac52").write_text('{"half')
    bring_up(root)
    there = decisions(root, *SCOPE)
    assert [(one.kind, one.by) for one in there] == [
        ("promoted", ""),
        ("promoted", ""),
        ("rolled back", "a.b@desk"),
    ]
    assert [one.replaced for one in there] == [None, there[0].champion.adapter, last["adapter"]]
    assert read_champion(root, *SCOPE) == there[2].champion
    assert not list((folder / "history").glob("*.a463ac52"))
    persons = [entry for entry in Timeline(root, *SCOPE).entries() if entry.kind == "person"]
    assert [entry.decision for entry in persons] == ["rolled back"]


def test_a_damaged_champion_of_before_is_named_by_who_reads_it_until_it_is_mended(
    home: Path, config: Config
) -> None:
    root, path = ArtifactRoot(config.artifacts.root), home / "artifacts" / FOLDER / "champion.json"
    whole = path.read_text()
    path.write_text('{"student": 7')
    bring_up(root)
    with pytest.raises(ArtifactError, match="flywheel champion restore"):
        read_champion(root, *SCOPE)
    with pytest.raises(ArtifactError, match=r"champion\.json: not valid JSON.*from a backup"):
        restore(root, *SCOPE)
    path.write_text(whole)
    assert "2 decisions of an older flywheel have numbers now" in restore(root, *SCOPE)[0]
    assert [champion.run_id for champion in champion_history(root, *SCOPE)] == ["night-1", "night-2"]
