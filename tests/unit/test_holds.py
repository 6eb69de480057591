"""A person's word about production holds: no night undoes a roll-back or a rejection by itself."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typer.testing import CliRunner

from flywheel.artifacts.root import ArtifactRoot
from flywheel.cli.main import app
from flywheel.config import Config
from flywheel.promotion.champion import RegistryEntry, champion_history, read_champion, read_state
from flywheel.promotion.holds import NOBODY, Hold, holds_back
from flywheel.report import read_report
from flywheel.runs.run import Run
from flywheel.stages import pipeline as wheel
from flywheel.stages.promote import PromoteResult
from flywheel.web import promotion
from tests.unit.champions import User, edit_last, lift_hold, place_hold, read_hold, without_services
from tests.unit.finished_run import config_of, finish, plan_of, write_dataset

WORKLOAD = ("news_classifier", "default")


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    without_services(monkeypatch)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    made = config_of(str(tmp_path / "artifacts"), "sqlite:////nowhere/mlflow.db")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(made.model_dump(mode="json")))
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(tmp_path / "config.yaml"))
    return made


@pytest.fixture
def root(config: Config) -> ArtifactRoot:
    return ArtifactRoot(config.artifacts.root)


def turn(
    config: Config, night: int, *, data: int, approval: Any = None, approved: bool = True, **word: str
) -> PromoteResult:
    """Score and promote a night; the same data give the same adapters."""
    run = finish(plan_of(config, f"night-{night}", night + 1, approval=approval), data_seed=data)
    wheel.score(run)
    return wheel.promote(run, approved=approved, **word)


def rolled_back(config: Config, root: ArtifactRoot) -> str:
    """Turn two nights and roll the second back; return the adapter in force then."""
    first = turn(config, 1, data=1).champion
    second = turn(config, 2, data=2).champion
    assert first is not None
    assert second is not None
    back, _ = promotion.roll_back(User(), root, *WORKLOAD, "it misses the strikes")
    assert back.adapter == first.adapter != second.adapter
    return first.adapter


def other_dataset(root: ArtifactRoot, shared: int, new: int) -> str:
    """Publish a dataset that shares some record ids with those of the nights, and return its key."""
    key = f"{shared:010}{new:010}"
    ids = [str(number) for number in range(shared)] + [f"new-{number}" for number in range(new)]
    with root.build("datasets", key) as folder:
        for name, part in (("train", ids[2:]), ("val", ids[:1]), ("eval", ids[1:2])):
            (folder / f"{name}.jsonl").write_bytes(
                b"".join(orjson.dumps({"id": one}) + b"\n" for one in part)
            )
    return key


def test_after_a_roll_back_the_next_night_promotes_nothing_by_itself(
    config: Config, root: ArtifactRoot
) -> None:
    standing = rolled_back(config, root)
    result = turn(config, 3, data=2)  # the adapter that was rolled back
    assert (result.promoted, result.state) == (False, "held")
    champion = read_champion(root, *WORKLOAD)
    assert champion is not None
    assert champion.adapter == standing
    assert "Ada rolled a champion back at" in result.reason
    assert "(it misses the strikes)" in result.reason
    assert "until 50% of a night's records are others" in result.reason
    assert "flywheel hold lift" in result.reason
    assert read_report(root).decision.state == "held"
    page = (Path(root.url) / "latest/report.html").read_text()
    assert "1b @ 25 is good enough, but a person’s word holds; 1b @ 25 stays in production" in page.replace(
        "&#39;", "’"
    ).replace("'", "’")


def test_a_retry_of_the_night_that_was_rolled_back_is_held_too(config: Config, root: ArtifactRoot) -> None:
    rolled_back(config, root)
    assert turn(config, 2, data=2).state == "held"


def test_what_is_in_production_is_not_held(config: Config, root: ArtifactRoot) -> None:
    rolled_back(config, root)
    assert turn(config, 3, data=1).state == "in place"
    assert read_hold(root, *WORKLOAD) is not None


def test_a_lifted_hold_lets_the_next_night_promote(config: Config, root: ArtifactRoot) -> None:
    rolled_back(config, root)
    runner = CliRunner()
    assert "Ada rolled a champion back" in runner.invoke(app, ["hold", "show"]).output
    assert "Nothing is held back" in runner.invoke(app, ["hold", "show", "--client", "other"]).output
    assert "is lifted" in runner.invoke(app, ["hold", "lift"]).output
    assert "Nothing is held back" in runner.invoke(app, ["hold", "lift"]).output
    assert turn(config, 3, data=2).promoted


def test_enough_new_records_end_a_hold(config: Config, root: ArtifactRoot) -> None:
    rolled_back(config, root)
    edit_last(root, *WORKLOAD, hold={"dataset": other_dataset(root, shared=21, new=9)})  # of 40: 19 are new
    assert turn(config, 3, data=2).state == "held"
    edit_last(root, *WORKLOAD, hold={"dataset": other_dataset(root, shared=20, new=9)})
    assert turn(config, 4, data=2).state == "held"  # the very adapter that was rolled back
    assert turn(config, 5, data=3).promoted
    assert read_hold(root, *WORKLOAD) is None


def test_the_share_counts_all_parts_of_tonight_s_dataset(config: Config, root: ArtifactRoot) -> None:
    held, tonight = other_dataset(root, 10, 0), other_dataset(root, 10, 10)
    hold = place_hold(root, *WORKLOAD, dataset=held, adapter="a", by="Ada", why="rejected")
    assert not holds_back(root, hold, tonight, 0.5)
    assert holds_back(root, hold, tonight, 0.51)
    assert not holds_back(root, hold, held, 0.0)


@pytest.mark.parametrize("gone", ["held", "tonight"])
def test_without_one_of_the_datasets_only_a_person_ends_a_hold(root: ArtifactRoot, gone: str) -> None:
    there = write_dataset(root)
    hold = place_hold(
        root,
        *WORKLOAD,
        dataset=None if gone == "held" else there,
        adapter="a",
        by="Ada",
        why="rolled back",
    )
    assert holds_back(root, hold, "0" * 20 if gone == "tonight" else there, 0.0)


def test_a_rejection_holds_the_next_night_s_candidate_back(config: Config, root: ArtifactRoot) -> None:
    turn(config, 1, data=1)
    no = turn(config, 2, data=2, approval="human", approved=False, comment="too early", by="ann")
    assert no.state == "rejected"
    hold = read_hold(root, *WORKLOAD)
    assert hold is not None
    assert (hold.by, hold.why, hold.comment) == ("ann", "rejected", "too early")
    assert hold.dataset == read_report(root).data.dataset
    # A retry of the same review is the same word.
    turn(config, 2, data=2, approval="human", approved=False, comment="too early", by="ann")
    assert read_hold(root, *WORKLOAD) == hold
    result = turn(config, 3, data=2)
    assert result.state == "held"
    assert "ann rejected a candidate" in result.reason


def test_a_review_that_nobody_answered_holds_nothing(config: Config, root: ArtifactRoot) -> None:
    turn(config, 1, data=2, approval="human", approved=False, by=NOBODY)
    assert read_hold(root, *WORKLOAD) is None
    assert turn(config, 2, data=2).promoted


def test_a_person_s_promotion_lifts_the_hold(config: Config, root: ArtifactRoot) -> None:
    rolled_back(config, root)
    run = finish(plan_of(config, "night-3", 4), data_seed=2)
    wheel.score(run)
    promotion.promote(User(), run.plan, read_report(root, "night-3"), "8b", 25, "")
    assert read_hold(root, *WORKLOAD) is None
    assert turn(config, 4, data=3).promoted


def test_what_was_rolled_back_stays_so_after_a_person_promoted_something_else(
    config: Config, root: ArtifactRoot
) -> None:
    rolled_back(config, root)
    run = finish(plan_of(config, "night-3", 4), data_seed=2)
    wheel.score(run)
    promotion.promote(User(), run.plan, read_report(root, "night-3"), "8b", 25, "")
    again = turn(config, 4, data=2)  # its choice is the adapter that was rolled back
    assert (again.promoted, again.state) == (False, "held")
    assert "it is the same one again. It is not promoted by itself until a person promotes it" in again.reason
    runner = CliRunner()
    assert "as Ada turned it down on 20" in runner.invoke(app, ["hold", "show"]).output
    assert "is lifted" in runner.invoke(app, ["hold", "lift"]).output
    assert "Nothing is held back" in runner.invoke(app, ["hold", "show"]).output
    assert turn(config, 5, data=2).promoted


def test_a_person_who_promotes_what_was_rolled_back_takes_that_word_back(
    config: Config, root: ArtifactRoot
) -> None:
    rolled_back(config, root)
    run = finish(plan_of(config, "night-3", 4), data_seed=2)
    wheel.score(run)
    promotion.promote(User(), run.plan, read_report(root, "night-3"), "1b", 25, "")
    assert turn(config, 4, data=3).promoted
    assert turn(config, 5, data=2).promoted


def test_a_person_s_yes_in_a_review_lifts_the_hold(config: Config, root: ArtifactRoot) -> None:
    rolled_back(config, root)
    assert turn(config, 3, data=2, approval="human", by="ann").promoted
    assert read_hold(root, *WORKLOAD) is None


def test_rolling_back_twice_still_turns_down_what_the_first_did(root: ArtifactRoot) -> None:
    place_hold(root, *WORKLOAD, dataset="newer", adapter="c", by="Ada", why="rolled back")
    hold = place_hold(root, *WORKLOAD, dataset="older", adapter="b", by="Ada", why="rolled back")
    assert (hold.adapter, hold.dataset) == ("b", "newer")
    assert read_hold(root, *WORKLOAD) == hold


def test_a_hold_is_of_one_workload_and_client(root: ArtifactRoot) -> None:
    place_hold(root, *WORKLOAD, dataset=None, adapter="a", by="Ada", why="rejected")
    assert read_hold(root, "news_classifier", "other") is None
    assert not lift_hold(root, "news_classifier", "other")
    assert isinstance(read_hold(root, *WORKLOAD), Hold)


def test_what_held_at_a_time_is_known_after_it_was_replaced_and_lifted(
    root: ArtifactRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [datetime(2024, 3, day, tzinfo=UTC) for day in (1, 5, 9)]

    class Clock(datetime):
        """Says the time that the test has come to."""

        today_is = at[0]

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.today_is

    def hold_at(when: int) -> Hold | None:
        state = read_state(root, *WORKLOAD, at=when)
        return state.hold if state else None

    def turned_down(adapter: str, when: int | None = None) -> Hold | None:
        state = read_state(root, *WORKLOAD, at=when)
        return state.turns_down(adapter) if state else None

    monkeypatch.setattr("flywheel.promotion.transitions.datetime", Clock)
    place_hold(root, *WORKLOAD, dataset=None, adapter="a", by="Ada", why="rejected")
    Clock.today_is = at[1]
    place_hold(root, *WORKLOAD, dataset=None, adapter="b", by="Bob", why="rejected")
    Clock.today_is = at[2]
    assert lift_hold(root, *WORKLOAD, promoted="c")
    day = [int(one.timestamp()) for one in at]
    held = [hold_at(when) for when in (day[0] - 1, day[0], day[1], day[2] - 1, day[2])]
    assert [hold and hold.adapter for hold in held] == [None, "a", "b", "b", None]
    assert read_hold(root, *WORKLOAD) is None
    assert [turned_down(one) is not None for one in "abc"] == [True, True, False]
    assert turned_down("b", day[1] - 1) is None
    assert lift_hold(root, *WORKLOAD)
    assert [turned_down(one) for one in "ab"] == [None, None]
    assert not lift_hold(root, *WORKLOAD)


def scored(config: Config, night: int, *, data: int, approval: Any = None) -> Run:
    run = finish(plan_of(config, f"night-{night}", night + 1, approval=approval), data_seed=data)
    wheel.score(run)
    return run


def by_ada(run: Run, student: str = "8b") -> str:
    """Have Ada promote a candidate of a run; return its adapter."""
    return promotion.promote(User(), run.plan, read_report(run.root, run.run_id), student, 25, "")[0].adapter


def test_what_a_person_promotes_after_a_run_was_scored_is_not_undone_by_it(
    config: Config, root: ArtifactRoot
) -> None:
    first, second = scored(config, 1, data=1), scored(config, 2, data=2)
    wheel.promote(first)
    persons = by_ada(first)
    result = wheel.promote(second)
    assert (result.promoted, result.state) == (False, "none")
    assert "Ada promoted another candidate at" in result.reason
    assert "after this run was scored: that stays" in result.reason
    champion = read_champion(root, *WORKLOAD)
    assert champion == result.champion
    assert champion is not None
    assert champion.adapter == persons
    wheel.score(second)  # compared with the person's from here on
    assert wheel.promote(second).promoted


def test_what_a_person_promotes_while_the_task_promotes_is_not_undone_by_it(
    config: Config, root: ArtifactRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scored(config, 1, data=1)
    wheel.promote(first)
    second, persons = scored(config, 2, data=2), []
    turned_back = []

    def register(*_: object) -> RegistryEntry:
        persons.append(by_ada(first))  # between the task's reading and its writing
        return RegistryEntry(model="m", version="2")

    monkeypatch.setattr("flywheel.stages.promote.register", register)
    monkeypatch.setattr(
        "flywheel.stages.promote.point_alias", lambda _, entry: turned_back.append(entry.version)
    )
    result = wheel.promote(second)
    assert (result.promoted, result.state) == (False, "none")
    champion = read_champion(root, *WORKLOAD)
    assert champion is not None
    assert [champion.adapter] == persons
    assert len(champion_history(root, *WORKLOAD)) == 2
    assert turned_back == ["1"]  # MLflow's alias names the person's again


@pytest.mark.parametrize("approval", ["automatic", "human"])
def test_a_second_try_of_a_task_does_not_undo_what_a_person_decided_after_the_first(
    config: Config, root: ArtifactRoot, approval: str
) -> None:
    turn(config, 1, data=1)
    run = scored(config, 2, data=2, approval=approval)
    assert wheel.promote(run, by="ann").promoted
    persons = by_ada(run)
    result = wheel.promote(run, by="ann")
    assert (result.promoted, result.state) == (False, "none")
    assert "Ada promoted another candidate at" in result.reason
    assert "after this run had promoted: that stays" in result.reason
    champion = read_champion(root, *WORKLOAD)
    assert champion is not None
    assert champion.adapter == persons


def test_of_two_persons_the_latest_word_holds_and_both_are_kept(config: Config, root: ArtifactRoot) -> None:
    turn(config, 1, data=1)
    run = scored(config, 2, data=2, approval="human")
    persons = by_ada(run)
    result = wheel.promote(run, by="ann")
    assert result.promoted
    history = [one.adapter for one in champion_history(root, *WORKLOAD)]
    assert history[1] == persons
    assert len(history) == 3
