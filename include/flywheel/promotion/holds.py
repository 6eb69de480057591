"""A person's word about production, which no automatic promotion undoes.

Who rolls a champion back, or rejects a candidate in its review, has judged what the records of that night
gave. The same records give the same adapter again, so until there are enough others, nights only report:

    champions/<workload>/<client>/hold.json      the word that holds; gone when it was lifted
"""

from __future__ import annotations

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

    def sentence(self, share: float) -> str:
        """Say who decided what and when, and how the hold ends.

        Args:
            share: of a night's records that must be new.
        """
        said = f" ({self.comment})" if self.comment else ""
        what = "rolled a champion back" if self.why == "rolled back" else "rejected a candidate"
        when = f"{self.at[:16].replace('T', ' ')} UTC"
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
    root.write_json(_path(workload_id, client_id), hold.model_dump(mode="json"))
    return hold


def read_hold(root: ArtifactRoot, workload_id: str, client_id: str) -> Hold | None:
    """Return the hold that was placed last and not lifted; None: there is none.

    Raises:
        ArtifactError: its file is damaged.
    """
    path = _path(workload_id, client_id)
    if not root.exists(path):
        return None
    try:
        return Hold.model_validate(root.read_json(path))
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        raise ArtifactError(f"{root.url}/{path}: not a hold: {key}: {detail['msg']}; remove it") from None


def lift_hold(root: ArtifactRoot, workload_id: str, client_id: str) -> bool:
    """Let automatic promotions go on; return whether there was a hold."""
    path = _path(workload_id, client_id)
    if not root.exists(path):
        return False
    root.discard(path)
    log.info("the hold on %s of %s is lifted", workload_id, client_id)
    return True


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


def _path(workload_id: str, client_id: str) -> str:
    return f"{champion_folder(workload_id, client_id)}/hold.json"
