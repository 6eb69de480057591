"""What flywheel 0.1.0 left is brought up by `flywheel upgrade`, and the nights go on.

`state_0_1_0.tar.xz` was written by flywheel 0.1.0 itself (commit 39533e7), stage by stage on its command line:
170 demo headlines, one student at 60 records, two nights that each promote; without MLflow's files and pictures.
"""

import json
import tarfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flywheel.artifacts.root import ArtifactRoot
from flywheel.cli.main import app
from flywheel.config import Config, load_config
from flywheel.curation.result import CurateResult
from flywheel.jobs.result import CustomizeResult, EvaluateResult
from flywheel.promotion.champion import champion_history, read_champion
from flywheel.promotion.timeline import Timeline
from flywheel.report import read_report
from flywheel.runs.plan import make_plan
from flywheel.runs.run import open_run
from flywheel.stages.label import LabelResult
from flywheel.stages.promote import PromoteResult
from flywheel.stores import open_store

STATE = Path(__file__).parent / "state_0_1_0.tar.xz"
PROJECT = Path(__file__).parents[2]
SCOPE = ("news_classifier", "demo")
ALWAYS = 1 << 40


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(STATE) as packed:
        packed.extractall(tmp_path, filter="data")
    (tmp_path / "include").symlink_to(PROJECT / "include")
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(tmp_path / "config.yaml"))
    return tmp_path


@pytest.fixture
def config(home: Path) -> Config:
    done = CliRunner().invoke(app, ["upgrade"])
    assert done.exit_code == 0, done.output
    assert "is of version" in done.output
    assert "of this version" in CliRunner().invoke(app, ["upgrade"]).output  # nothing is left to do
    return load_config()


def test_the_champion_its_history_and_its_timeline_are_those_of_its_nights(
    home: Path, config: Config
) -> None:
    before = json.loads((home / "artifacts/champions/news_classifier/demo/champion.json").read_text())
    root = ArtifactRoot(str(home / "artifacts"))
    champion = read_champion(root, *SCOPE)
    assert champion is not None
    assert (champion.run_id, champion.score, champion.adapter) == (
        "night-2",
        before["score"],
        before["adapter"],
    )
    assert [past.run_id for past in champion_history(root, *SCOPE)] == ["night-1", "night-2"]
    assert [entry.run_id for entry in Timeline(root, *SCOPE).entries()] == ["night-2", "night-1"]


def test_its_scores_have_the_names_of_their_metrics(home: Path, config: Config) -> None:
    with tarfile.open(STATE) as packed:
        file = packed.extractfile("./artifacts/runs/night-2/report.json")
        assert file is not None
        before = json.load(file)
    root = str(home / "artifacts")
    report = read_report(ArtifactRoot(root), "night-2")
    teacher = before["teacher"]
    assert report.teacher.human_scores == {
        name: teacher[f"human_{name}"] for name in ("f1_weighted", "f1_macro", "accuracy")
    }
    assert report.teacher.human_intervals == {"f1_weighted": tuple(teacher["human_f1_weighted_ci95"])}
    (row,), (was,) = report.baseline, before["baseline"]
    assert (row.score, row.scores["f1_macro"]) == (was["f1_weighted"], was["f1_macro"])
    (candidate,), (found,) = report.candidates, before["candidates"]
    assert (candidate.score, candidate.scores) == (found["f1_weighted"], found["scores"])
    human = open_run(root, "night-2").load("stages/label", LabelResult).human
    assert human is not None
    assert human.scores == report.teacher.human_scores
    assert set(human.intervals) == {"f1_weighted", "f1_macro"}


@pytest.mark.parametrize("night", ["night-1", "night-2"])
def test_every_artifact_of_a_night_is_whole_and_known_by_its_hash(
    home: Path, config: Config, night: str
) -> None:
    root, run = ArtifactRoot(str(home / "artifacts")), open_run(str(home / "artifacts"), night)
    curated = run.load("stages/curate", CurateResult)
    customized = run.load("jobs/small@60/customize", CustomizeResult)
    evaluated = run.load("jobs/small@60/evaluate", EvaluateResult)
    assert run.load("stages/promote", PromoteResult).promoted
    kept = [("datasets", curated.dataset), ("adapters", customized.adapter), ("evaluations", evaluated.key)]
    for kind, key in kept:
        assert (root.fetch(kind, key) / "manifest.json").exists()
        assert json.loads((home / "artifacts" / kind / key / "manifest.json").read_text())["sha256"]
    assert [candidate.size for candidate in read_report(root, night).candidates] == [60]
    shown = CliRunner().invoke(app, ["report", night, "--artifacts", str(home / "artifacts")])
    assert shown.exit_code == 0 and "small" in shown.output


def test_records_have_when_they_were_known_and_answers_are_not_paid_for_again(config: Config) -> None:
    with open_store(config.store) as store:
        records = list(store.read(*SCOPE, ALWAYS))
        assert len(records) == 170
        assert all(record.known_at is not None for record in records)
        assert Counter(store.counts_by_labeller(*SCOPE, ALWAYS))["unknown"] == 170
        assert sum(1 for _ in store.read_answers()) == 170


def test_the_config_of_0_1_0_plans_a_night_of_today(config: Config) -> None:
    plan = make_plan(config, run_id="night-3", cutoff=datetime(2026, 12, 1, tzinfo=UTC))
    assert [candidate.name for candidate in plan.candidates] == ["small @ 60"]
