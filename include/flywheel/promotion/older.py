"""Champions as flywheels of before wrote them, whose order was that of a clock, as numbered decisions.

    champions/<workload>/<client>/history/<when>-<adapter>.json     each champion there was

These files stay as they are and are read no more. What is made of them is the same each time, so that an
upgrade which was killed goes on where it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson
from pydantic import ValidationError

from flywheel.artifacts.create_once import create_once
from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.common.errors import ArtifactError
from flywheel.promotion.champion import VIEW, Champion, Decision, decision_name, seconds
from flywheel.promotion.transitions import complete

_LEFT_BY_A_KILL = re.compile(r".*\.json\.[0-9a-f]{8}")
_BY = re.compile(r"(Rolled back|Promoted) by (.*?)(?: from .*|\.)", re.DOTALL)


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
    for name in root.list(f"{folder}/history"):
        if _LEFT_BY_A_KILL.fullmatch(name):
            root.discard(f"{folder}/history/{name}")
    if made and made[-1].champion is not None:
        complete(root, made[-1].champion.workload_id, made[-1].champion.client_id, made[-1])
    return written


def _decisions(root: ArtifactRoot, folder: str) -> Iterator[Decision]:
    """Yield the decisions that older files tell of, in order, each with the state after it."""
    champions = [_read(root, path) for path in _files(root, f"{folder}/history")]
    if root.exists(f"{folder}/{VIEW}"):
        in_force = _read(root, f"{folder}/{VIEW}")
        if not champions or champions[-1] != in_force:  # by a kill, or by a clock that was put back
            champions = [*(one for one in champions if one != in_force), in_force]
    last: Decision | None = None
    for champion in champions:
        moment = champion.promoted_at
        said = _BY.fullmatch(champion.reason)
        last = Decision(
            sequence=last.sequence + 1 if last else 1,
            id=key_of("older", last.sequence if last else 0),
            kind="rolled back" if said and said[1] == "Rolled back" else "promoted",
            by=said[2] if said else "",
            at=moment if last is None or seconds(last.at) <= seconds(moment) else last.at,
            champion=champion,
            replaced=last.champion.adapter if last and last.champion else None,
            hold=None,
            turned_down=(),
            previous=last.digest if last else "",
        ).sealed()
        yield last


def _files(root: ArtifactRoot, folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in root.list(folder) if name.endswith(".json")]


def _read(root: ArtifactRoot, path: str) -> Champion:
    """Return the champion in an older file."""
    what_to_do = (
        "put it back from a backup of the artifact root, or remove it, which forgets what it said; then "
        "`flywheel champion restore`"
    )
    try:
        return Champion.model_validate(root.read_json(path))
    except ArtifactError as error:
        raise ArtifactError(f"{error}; {what_to_do}") from None
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        raise ArtifactError(
            f"{root.url}/{path}: damaged, of an older flywheel: {key}: {detail['msg']}; {what_to_do}"
        ) from None
