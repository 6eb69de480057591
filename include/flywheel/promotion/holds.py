"""A person's word about production, which no automatic promotion undoes.

Who rolls a champion back, or rejects a candidate in its review, has judged what the records of that night
gave. The same records give the same adapter again, so until there are enough others, nights only report. The
word is part of the champion's state, and so of each decision there was: see flywheel.promotion.transitions.

A person who promotes something else lifts the hold, and has not changed the word about what was turned down:
that very adapter is not promoted by itself again, until a person promotes it or lifts the hold as such. A
night in the past is held back by what held at its cutoff, whatever became of it since.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from flywheel.artifacts.root import ArtifactRoot
from flywheel.curation.seen import dataset_ids

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
