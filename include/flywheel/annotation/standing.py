"""Which champion answers: the one in force, or the one that was at a time, with what it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ConfigError, FlywheelError
from flywheel.common.utc import to_minute
from flywheel.config.student import Student
from flywheel.promotion.champion import Champion, champion_folder, read_champion
from flywheel.promotion.timeline import Timeline
from flywheel.serving.sources import Sources
from flywheel.serving.student import Source


class NoChampionError(FlywheelError):
    """There is no champion to ask; the message says what to do."""


@dataclass(frozen=True)
class Standing:
    """A champion, verified and not loaded.

    Attributes:
        champion: as it was promoted, or would have been.
        source: what it is made of.
        as_of: unix seconds of the time that it was asked for; None: now.
    """

    champion: Champion
    source: Source
    as_of: int | None = None


def standing_champion(
    root: ArtifactRoot,
    workload_id: str,
    client_id: str,
    as_of: int | None = None,
    *,
    students: Sequence[Student] = (),
    weights: str = "",
) -> Standing:
    """Find a champion that classifies, and verify all that it is made of.

    Args:
        as_of: unix seconds: the one that the last decision strictly before it put in force, by the timeline
            (flywheel.promotion.timeline); None: the one in force now.
        students: those of a config, which know how long a prompt may be.
        weights: where its base weights are on this machine; empty: as it was trained.

    Raises:
        NoChampionError: there is none, or it writes free texts or calls.
        ArtifactError: it is damaged or gone; the message names the file and the mend.
    """
    if as_of is None:
        champion = read_champion(root, workload_id, client_id)
    else:
        champion = Timeline(root, workload_id, client_id).champion_at(as_of)
    if champion is None:
        raise NoChampionError(_none(root, workload_id, client_id, as_of))
    sources = Sources(root, students, weights=weights)
    source = sources.in_force(champion) if as_of is None else sources.then(champion)
    if not source.classifies:
        raise NoChampionError(
            f"{champion.name}, the champion of {workload_id}, is judged by {champion.metric}: it writes free "
            "texts or calls, which have no class; ask it at the endpoint (`flywheel serve`, docs/serving.md)"
        )
    return Standing(champion, source, as_of)


def moment_of(as_of: str | date | datetime | float | None) -> int | None:
    """Return a time in unix seconds.

    A date stands for its beginning: who labels a day's texts may use what was decided before that day. A time
    without a zone is UTC.

    Raises:
        ConfigError: it is no time.
    """
    if as_of is None:
        return None
    if isinstance(as_of, int | float):
        return int(as_of)
    found: date | datetime = as_of if isinstance(as_of, date) else _read(as_of)
    if not isinstance(found, datetime):
        found = datetime.combine(found, time())
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def _read(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ConfigError(
            f"as_of: expected a date or a time such as 2019-03-01 or 2019-03-01T08:00+01:00, got {text!r}"
        ) from None


def _none(root: ArtifactRoot, workload_id: str, client_id: str, as_of: int | None) -> str:
    """Say why there is no champion, and what to do."""
    whose = f"{workload_id} of client {client_id}"
    if as_of is not None:
        when = to_minute(as_of)
        line = Timeline(root, workload_id, client_id)
        entry = line.entry_before(as_of)
        if entry is not None:
            return f"{whose} had no champion before {when} UTC, the teacher was in production: {entry.reason}"
        names = line.names()
        first = f"its first night is of {_day(names[0])}" if names else "no night has decided anything"
        return (
            f"{whose} had no champion before {when} UTC: {first} in {root.url}; backfill the nights before "
            "(docs/timeline.md), or ask for a later time"
        )
    others = [
        f"{champion.workload_id} of client {champion.client_id}"
        for workload in root.list("champions")
        for client in root.list(f"champions/{workload}")
        if (champion := _seen(root, f"champions/{workload}/{client}")) is not None
    ]
    there = f"; there is one of {', '.join(sorted(others))}" if others else ""
    return (
        f"{whose} has no champion yet in {root.url}/{champion_folder(workload_id, client_id)}: a run of "
        f"the DAG (`make run` on a laptop) or `flywheel promote RUN` puts one into production{there}"
    )


def _seen(root: ArtifactRoot, folder: str) -> Champion | None:
    try:
        return Champion.model_validate(root.read_json(f"{folder}/champion.json"))
    except (FlywheelError, ValueError, OSError):
        return None


def _day(name: str) -> str:
    return datetime.fromtimestamp(int(name[:12]), UTC).strftime("%Y-%m-%d")
