"""The timeline after kills, retries and damage."""

from pathlib import Path

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.config import Config
from flywheel.promotion.champion import (
    champion_history,
)
from flywheel.promotion.timeline import Timeline
from tests.unit.finished_run import (
    TABLE_1,
)
from tests.unit.test_timeline import WORKLOAD, cutoff, files, told, turn

pytestmark = pytest.mark.usefixtures("registered")


def test_a_retry_finds_its_entry(config: Config, root: ArtifactRoot, line: Timeline) -> None:
    turn(config, 2, data=1, backfill=True)
    turn(config, 9, data=2)
    for day, data, backfill in ((2, 1, True), (9, 2, False)):
        before = {name: line.read(name) for name in line.names()}
        turn(config, day, data=data, backfill=backfill)
        assert {name: line.read(name) for name in line.names()} == before
    assert len(champion_history(root, *WORKLOAD)) == 1


def test_a_retry_of_a_night_that_lies_in_the_past_by_now_keeps_its_place(
    config: Config, root: ArtifactRoot, line: Timeline
) -> None:
    turn(config, 2, data=1)
    turn(config, 5, data=2)
    before, standing = line.entries(), files(root)
    again = turn(config, 2, data=1)
    assert (again.promoted, again.state) == (False, "would be promoted")
    assert (line.entries(), files(root)) == (before, standing)


def test_a_run_with_another_outcome_replaces_its_entry(config: Config, line: Timeline) -> None:
    turn(config, 2, data=1, backfill=True)
    turn(config, 2, data=1, backfill=True, f1=dict.fromkeys(TABLE_1, 0.5))
    assert told(line) == [("backfill-2", "none", None, True)]


def test_a_kill_between_champion_and_entry_is_made_good_by_the_retry(
    config: Config, root: ArtifactRoot, line: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn(config, 2, data=1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(Timeline, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            turn(config, 3, data=2)
    assert [run for run, *_ in told(line)] == ["night-2"]
    assert turn(config, 3, data=2).promoted
    assert told(line) == [
        ("night-2", "promoted", "night-2", True),
        ("night-3", "promoted", "night-3", True),
    ]
    assert [champion.run_id for champion in champion_history(root, *WORKLOAD)] == ["night-2", "night-3"]


def test_an_entry_that_a_kill_left_half_written_is_none(
    config: Config, root: ArtifactRoot, line: Timeline
) -> None:
    turn(config, 2, data=1)
    (Path(root.url) / line.folder / f"{line.names()[0]}.1234abcd").write_text("{")
    assert len(line.entries()) == 1


def test_a_damaged_entry_is_an_error_that_names_it(config: Config, line: Timeline) -> None:
    turn(config, 2, data=1)
    line.root.write_json(f"{line.folder}/{line.names()[0]}", {"at": 1})
    with pytest.raises(ArtifactError, match=r"timeline/\d{12}-night-\w+\.json: not an entry .* remove it"):
        line.champion_at(cutoff(3))
