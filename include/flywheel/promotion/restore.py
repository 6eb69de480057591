"""Put damaged decisions on a champion back from their copies: `flywheel champion restore`.

Nothing else ever changes a decision. One of which neither file is whole is given up only at a person's word:
then an entry of kind `lost` takes its number, with the state of the decision before it.
"""

from __future__ import annotations

from datetime import UTC, datetime

import orjson

from flywheel.artifacts.create_once import create_once
from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, FlywheelError
from flywheel.promotion.champion import (
    VIEW,
    Decision,
    champion_folder,
    decision_name,
    read_champion,
    read_decision,
    read_state,
)
from flywheel.promotion.older import number_decisions
from flywheel.promotion.timeline import enter_person
from flywheel.promotion.transitions import Draft, complete, decide, registered, sealed
from flywheel.promotion.whole import load_champion, make_whole_again
from flywheel.runs.run import open_run


def restore(
    root: ArtifactRoot, workload_id: str, client_id: str, *, give_up: bool = False, by: str = ""
) -> list[str]:
    """Put what is damaged or missing back; return what was done, in sentences.

    Args:
        give_up: of a decision that has no whole copy, go on with the state before it.
        by: the person who gives it up.

    Raises:
        ArtifactError: a decision has no whole copy; the message says what to do.
    """
    folder, done = champion_folder(workload_id, client_id), []
    last = max(_numbers(root, folder), default=0)
    if not last:
        written = number_decisions(root, folder)
        if not written:
            return []
        done.append(f"{root.url}/{folder}: {written} decisions of an older flywheel have numbers now")
    before: Decision | None = None
    for number, whole in enumerate(_whole_ones(root, workload_id, client_id, last), 1):
        path, copy = f"{folder}/{decision_name(number)}", f"{folder}/{decision_name(number, 'kept')}"
        said = "put back from its copy"
        if whole is None and not give_up:
            raise ArtifactError(
                f"{root.url}/{path}: damaged or missing, and so is its copy in {folder}/kept; put one of "
                "them back from a backup of the artifact root, or go on with the state before it: "
                "`flywheel champion restore --give-up`"
            )
        if whole is None:
            there = before or Decision(sequence=1, id="", kind="lost", at=_now(), champion=None)
            lost = Draft("lost", there.champion, there.hold, there.turned_down)
            whole, said = sealed(before, lost, by, ""), "given up: the state before it goes on"
        if _read(root, workload_id, client_id, number, "decisions") != whole:
            _replace(root, path, whole)
            done.append(f"{root.url}/{path}: {said}")
        if _read(root, workload_id, client_id, number, "kept") != whole:
            root.write_json(copy, whole.model_dump(mode="json"))
            done.append(f"{root.url}/{copy}: written again")
        if whole.champion is not None and whole.changed_champion and whole.by and not whole.task:
            enter_person(root, whole)
        before = whole
    complete(root, workload_id, client_id, read_state(root, workload_id, client_id))
    return done + _make_whole(root, workload_id, client_id, by)


def _make_whole(root: ArtifactRoot, workload_id: str, client_id: str, by: str) -> list[str]:
    """Make the champion in force whole where its copy is damaged, or was never made."""
    champion = read_champion(root, workload_id, client_id)
    if champion is None:
        return []
    said = f"{champion.name} of run {champion.run_id}"
    try:
        plan = open_run(root.url, champion.run_id).plan
    except FlywheelError:
        if champion.whole is None:
            return []  # `load_champion` says what it lacks
        try:
            load_champion(root, workload_id, client_id)
        except ArtifactError as error:
            reason = str(error).partition("; ")[0]
            raise ArtifactError(
                f"{reason}; {said}: its run is gone, too: put the copy back from a backup of the artifact "
                "root, or promote another candidate"
            ) from None
        return []
    made = make_whole_again(root, champion, plan)
    if made is None:
        return []
    decide(root, workload_id, client_id, lambda state: registered(state, made), by=by)
    return [f"{said} is whole again: {made.whole.path if made.whole else ''}"]


def _numbers(root: ArtifactRoot, folder: str) -> set[int]:
    """Return the numbers of all decisions that any file tells of."""
    found = {
        int(name[:10])
        for inside in ("decisions", "kept")
        for name in root.list(f"{folder}/{inside}")
        if name.endswith(".json") and name[:10].isdigit()
    }
    if root.exists(f"{folder}/{VIEW}"):
        try:
            shown = root.read_json(f"{folder}/{VIEW}").get("sequence")
        except (ArtifactError, AttributeError):
            shown = None
        found |= {shown} if isinstance(shown, int) else set()
    return found


def _whole_ones(root: ArtifactRoot, workload_id: str, client_id: str, last: int) -> list[Decision | None]:
    """Return of each number the decision that is whole and that the next one followed; None: none is."""
    found: list[Decision | None] = []
    expected: str | None = None
    for number in range(last, 0, -1):
        either = [_read(root, workload_id, client_id, number, inside) for inside in ("decisions", "kept")]
        fits = [one for one in either if one and (expected in (None, one.digest) or one.kind == "lost")]
        found.append(fits[0] if fits else None)
        expected = fits[0].previous if fits else None
    return found[::-1]


def _read(root: ArtifactRoot, workload_id: str, client_id: str, number: int, inside: str) -> Decision | None:
    try:
        return read_decision(root, workload_id, client_id, number, inside)
    except ArtifactError:
        return None


def _replace(root: ArtifactRoot, path: str, decision: Decision) -> None:
    """Put a decision in the place of a damaged one, which is kept beside the decisions."""
    if root.exists(path):
        damaged = f"{path.replace('/decisions/', '/damaged/')}.{datetime.now(UTC):%Y%m%dT%H%M%S}"
        root.write_bytes(damaged, root.read_bytes(path))
        root.discard(path)
    create_once(root, path, orjson.dumps(decision.model_dump(mode="json"), option=orjson.OPT_INDENT_2))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
