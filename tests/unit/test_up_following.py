"""How `flywheel up` follows a run: how often it looks, and when it starts what the run does not wait for."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from flywheel.laptop.api import TaskState
from flywheel.laptop.progress import RunProgress

up = importlib.import_module("flywheel.laptop.up")  # the package has a function of that name

RUN = SimpleNamespace(run_id="r", path="runs/r", root=SimpleNamespace(exists=lambda _: False))
CONSOLE = SimpleNamespace(is_terminal=False, print=lambda *_, **__: None)


def task(name: str, state: str) -> TaskState:
    return TaskState(name, name, -1, "", state, None, 1)


class Wheel(up._Wheel):  # type: ignore[name-defined,misc]
    """A wheel whose run is at one place after the other, a place for each look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *places: tuple[str | None, TaskState | None]) -> None:
        self.places = list(places)
        self.problem = self.left_behind = self.experiment = ""
        self.console = CONSOLE
        self.slept: list[float] = []
        self.rest_after: list[int] = []
        self.api = SimpleNamespace(  # type: ignore[assignment]
            run_state=lambda _: self.places[0][0],
            tasks=lambda _: [one for one in [self.places[0][1]] if one],
            import_errors=lambda _: [],
        )
        now = iter(range(0, 1000, 2))
        monkeypatch.setattr(up, "time", SimpleNamespace(monotonic=lambda: next(now), sleep=self._sleep))

    def _sleep(self, seconds: float) -> None:
        if self.slept:
            self.places.pop(0)
        self.slept.append(seconds)

    def _address(self) -> str:
        return "here"

    def _start_the_rest(self) -> None:
        self.rest_after.append(len(self.slept))

    def follow(self) -> str:
        progress: Any = RunProgress(CONSOLE, RUN, 0.0)  # type: ignore[arg-type]
        return self._follow(RUN, progress)  # type: ignore[arg-type]


def test_while_jobs_run_it_looks_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = Wheel(
        monkeypatch,
        (None, None),
        ("running", task("label", "running")),
        ("running", task("customize", "running")),
        ("running", task("score", "running")),
        ("success", task("promote", "success")),
    )
    assert wheel.follow() == "success"
    often, seldom = up.POLL_SECONDS, up.JOBS_POLL_SECONDS
    assert wheel.slept == [often, often, often, seldom, often]
    assert seldom > often


def test_what_a_run_does_not_wait_for_is_started_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = Wheel(monkeypatch, *[("running", task("customize", "running"))] * 9, ("failed", None))
    assert wheel.follow() == "failed"
    assert wheel.rest_after == [10]


@pytest.mark.parametrize("state", ["deferred", "awaiting_input"])
def test_it_is_started_once_where_a_task_waits(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    waits = ("running", task("review", state))
    wheel = Wheel(monkeypatch, ("running", task("score", "running")), waits, waits, ("success", None))
    wheel.follow()
    assert wheel.rest_after == [2]


def test_it_is_started_in_time_beside_a_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "REST_SECONDS", 20.0)
    wheel = Wheel(monkeypatch, *[("running", task("customize", "running"))] * 30, ("success", None))
    wheel.follow()
    assert len(wheel.rest_after) == 1 and wheel.rest_after[0] < 30
