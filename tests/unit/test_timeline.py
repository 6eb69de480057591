"""The timeline: each night says who would be in production at its cutoff, by what was decided before it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flywheel.artifacts.root import ArtifactRoot
from flywheel.cli.main import app
from flywheel.config import Config
from flywheel.promotion.champion import (
    champion_adapters,
    champion_folder,
    read_champion,
)
from flywheel.promotion.timeline import Entry, Timeline, compared_champion
from flywheel.report import read_report
from flywheel.runs.run import Run
from flywheel.stages import pipeline as wheel
from flywheel.stages.promote import PromoteResult
from flywheel.web import deletion, promotion
from tests.unit.champions import User
from tests.unit.finished_run import (
    adapter_key,
    change_plan,
    finish,
    plan_of,
    write_dataset,
)

pytestmark = pytest.mark.usefixtures("registered")

WORKLOAD = ("news_classifier", "default")
NONE_GOOD = {("1b", 25): 0.7, ("3b", 25): 0.8}


def turn(config: Config, day: int, *, data: int, backfill: bool = False, **arguments: Any) -> PromoteResult:
    """Score and promote the night of a day; its data make its adapters."""
    run_id = f"{'backfill' if backfill else 'night'}-{day}"
    run = finish(plan_of(config, run_id, day, is_backfill=backfill), data_seed=data, **arguments)
    wheel.score(run)
    return wheel.promote(run)


def cutoff(day: int) -> int:
    return int(datetime(2019, 3, day, tzinfo=UTC).timestamp())


def told(line: Timeline) -> list[tuple[str, str, str | None, bool]]:
    """Return of each entry, oldest first, its run, decision and champion, and whether it is in line."""
    return [
        (entry.run_id, entry.decision, entry.champion.run_id if entry.champion else None, entry.in_line)
        for entry in line.entries()[::-1]
    ]


def files(root: ArtifactRoot) -> dict[str, bytes]:
    """Return the files of the champion in force and its history."""
    folder = Path(root.url) / champion_folder(*WORKLOAD)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*.json")
        if path.parent.name not in ("timeline", "costs")
    }


def test_each_night_enters_who_is_in_production_and_why(config: Config, line: Timeline) -> None:
    turn(config, 2, data=1)
    turn(config, 3, data=2, f1=NONE_GOOD)
    turn(config, 4, data=1)
    turn(config, 5, data=3)
    assert told(line) == [
        ("night-2", "promoted", "night-2", True),
        ("night-3", "none", "night-2", True),
        ("night-4", "kept", "night-2", True),
        ("night-5", "promoted", "night-5", True),
    ]
    none = line.entries()[2]
    assert (none.at, none.kind, none.candidate) == (cutoff(3), "night", None)
    assert "No candidate is shown to be within 0.10 of the teacher" in none.reason
    assert none.champion is not None
    assert (none.champion.name, none.champion.score, none.before) == ("1b @ 25", 0.9, none.champion.adapter)
    assert none.champion.dataset is not None


def test_a_champion_at_a_time_is_of_the_last_night_before_it(config: Config, line: Timeline) -> None:
    for day in (2, 3, 4):
        turn(config, day, data=day)
    assert line.champion_at(cutoff(2)) is None
    found = [line.champion_at(at) for at in (cutoff(2) + 1, cutoff(3), cutoff(3) + 1, cutoff(9))]
    assert [champion.run_id for champion in found if champion] == ["night-2", "night-2", "night-3", "night-4"]
    between = line.champions_between(cutoff(3), cutoff(4))
    assert [champion.run_id for champion in between] == ["night-2", "night-3"]
    assert [champion.run_id for champion in line.champions_between(cutoff(3) + 1, cutoff(4))] == ["night-3"]
    assert line.champions_between(0, cutoff(2)) == []


def test_nights_backfilled_in_a_fresh_project_show_what_would_be_and_put_nothing_in_force(
    config: Config, root: ArtifactRoot, line: Timeline, registered: list[str]
) -> None:
    first = turn(config, 2, data=1, backfill=True)
    assert (first.promoted, first.state, first.in_past) == (False, "would be promoted", True)
    second = turn(config, 3, data=2, backfill=True)
    assert second.previous is not None
    assert second.previous.run_id == "backfill-2"
    assert "as high as the champion before it, 1b @ 25 of run backfill-2" in second.reason
    kept = turn(config, 4, data=3, backfill=True, f1=NONE_GOOD)
    assert kept.champion is not None
    assert (kept.champion.run_id, kept.state) == ("backfill-3", "none")
    assert "The champion of run backfill-3, 1b @ 25, would stay in production" in kept.reason
    assert read_champion(root, *WORKLOAD) is None
    assert files(root) == {}
    assert registered == []
    assert [entry.kind for entry in line.entries()] == ["backfill"] * 3
    report = read_report(root, "backfill-4")
    assert (report.champion, report.decision.in_past) == (None, True)
    # Tonight is compared with what is in force, and that is the teacher.
    tonight = turn(config, 20, data=4)
    assert (tonight.promoted, tonight.previous) == (True, None)
    assert told(line)[-1] == ("night-20", "promoted", "night-20", False)


def test_backfilled_nights_are_compared_with_the_champion_of_their_time(
    config: Config, root: ArtifactRoot, line: Timeline, registered: list[str]
) -> None:
    turn(config, 2, data=1)
    turn(config, 9, data=2, f1={("3b", 25): 0.99})
    in_force, made = files(root), list(registered)
    plan = plan_of(config, "backfill-5", 5, is_backfill=True)
    compared = compared_champion(root, plan)
    assert compared is not None
    assert compared.run_id == "night-2"
    run = finish(plan, data_seed=5)
    assert wheel.champion_spec(run).adapter == compared.adapter
    wheel.score(run)
    scored = read_report(root, "backfill-5").production
    assert scored is not None
    assert scored.run_id == "night-2"
    result = wheel.promote(run)
    assert result.previous == compared
    assert "the champion before it, 1b @ 25 of run night-2" in result.reason
    later = turn(config, 6, data=6)  # no backfill by its name, but older than the champion in force
    assert later.previous is not None
    assert (later.in_past, later.previous.run_id) == (True, "backfill-5")
    assert (files(root), registered) == (in_force, made)
    # What stands after them was compared with night 2, and not with them: it shows.
    assert told(line) == [
        ("night-2", "promoted", "night-2", True),
        ("backfill-5", "promoted", "backfill-5", True),
        ("night-6", "promoted", "night-6", True),
        ("night-9", "promoted", "night-9", False),
    ]


def test_a_night_that_is_backfilled_late_changes_no_later_entry(config: Config, line: Timeline) -> None:
    turn(config, 4, data=4, backfill=True)
    before = line.entries()
    turn(config, 2, data=2, backfill=True)
    assert line.entries()[0].model_copy(update={"in_line": True}) == before[0]
    assert told(line) == [
        ("backfill-2", "promoted", "backfill-2", True),
        ("backfill-4", "promoted", "backfill-4", False),
    ]
    # Backfilled anew it is compared with what now stands before it, and takes its own place.
    again = turn(config, 4, data=4, backfill=True)
    assert again.previous is not None
    assert again.previous.run_id == "backfill-2"
    assert [in_line for *_, in_line in told(line)] == [True, True]


def test_a_night_older_than_the_latest_one_is_past_though_the_champion_is_older_still(
    config: Config, root: ArtifactRoot
) -> None:
    standing = turn(config, 2, data=1).champion
    turn(config, 5, data=2, f1=NONE_GOOD)
    assert turn(config, 4, data=3).state == "would be promoted"
    assert read_champion(root, *WORKLOAD) == standing


def test_persons_decisions_are_entries_at_their_time(
    config: Config, root: ArtifactRoot, line: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.web.settings.config", lambda: config)
    turn(config, 2, data=1)
    run = Run(root, "night-2")
    promotion.promote(User(), run.plan, read_report(root, "night-2"), "8b", 25, "a trial")
    promotion.roll_back(User(), root, *WORKLOAD, "too dear")
    back, trial, night = line.entries()
    assert (night.kind, night.by) == ("night", "")
    assert (trial.kind, trial.decision, trial.by, trial.candidate) == ("person", "promoted", "Ada", "8b @ 25")
    assert (back.kind, back.decision, back.by, back.candidate) == ("person", "rolled back", "Ada", "1b @ 25")
    assert back.at >= trial.at > datetime(2026, 1, 1, tzinfo=UTC).timestamp() > night.at
    assert all(entry.in_line for entry in (back, trial, night))
    assert "too dear" in back.reason
    standing = line.champion_at(back.at + 1)
    assert standing == read_champion(root, *WORKLOAD)


def test_a_hold_of_after_its_cutoff_does_not_hold_a_night_in_the_past(
    config: Config, root: ArtifactRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.web.settings.config", lambda: config)
    turn(config, 2, data=1)
    turn(config, 9, data=2)
    promotion.roll_back(User(), root, *WORKLOAD, "")
    assert turn(config, 10, data=2).state == "held"
    assert turn(config, 8, data=2).state == "would be promoted"


def test_a_held_night_enters_that_it_was_held(
    config: Config, root: ArtifactRoot, line: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.web.settings.config", lambda: config)
    turn(config, 2, data=1)
    turn(config, 3, data=2)
    promotion.roll_back(User(), root, *WORKLOAD, "it misses the strikes")
    turn(config, 4, data=2)
    entry = next(entry for entry in line.entries() if entry.run_id == "night-4")
    assert (entry.decision, entry.candidate) == ("held", "1b @ 25")
    assert entry.champion is not None
    assert entry.champion.run_id == "night-2"
    assert "it misses the strikes" in entry.reason


def test_a_run_whose_split_a_client_changed_is_no_night(
    config: Config, root: ArtifactRoot, line: Timeline
) -> None:
    turn(config, 2, data=1)
    run = finish(plan_of(config, "asked", 9), data_seed=2)
    plan = run.plan.model_copy(update={"exam_changes": ("data_split_config.eval_size",)})
    change_plan(run, plan)
    wheel.score(run)
    wheel.promote(run)
    assert [entry.run_id for entry in line.entries()] == ["night-2"]
    assert turn(config, 3, data=3).promoted  # the other's later cutoff does not make it a night of the past


def test_of_two_runs_of_one_night_the_one_that_could_change_production_counts(
    config: Config, line: Timeline
) -> None:
    turn(config, 2, data=1)
    turn(config, 2, data=2, backfill=True)
    champion = line.champion_at(cutoff(3))
    assert champion is not None
    assert champion.run_id == "night-2"


def test_of_two_alike_the_one_written_last_counts(config: Config, line: Timeline) -> None:
    turn(config, 2, data=1, backfill=True)
    (name,) = line.names()
    entry = line.read(name)
    for number, written in ((1, "2030"), (2, "2029")):
        line.write(entry.model_copy(update={"run_id": f"again-{number}", "written_at": written}))
    found = line.entry_before(cutoff(3))
    assert found is not None
    assert found.run_id == "again-1"


def test_an_adapter_of_the_timeline_is_not_removed_with_its_run(config: Config, root: ArtifactRoot) -> None:
    first = turn(config, 2, data=1, backfill=True).champion
    assert first is not None
    turn(config, 3, data=2, backfill=True)
    deletion.remove_files(Run(root, "backfill-2"), None)
    assert root.find("adapters", first.adapter)
    assert not root.find("adapters", adapter_key("8b", 25, write_dataset(root, seed=1)))
    assert first.adapter in champion_adapters(root)


def test_timelines_are_of_one_workload_and_client(config: Config, root: ArtifactRoot) -> None:
    turn(config, 2, data=1)
    assert Timeline(root, "news_classifier", "other").entries() == []


def test_entries_come_in_pages_and_say_of_each_whether_it_is_in_line(config: Config, line: Timeline) -> None:
    for day in (2, 3, 4, 5):
        turn(config, day, data=day)
    whole = line.entries()
    assert line.entries(2) == whole[:2]
    assert line.entries(2, offset=1) == whole[1:3]
    assert line.entries(9, offset=3) == whole[3:]
    assert all(isinstance(entry, Entry) for entry in whole)


def test_the_command_line_shows_the_timeline(config: Config, tmp_path: Path, line: Timeline) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    shell = {"FLYWHEEL_CONFIG": str(tmp_path / "config.yaml")}
    assert "No night of news_classifier" in CliRunner().invoke(app, ["timeline"], env=shell).output
    turn(config, 4, data=4, backfill=True)
    turn(config, 2, data=2, backfill=True)
    said = CliRunner().invoke(app, ["timeline"], env=shell).output
    assert "2019-03-02 00:00  backfill  promoted      1b @ 25 of run backfill-2\n" in said
    assert "1b @ 25 of run backfill-4  [compared with another champion than stands before it now]" in said
    assert "the beginning to 2019-03-02 00:00  the teacher\n" in said
    assert (
        "2019-03-02 00:00 to 2019-03-04 00:00  1b @ 25 of run backfill-2 (knows until 2019-03-02 00:00, 2.0 days"
        in said
    )
    latest = CliRunner().invoke(app, ["timeline", "--last", "1"], env=shell).output
    assert "of run backfill-2" not in latest.partition("Decisions:")[2]


def test_a_run_planned_as_backfill_by_hand_is_one(config: Config, root: ArtifactRoot, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = ["plan", "by-hand", "--cutoff", "2019-03-02", "--backfill"]
    CliRunner().invoke(app, [*command, "--config", str(tmp_path / "config.yaml")])
    assert Run(root, "by-hand").plan.is_backfill
