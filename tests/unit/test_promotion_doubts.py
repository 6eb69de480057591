"""What keeps a run from promoting by itself: too few eval records, and a champion that is as good."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.config import Config
from flywheel.promotion.champion import champion_folder, read_champion
from flywheel.report.model import Report
from flywheel.runs.run import Run
from flywheel.stages import pipeline as wheel
from flywheel.stages.promote import PromoteResult
from tests.unit.champions import edit_last
from tests.unit.finished_run import config_of, finish, plan_of, write_dataset

RECORDS = 2000
OWN = ("news_classifier", "default")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr("flywheel.stages.score.track", lambda *_: None)
    monkeypatch.setattr("flywheel.stages.promote.register", lambda *_: None)
    return config_of(str(tmp_path / "artifacts"), f"sqlite:///{tmp_path}/mlflow.db")


def turned(run: Run) -> PromoteResult:
    wheel.score(run)
    return wheel.promote(run)


def answers(root: ArtifactRoot, student: str, dataset: str, right: int) -> None:
    """Publish the answers of a student @ 25 to records of two classes, so many of them right."""
    labels = ["Earnings", "Dividends"]
    rows = []
    for place in range(RECORDS):
        teacher = labels[place % 2]
        is_right = place < right
        rows.append({"id": f"e{place}", "teacher": teacher, "student": teacher if is_right else "OTHER"})
    with root.build("evaluations", key_of("evaluation", student, 25, dataset)) as folder:
        (folder / "predictions.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n")


def second_night(
    config: Config,
    champion: int,
    choice: int,
    *,
    pair: tuple[str, str] = ("1b", "3b"),
    gain: float | None = None,
) -> tuple[PromoteResult, Report]:
    """Return a night whose one candidate, and whose champion, have so many of the records right."""
    old, new = pair
    assert turned(finish(plan_of(config, "night-1", 2, approval="human"), f1={(old, 25): 0.95})).promoted
    root = ArtifactRoot(config.artifacts.root)
    if gain is not None:  # what the champion in force lost to the one before it
        folder = f"{champion_folder(*OWN)}/timeline"
        path = f"{folder}/{root.list(folder)[-1]}"
        entry = root.read_json(path)
        root.write_json(path, {**entry, "champion": {**entry["champion"], "gain": gain}})
    dataset = write_dataset(root, seed=2)
    answers(root, old, dataset, champion)
    answers(root, new, dataset, choice)
    run = finish(
        plan_of(config, "night-2", 3, approval="automatic"),
        f1={(new, 25): 0.95},
        data_seed=2,
        champion_f1=0.95,
    )
    result = turned(run)
    return result, Report.model_validate(run.root.read_json(f"{run.path}/report.json"))


def test_too_few_eval_records_promote_nothing_unless_a_person_says_so(tmp_path: Path, config: Config) -> None:
    promotion = config.promotion.model_copy(update={"min_eval": 10**9})
    config = config.model_copy(update={"promotion": promotion})
    result = turned(finish(plan_of(config, "by-itself", 2, approval="automatic")))
    assert (result.promoted, result.state) == (False, "none")
    assert (
        "eval records are too few to promote by: promotion.min_eval asks for 1,000,000,000" in result.reason
    )
    run = finish(plan_of(config, "asked", 2, approval="human"))
    wheel.score(run)
    told = Report.model_validate(run.root.read_json(f"{run.path}/report.json")).verdict
    assert any("too few to promote by" in sentence for sentence in told)  # what the person is asked shows it
    assert wheel.promote(run).promoted


def test_a_champion_that_was_not_measured_tonight_stays(config: Config) -> None:
    assert turned(finish(plan_of(config, "night-1", 2, approval="automatic"))).promoted
    result = turned(finish(plan_of(config, "night-2", 3, approval="automatic"), data_seed=2))
    assert (result.promoted, result.state) == (False, "none")
    assert "in production, was not measured on this run's eval set" in result.reason


def test_a_dearer_student_replaces_the_champion_only_if_it_is_shown_to_be_better(config: Config) -> None:
    result, report = second_night(config, champion=1900, choice=1901)
    assert not result.promoted
    assert "3b @ 25 is not shown to be better than 1b @ 25, in production" in result.reason
    assert report.decision.comparison is not None
    assert report.decision.comparison.records == RECORDS


def test_a_better_student_replaces_the_champion(config: Config) -> None:
    result, report = second_night(config, champion=1800, choice=1900)
    assert result.promoted
    champion = read_champion(ArtifactRoot(config.artifacts.root), *OWN)
    assert champion is not None
    assert report.decision.comparison is not None
    assert champion.gain == pytest.approx(report.decision.comparison.difference)
    assert champion.gain == pytest.approx(0.026, abs=0.002)


def test_a_cheaper_student_may_be_worse_by_less_than_the_margin(config: Config) -> None:
    result, report = second_night(config, champion=1900, choice=1895, pair=("3b", "1b"))
    assert result.promoted
    assert report.decision.comparison is not None
    assert report.decision.comparison.needed == pytest.approx(-0.02)


def test_margins_of_earlier_champions_are_used_up(config: Config) -> None:
    assert turned(finish(plan_of(config, "night-0", 1, approval="human"), f1={("8b", 25): 0.95})).promoted
    result, _ = second_night(config, champion=1900, choice=1890, pair=("3b", "1b"), gain=-0.019)
    assert not result.promoted
    assert "is not shown to be less than 0.001 worse than 3b @ 25" in result.reason


def chosen_by(root: ArtifactRoot, metric: str) -> None:
    """Have the champion in force say that it was chosen by another metric."""
    edit_last(root, *OWN, champion={"metric": metric})


@pytest.mark.parametrize(("choice", "promoted"), [(1900, True), (1801, False)])
def test_a_champion_that_was_chosen_by_another_metric_is_compared_by_tonight_s(
    config: Config, monkeypatch: pytest.MonkeyPatch, choice: int, promoted: bool
) -> None:
    root = ArtifactRoot(config.artifacts.root)
    assert turned(finish(plan_of(config, "night-1", 2, approval="human"), f1={("1b", 25): 0.95})).promoted
    chosen_by(root, "f1_macro")
    dataset = write_dataset(root, seed=2)
    answers(root, "1b", dataset, 1800)
    answers(root, "3b", dataset, choice)
    plan = plan_of(config, "night-2", 3, approval="automatic")
    run = finish(plan, f1={("3b", 25): 0.95}, data_seed=2, champion_f1=0.95)
    assert turned(run).promoted == promoted
    comparison = Report.model_validate(run.root.read_json(f"{run.path}/report.json")).decision.comparison
    assert comparison is not None
    assert (comparison.metric, comparison.passes) == ("f1_weighted", promoted)


def test_accuracy_is_compared_as_accuracy(config: Config) -> None:
    promotion = config.promotion.model_copy(update={"metric": "accuracy"})
    result, report = second_night(config.model_copy(update={"promotion": promotion}), 1800, 1900)
    assert result.promoted
    assert report.decision.comparison is not None
    assert report.decision.comparison.metric == "accuracy"
    assert report.decision.comparison.difference == pytest.approx(0.05)
