"""The champion's state machine: nothing decided is lost, whoever decides at once, is killed, or has which clock."""

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem

from flywheel.artifacts.create_once import create_once
from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.promotion import transitions
from flywheel.promotion.champion import (
    Champion,
    champion_folder,
    champion_history,
    decisions,
    read_champion,
    read_state,
)
from flywheel.promotion.timeline import Timeline
from flywheel.promotion.transitions import decide, resumed, stopped
from tests.unit.champions import lift_hold, place_hold, put_in_force
from tests.unit.test_champion import OWN, champion

# All that a decision asks of the file system, in the order in which it is asked.
STEPS = ("open", "fsync", "link", "rename", "unlink")


@pytest.fixture(params=["folder", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactRoot:
    return ArtifactRoot(
        str(tmp_path) if request.param == "folder" else request.getfixturevalue("memory_root")
    )


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do work in a process that gets SIGKILL at its step-th call of the file system; return if it was killed."""
    child = os.fork()
    if not child:
        left = step

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **more)

            return call

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def test_killed_at_any_step_of_a_decision_it_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    root = ArtifactRoot(str(tmp_path))
    put_in_force(root, champion(adapter="a0"), by="Ada")
    line, step, seen = Timeline(root, *OWN), 0, 0

    def decide(name: str) -> Callable[[], object]:
        return lambda: put_in_force(root, champion(adapter=name), by="Ada")

    while killed_at(step, decide(f"a{step + 1}")):
        standing = read_champion(root, *OWN)
        assert standing is not None
        shown = Champion.model_validate(root.read_json(f"{champion_folder(*OWN)}/champion.json"))
        there = {one.adapter for one in champion_history(root, *OWN)}
        assert {standing.adapter, shown.adapter} <= there
        seen += standing.adapter == f"a{step + 1}"
        # The next one completes what the killed one left out.
        put_in_force(root, champion(adapter=f"b{step}"), by="Ada")
        history = champion_history(root, *OWN)
        assert [one.champion for one in line.entries()[::-1]] == history
        assert [one.sequence for one in decisions(root, *OWN)] == list(range(1, len(history) + 1))
        assert root.read_json(f"{champion_folder(*OWN)}/champion.json")["adapter"] == f"b{step}"
        step += 1
    assert step > 12
    assert 0 < seen < step


@pytest.mark.parametrize("back", [timedelta(minutes=1), timedelta(days=400)])
def test_with_the_clock_put_back_order_and_times_go_on(
    root: ArtifactRoot, monkeypatch: pytest.MonkeyPatch, back: timedelta
) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)

    class Clock(datetime):
        """Says the time that the test has come to."""

        today_is = noon

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.today_is

    monkeypatch.setattr(transitions, "datetime", Clock)
    put_in_force(root, champion(adapter="a1"))
    Clock.today_is = noon + timedelta(hours=1)
    put_in_force(root, champion(adapter="a2"), by="Ada")
    Clock.today_is = noon + timedelta(hours=1) - back
    put_in_force(root, champion(adapter="a3"), by="Bob")
    Clock.today_is = noon + timedelta(hours=2)
    put_in_force(root, champion(adapter="a4"))
    there = decisions(root, *OWN)
    assert [one.champion and one.champion.adapter for one in there] == ["a1", "a2", "a3", "a4"]
    assert sorted(one.at for one in there) == [one.at for one in there]
    at = [int((noon + timedelta(minutes=minutes)).timestamp()) for minutes in (-1, 0, 59, 60, 119, 120)]
    states = [read_state(root, *OWN, at=when) for when in at]
    assert [one and one.sequence for one in states] == [None, 1, 1, 3, 3, 4]
    assert [entry.champion and entry.champion.adapter for entry in Timeline(root, *OWN).entries()] == [
        "a3",
        "a2",
    ]


def test_of_two_decisions_at_once_both_are_kept_and_the_second_is_on_the_new_state(
    root: ArtifactRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_force(root, champion(adapter="a1"))
    asked: list[str] = []

    def make(state: transitions.State) -> transitions.Draft | None:
        assert state is not None
        assert state.champion is not None
        asked.append(state.champion.adapter)
        if len(asked) == 1:  # between its reading and its writing
            put_in_force(root, champion(adapter="person's"), by="Ada")
        return transitions.promoted(state, champion(adapter="task's"))

    after, made = transitions.decide(root, *OWN, make, task="night-2")
    assert made
    assert asked == ["a1", "person's"]
    assert [one.adapter for one in champion_history(root, *OWN)] == ["a1", "person's", "task's"]
    assert after is not None
    assert (after.sequence, after.replaced) == (3, "person's")


def test_a_hold_that_comes_in_between_is_seen_by_the_one_that_decides(root: ArtifactRoot) -> None:
    put_in_force(root, champion(adapter="a1"))

    def make(state: transitions.State) -> transitions.Draft | None:
        assert state is not None
        if state.hold is not None:
            return None
        place_hold(root, *OWN, dataset=None, adapter="a2", by="Ada")
        return transitions.promoted(state, champion(adapter="a2"))

    after, made = transitions.decide(root, *OWN, make, task="night-2")
    assert not made
    assert after is not None
    assert after.hold is not None
    assert [one.adapter for one in champion_history(root, *OWN)] == ["a1"]


def test_a_name_is_taken_once(root: ArtifactRoot) -> None:
    assert create_once(root, "champions/x/1.json", b"one")
    assert not create_once(root, "champions/x/1.json", b"two")
    assert root.fs.cat_file(f"{root.url}/champions/x/1.json") == b"one"


def test_without_hard_links_a_name_is_taken_once_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    root = ArtifactRoot(str(tmp_path))
    assert create_once(root, "x/1.json", b"one")
    assert not create_once(root, "x/1.json", b"two")
    assert [path.name for path in (tmp_path / "x").glob("*") if path.name != ".lock"] == ["1.json"]


def test_a_full_disk_leaves_the_champion_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ArtifactRoot(str(tmp_path))
    put_in_force(root, champion())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            put_in_force(root, champion(adapter="a2"))
    assert [one.adapter for one in champion_history(root, *OWN)] == ["a1"]
    put_in_force(root, champion(adapter="a3"))
    assert [one.adapter for one in champion_history(root, *OWN)] == ["a1", "a3"]


def test_a_store_that_only_looks_before_it_writes_is_refused(tmp_path: Path) -> None:
    root = ArtifactRoot("memory://refused")
    root.fs = DirFileSystem(str(tmp_path), fsspec.filesystem("file"))
    root.is_folder = False
    with pytest.raises(
        ArtifactError, match=r"cannot write a file only where there is none; use a folder, s3://"
    ):
        create_once(root, "1.json", b"one")


def test_lifting_what_is_not_held_is_no_decision(root: ArtifactRoot) -> None:
    put_in_force(root, champion())
    assert not lift_hold(root, *OWN)
    place_hold(root, *OWN, dataset=None, adapter="a2", by="Ada")
    assert lift_hold(root, *OWN, promoted="a3")
    assert lift_hold(root, *OWN)
    assert not lift_hold(root, *OWN)
    assert [one.kind for one in decisions(root, *OWN)] == ["promoted", "rejected", "lifted", "lifted"]


def test_a_stop_holds_over_promotions_until_a_person_resumes_and_the_champion_stays(
    root: ArtifactRoot,
) -> None:
    assert not decide(root, *OWN, lambda state: stopped(state, "Ada", "none to stop"), by="Ada").made
    put_in_force(root, champion())
    first = decide(root, *OWN, lambda state: stopped(state, "Ada", "odd answers"), by="Ada").state
    assert not decide(root, *OWN, lambda state: stopped(state, "Bo", "again"), by="Bo").made
    put_in_force(root, champion(adapter="a2"))
    state = read_state(root, *OWN)
    assert first is not None and state is not None and state.champion is not None
    assert (state.champion.adapter, state.stop) == ("a2", first.stop)
    assert state.stop is not None and (state.stop.by, state.stop.comment) == ("Ada", "odd answers")
    assert decide(root, *OWN, resumed, by="Bo").made
    assert not decide(root, *OWN, resumed, by="Bo").made
    after = read_state(root, *OWN)
    assert after is not None and after.stop is None and after.champion == state.champion
    assert [one.kind for one in decisions(root, *OWN)] == ["promoted", "stopped", "promoted", "resumed"]
    assert len(champion_history(root, *OWN)) == 2
