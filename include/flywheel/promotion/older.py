"""Champions as flywheels of before wrote them, whose order was that of a clock, as numbered decisions.

    champions/<workload>/<client>/history/<when>-<adapter>.json     each champion there was
    champions/<workload>/<client>/hold.json, holds/<time>-<of>.json     words of persons, with their ends

These files stay as they are and are read no more. What is made of them is the same each time, so that an
upgrade which was killed goes on where it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from flywheel.artifacts.create_once import create_once
from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.common.errors import ArtifactError
from flywheel.promotion.champion import VIEW, Champion, Decision, decision_name, seconds
from flywheel.promotion.holds import Hold
from flywheel.promotion.transitions import complete

_LEFT_BY_A_KILL = re.compile(r".*\.json\.[0-9a-f]{8}")
_BY = re.compile(r"(Rolled back|Promoted) by (.*?)(?: from .*|\.)", re.DOTALL)
# A roll-back wrote its hold first, and its champion after that, one second after the other's at the least.
_ROLL_BACK_SECONDS = 5
Kind = TypeVar("Kind", bound=BaseModel)


def number_decisions(root: ArtifactRoot, folder: str) -> int:
    """Write what is in an older champion's folder as decisions; return how many were not there.

    Args:
        folder: relative to the root.

    Raises:
        ArtifactError: a file is damaged; the message says what to do.
    """
    made = list(_decisions(root, folder))
    written = 0
    for decision in made:
        data = orjson.dumps(decision.model_dump(mode="json"), option=orjson.OPT_INDENT_2)
        written += create_once(root, f"{folder}/{decision_name(decision.sequence)}", data)
        if not root.exists(f"{folder}/{decision_name(decision.sequence, 'kept')}"):
            root.write_bytes(f"{folder}/{decision_name(decision.sequence, 'kept')}", data)
    for inside in ("history", "holds"):
        for name in root.list(f"{folder}/{inside}"):
            if _LEFT_BY_A_KILL.fullmatch(name):
                root.discard(f"{folder}/{inside}/{name}")
    if made and made[-1].champion is not None:
        complete(root, made[-1].champion.workload_id, made[-1].champion.client_id, made[-1])
    return written


def _decisions(root: ArtifactRoot, folder: str) -> Iterator[Decision]:
    """Yield the decisions that older files tell of, in order, each with the state after it."""
    champions = [_read(root, path, Champion) for path in _files(root, f"{folder}/history")]
    if root.exists(f"{folder}/{VIEW}"):
        in_force = _read(root, f"{folder}/{VIEW}", Champion)
        if not champions or champions[-1] != in_force:  # by a kill, or by a clock that was put back
            champions = [*(one for one in champions if one != in_force), in_force]
    holds = _holds(root, folder, champions)
    changes = sorted(
        {seconds(moment): moment for hold in holds for moment in (hold.at, hold.ended_at) if moment}.items()
    )
    standing: Champion | None = None
    last: Decision | None = None

    def decided(champion: Champion | None, moment: str, is_change: bool) -> Decision:
        at = moment if last is None or seconds(last.at) <= seconds(moment) else last.at
        hold, words = _words_at(holds, seconds(at))
        said = _BY.fullmatch(champion.reason) if champion and is_change else None
        placed = hold is not None and seconds(hold.at) == seconds(at)
        kind = ("rolled back" if said and said[1] == "Rolled back" else "promoted") if is_change else None
        return Decision(
            sequence=last.sequence + 1 if last else 1,
            id=key_of("older", last.sequence if last else 0),
            kind=kind or ("rejected" if placed else "lifted"),
            by=said[2] if said else (hold.by if hold and placed and not is_change else ""),
            at=at,
            champion=champion,
            replaced=standing.adapter if standing else None,
            hold=hold,
            turned_down=tuple(words),
            previous=last.digest if last else "",
        ).sealed()

    for champion in champions:
        while changes and changes[0][0] <= seconds(champion.promoted_at):
            when, moment = changes.pop(0)
            if when < seconds(champion.promoted_at):
                last = decided(standing, moment, is_change=False)
                yield last
        last = decided(champion, champion.promoted_at, is_change=True)
        standing = champion
        yield last
    for _, moment in changes:
        last = decided(standing, moment, is_change=False)
        yield last


def _holds(root: ArtifactRoot, folder: str, champions: list[Champion]) -> list[Hold]:
    """Return all words there were, oldest first; that of a roll-back at the time of its champion."""
    holds = [_read(root, path, Hold) for path in _files(root, f"{folder}/holds")]
    if root.exists(f"{folder}/hold.json"):
        standing = _read(root, f"{folder}/hold.json", Hold)
        if not any((hold.at, hold.adapter) == (standing.at, standing.adapter) for hold in holds):
            holds.append(standing)
    back = [one.promoted_at for one in champions if one.reason.startswith("Rolled back by ")]
    for index, hold in enumerate(holds):
        for moment in back if hold.why == "rolled back" else ():
            if 0 <= seconds(moment) - seconds(hold.at) <= _ROLL_BACK_SECONDS:
                holds[index] = hold.model_copy(update={"at": moment})
                break
    return sorted(holds, key=lambda hold: seconds(hold.at))


def _words_at(holds: list[Hold], at: int) -> tuple[Hold | None, list[Hold]]:
    """Return the hold that was in force at a time, and the words that turned an adapter down without one."""
    said = [hold for hold in holds if seconds(hold.at) <= at]
    in_force = [hold for hold in said if not hold.ended_at or seconds(hold.ended_at) > at]
    standing = in_force[-1].model_copy(update={"ended": "", "ended_at": ""}) if in_force else None
    latest = {hold.adapter: hold for hold in said}
    words = [
        hold
        for hold in latest.values()
        if hold.ended in ("promotion", "replaced")
        and seconds(hold.ended_at) <= at
        and (standing is None or standing.adapter != hold.adapter)
    ]
    return standing, words


def _files(root: ArtifactRoot, folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in root.list(folder) if name.endswith(".json")]


def _read(root: ArtifactRoot, path: str, kind: type[Kind]) -> Kind:
    """Return the content of an older file."""
    what_to_do = (
        "put it back from a backup of the artifact root, or remove it, which forgets what it said; then "
        "`flywheel champion restore`"
    )
    try:
        return kind.model_validate(root.read_json(path))
    except ArtifactError as error:
        raise ArtifactError(f"{error}; {what_to_do}") from None
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        raise ArtifactError(
            f"{root.url}/{path}: damaged, of an older flywheel: {key}: {detail['msg']}; {what_to_do}"
        ) from None
