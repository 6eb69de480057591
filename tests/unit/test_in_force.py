"""Which champion was in force at which time: stretches without a gap, each with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.promotion.champion import Champion
from flywheel.promotion.in_force import NOTHING_YET, in_force
from flywheel.promotion.timeline import Entry, Timeline

DAY = 86_400


@pytest.fixture
def line(tmp_path: Path) -> Timeline:
    return Timeline(ArtifactRoot(str(tmp_path)), "news_classifier", "desk")


def champion(adapter: str, cutoff: int) -> Champion:
    return Champion.model_validate(
        {
            "workload_id": "news_classifier",
            "client_id": "desk",
            "student": adapter,
            "model_name": "m",
            "weights": "m",
            "size": 5,
            "parameters": 1,
            "adapter": adapter,
            "adapter_path": f"adapters/{adapter}",
            "dataset": None,
            "evaluation": None,
            "metric": "f1_weighted",
            "score": 0.9,
            "score_ci95": None,
            "run_id": f"run-{adapter}",
            "cutoff": cutoff,
            "promoted_at": "2019-03-01T00:00:00+00:00",
            "reason": "best",
        }
    )


def night(
    line: Timeline, day: int, decision: str, standing: str | None, before: str | None, **more: Any
) -> None:
    at = day * DAY
    entry = {
        "at": at,
        "kind": "night",
        "run_id": f"run-{day}",
        "decision": decision,
        "reason": f"{decision} on day {day}.",
        "champion": champion(standing, more.pop("cutoff", at)) if standing else None,
        "before": before,
        "written_at": f"2019-03-01T00:00:{day:02}+00:00",
        **more,
    }
    line.write(Entry.model_validate(entry))


def test_without_a_night_the_teacher_is_all_there_was(line: Timeline) -> None:
    (only,) = in_force(line)
    assert (only.since, only.until, only.champion, only.reason) == (None, None, None, NOTHING_YET)


def test_stretches_have_no_gap_and_say_who_why_and_what_changed_nothing(line: Timeline) -> None:
    night(line, 2, "none", None, None)
    night(line, 3, "promoted", "a", None)
    night(line, 4, "held", "a", "a")
    night(line, 5, "none", "a", "a")
    night(line, 6, "held", "a", "a")
    night(line, 7, "promoted", "b", "a")
    night(line, 8, "rolled back", "a", "b", kind="person", by="Ada", cutoff=3 * DAY, sequence=4)
    found = in_force(line, now=10 * DAY)
    assert [(one.since, one.until, one.champion and one.champion.adapter) for one in found] == [
        (None, 2 * DAY, None),
        (2 * DAY, 3 * DAY, None),
        (3 * DAY, 7 * DAY, "a"),
        (7 * DAY, 8 * DAY, "b"),
        (8 * DAY, None, "a"),
    ]
    none, held, back = found[1], found[2], found[4]
    assert none.reason == "none on day 2."
    assert held.unchanged == {"held": 2, "none": 1}
    assert held.last == "1970-01-07 00:00: held on day 6."
    assert (back.by, back.kind) == ("Ada", "person")
    assert all(one.in_line for one in found)


def test_how_far_a_champion_lay_behind_grows_until_the_next_or_now(line: Timeline) -> None:
    night(line, 3, "promoted", "a", None)
    night(line, 7, "promoted", "b", "a")
    assert [one.behind for one in in_force(line, now=12 * DAY)] == [None, 4 * DAY, 5 * DAY]


def test_the_champion_of_a_stretch_is_that_of_the_timeline_at_each_of_its_times(line: Timeline) -> None:
    night(line, 3, "promoted", "a", None)
    night(line, 5, "kept", "a", "a")
    night(line, 7, "promoted", "b", "a")
    for stretch in in_force(line, now=9 * DAY):
        inside = [(stretch.since or 0) + 1, stretch.until or 9 * DAY]
        assert {one and one.adapter for one in map(line.champion_at, inside)} == {
            stretch.champion and stretch.champion.adapter
        }


def test_a_night_compared_with_another_champion_is_told(line: Timeline) -> None:
    night(line, 3, "promoted", "a", None)
    night(line, 7, "promoted", "c", "b")
    late = in_force(line, now=9 * DAY)[-1]
    assert not late.in_line
    assert "backfill it anew" in late.lines()[-1]


def test_words_name_times_champion_person_and_what_it_had_not_seen(line: Timeline) -> None:
    night(line, 3, "promoted", "a", None, kind="person", by="Ada", sequence=1)
    night(line, 4, "held", "a", "a")
    first, last = in_force(line, now=9 * DAY)
    assert first.lines() == ["the beginning to 1970-01-04 00:00  the teacher", f"    {NOTHING_YET}"]
    assert last.lines() == [
        "1970-01-04 00:00 to now  a @ 5 of run run-a (knows until 1970-01-04 00:00, 6.0 days before the end), by Ada",
        "    promoted on day 3.",
        "    1 decision changed nothing (held 1): 1970-01-05 00:00: held on day 4.",
    ]
