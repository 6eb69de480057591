"""A person's word about production, which no automatic promotion undoes.

Who rolls a champion back, or rejects a candidate in its review, has judged what the records of that night
gave. The same records give the same adapter again, so until there are enough others, nights only report:

    champions/<workload>/<client>/hold.json      the word that holds; gone when it was lifted
    champions/<workload>/<client>/holds/<time>-<of>.json      each word there was, and when and how it ended

A person who promotes something else lifts the hold, and has not changed the word about what was turned down:
that very adapter is not promoted by itself again, until a person promotes it or lifts the hold as such. A
night in the past is held back by what held at its cutoff, whatever became of it since.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from flywheel.artifacts import ArtifactRoot
from flywheel.champion import champion_folder
from flywheel.curation.seen import dataset_ids
from flywheel.errors import ArtifactError

log = logging.getLogger(__name__)

# Who has answered a review that nobody answered in time: that is no person's word.
NOBODY = "nobody in time"


class Hold(BaseModel):
    """A person's word that holds against automatic promotions.

    Attributes:
        dataset: key of the dataset that what was turned down had learned from; None: not known.
        adapter: what was turned down.
        by: the person's name; empty: not known.
        at: ISO 8601, UTC.
        why: rolled back: it was in production. rejected: it was proposed.
        comment: of the person.
        ended: how: lifted by a person as such, replaced by a later word, or a promotion by whomever; empty
            while it holds. `ended_at`: when.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    workload_id: str
    client_id: str
    dataset: str | None
    adapter: str
    by: str
    at: str
    why: Literal["rolled back", "rejected"]
    comment: str = ""
    ended: Literal["", "lifted", "replaced", "promotion"] = ""
    ended_at: str = ""

    @property
    def name(self) -> str:
        """The name of its file among all there were."""
        digits = hashlib.sha256(f"{self.adapter} {self.why}".encode()).hexdigest()[:12]
        return f"{_seconds(self.at):012d}-{digits}.json"

    def sentence(self, share: float) -> str:
        """Say who decided what and when, and how the hold ends.

        Args:
            share: of a night's records that must be new.
        """
        said = f" ({self.comment})" if self.comment else ""
        what = "rolled a champion back" if self.why == "rolled back" else "rejected a candidate"
        when = f"{self.at[:16].replace('T', ' ')} UTC"
        if self.ended:
            return (
                f"A person's word holds: {self.by or 'somebody'} {what} at {when}{said}, and it is the same "
                "one again. It is not promoted by itself until a person promotes it or lifts the hold "
                "(DELETE /api/champion/hold, or flywheel hold lift)."
            )
        return (
            f"A person's word holds: {self.by or 'somebody'} {what} at {when}{said}. Nothing is promoted by "
            f"itself until {share:.0%} of a night's records are others than then, a person promotes, or the "
            "hold is lifted (DELETE /api/champion/hold, or flywheel hold lift)."
        )


def place_hold(
    root: ArtifactRoot,
    workload_id: str,
    client_id: str,
    *,
    dataset: str | None,
    adapter: str,
    by: str,
    why: Literal["rolled back", "rejected"],
    comment: str = "",
) -> Hold:
    """Hold automatic promotions back, in place of an earlier hold; the same word again changes nothing."""
    standing = read_hold(root, workload_id, client_id)
    hold = Hold(
        workload_id=workload_id,
        client_id=client_id,
        dataset=dataset,
        adapter=adapter,
        by=by,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        why=why,
        comment=comment,
    )
    if standing is not None:
        if standing.model_copy(update={"at": hold.at}) == hold:
            return standing
        if why == standing.why == "rolled back":
            # Rolling back further goes to older data: what the first roll-back judged is still turned down.
            hold = hold.model_copy(update={"dataset": standing.dataset})
        _keep(root, standing, "replaced", hold.at)
    root.write_json(_path(workload_id, client_id), hold.model_dump(mode="json"))
    _keep(root, hold)
    return hold


def read_hold(root: ArtifactRoot, workload_id: str, client_id: str) -> Hold | None:
    """Return the hold that was placed last and not lifted; None: there is none.

    Raises:
        ArtifactError: its file is damaged.
    """
    path = _path(workload_id, client_id)
    return _read(root, path) if root.exists(path) else None


def lift_hold(root: ArtifactRoot, workload_id: str, client_id: str, promoted: str | None = None) -> bool:
    """Let automatic promotions go on; return whether anything was held back.

    Args:
        promoted: an adapter that was put into production, which ends the hold; what was turned down stays
            so, unless it is this one. None: a person lifts the hold as such, and all that was turned down.
    """
    path, now = _path(workload_id, client_id), datetime.now(UTC).isoformat(timespec="seconds")
    standing = read_hold(root, workload_id, client_id) if root.exists(path) else None
    if standing is not None:
        _keep(root, standing, "promotion", now)
    found = standing is not None
    for hold in holds_there_were(root, workload_id, client_id):
        if hold.ended != "lifted" and promoted in (None, hold.adapter):
            _keep(root, hold, "lifted", now if hold.ended in ("", "promotion") else hold.ended_at)
            found = True
    if standing is not None:
        root.discard(path)
        log.info("the hold on %s of %s is lifted", workload_id, client_id)
    return found


def holds_there_were(root: ArtifactRoot, workload_id: str, client_id: str) -> list[Hold]:
    """Return all words of persons, oldest first.

    Raises:
        ArtifactError: a file is damaged.
    """
    folder = _folder(workload_id, client_id)
    names = sorted(name for name in root.list(folder) if name.endswith(".json"))
    return [_read(root, f"{folder}/{name}") for name in names]


def hold_at(root: ArtifactRoot, workload_id: str, client_id: str, at: int) -> Hold | None:
    """Return the hold that was in force at a time, as it was then; None: there was none.

    Args:
        at: unix seconds.
    """
    there = holds_there_were(root, workload_id, client_id)
    standing = read_hold(root, workload_id, client_id)
    if standing is not None and standing.name not in [hold.name for hold in there]:
        there.append(standing)  # placed by a version that kept no others
    then = [
        hold
        for hold in there
        if _seconds(hold.at) <= at and (not hold.ended_at or _seconds(hold.ended_at) > at)
    ]
    return then[-1].model_copy(update={"ended": "", "ended_at": ""}) if then else None


def stay_turned_down(root: ArtifactRoot, workload_id: str, client_id: str) -> list[Hold]:
    """Return the words that still turn an adapter down after their hold has ended, oldest first."""
    latest = {hold.adapter: hold for hold in holds_there_were(root, workload_id, client_id)}
    return [hold for hold in latest.values() if hold.ended in ("promotion", "replaced")]


def turned_down(
    root: ArtifactRoot, workload_id: str, client_id: str, adapter: str, at: int | None = None
) -> Hold | None:
    """Return the word of a person who turned an adapter down, and that nobody has taken back since.

    Args:
        at: unix seconds: what was said until then counts; None: all.
    """
    for hold in reversed(holds_there_were(root, workload_id, client_id)):
        if hold.adapter != adapter or (at is not None and _seconds(hold.at) > at):
            continue
        is_lifted = hold.ended == "lifted" and (at is None or _seconds(hold.ended_at) <= at)
        return None if is_lifted else hold.model_copy(update={"ended": hold.ended or "replaced"})
    return None


def holds_back(root: ArtifactRoot, hold: Hold, dataset: str | None, share: float) -> bool:
    """Return whether a hold is still in force for what a dataset gave.

    Args:
        dataset: key of tonight's dataset.
        share: it ends where at least this share of tonight's records was not in the held dataset. Where one
            of the two datasets is not there, only a person ends it.
    """
    for key in (hold.dataset, dataset):
        if key is None or not root.find("datasets", key):
            return True
    assert hold.dataset is not None and dataset is not None
    tonight = dataset_ids(root, dataset)
    new = tonight - dataset_ids(root, hold.dataset)
    return len(new) < share * len(tonight)


def _read(root: ArtifactRoot, path: str) -> Hold:
    try:
        return Hold.model_validate(root.read_json(path))
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        raise ArtifactError(f"{root.url}/{path}: not a hold: {key}: {detail['msg']}; remove it") from None


def _keep(
    root: ArtifactRoot,
    hold: Hold,
    ended: Literal["", "lifted", "replaced", "promotion"] = "",
    ended_at: str = "",
) -> None:
    """Write a hold among all there were."""
    kept = hold.model_copy(update={"ended": ended, "ended_at": ended_at})
    root.write_json(f"{_folder(hold.workload_id, hold.client_id)}/{hold.name}", kept.model_dump(mode="json"))


def _folder(workload_id: str, client_id: str) -> str:
    return f"{champion_folder(workload_id, client_id)}/holds"


def _seconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp())


def _path(workload_id: str, client_id: str) -> str:
    return f"{champion_folder(workload_id, client_id)}/hold.json"
