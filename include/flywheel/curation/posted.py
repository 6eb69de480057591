"""What somebody posted beside what the teacher or an application labelled: it trains, and examines nobody.

Anybody who may post could choose what students are examined on otherwise. Where a client has other records,
these alone are split; what was posted comes behind them in training, so that it takes no other's place. Of a
client that has none but posted ones, all are split as any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flywheel.config.schema import DataSplitConfig
from flywheel.curation.result import Conflict
from flywheel.curation.samples import Samples
from flywheel.curation.splits import Split, split
from flywheel.workloads.records import STRENGTH

_POSTED = STRENGTH.index("posted")


def examinable(samples: Samples) -> int:
    """Return the number of records that may be in the eval set."""
    others = int((samples.labelled_by != _POSTED).sum())
    return others or len(samples.ids)


def split_samples(samples: Samples, config: DataSplitConfig) -> Split:
    """Split records; posted ones beside others are in training alone.

    Of these, reports of an event that reaches into another part stay out, and in a temporal split what was
    known after the last of the others in training.
    """
    others = np.flatnonzero(samples.labelled_by != _POSTED)
    posted = np.flatnonzero(samples.labelled_by == _POSTED)
    if not len(others) or not len(posted):
        return split(samples.labels, samples.names, samples.hashes, samples.known_at, samples.events, config)
    _, first, event = np.unique(samples.events[others], return_index=True, return_inverse=True)
    parts = split(
        samples.labels[others],
        samples.names,
        samples.hashes[others],
        samples.known_at[others],
        first[event],
        config,
    )
    train, val, calibration, held, left_out = (
        others[places] for places in (parts.train, parts.val, parts.calibration, parts.eval, parts.left_out)
    )
    elsewhere = np.concatenate([val, calibration, held, left_out])
    fits = ~np.isin(samples.events[posted], samples.events[elsewhere])
    if config.split == "temporal":
        fits &= samples.known_at[posted] <= (int(samples.known_at[train].max()) if len(train) else -1)
    behind = posted[fits]
    behind = behind[np.argsort(samples.hashes[behind], kind="stable")]
    note = f"{len(behind):,} posted records come last in training, and none is in another part"
    return replace(
        parts,
        train=np.concatenate([train, behind]),
        val=val,
        calibration=calibration,
        eval=held,
        left_out=np.sort(np.concatenate([left_out, posted[~fits]])),
        notes=(*parts.notes, note),
    )


def conflicts_of(samples: Samples) -> list[Conflict]:
    """Return the first of the records that are left out for one of the same text with another label."""
    return [
        Conflict(
            kept=pair.kept,
            kept_label=pair.kept_label,
            kept_by=STRENGTH[pair.kept_by],
            other=pair.other,
            other_label=pair.other_label,
            other_by=STRENGTH[pair.other_by],
        )
        for pair in samples.conflict_examples
    ]


def conflict_notes(count: int, conflicts: Sequence[Conflict]) -> list[str]:
    """Return what the user should know of them, in a sentence."""
    if not count:
        return []
    first = conflicts[0]
    return [
        f"{count:,} records stay out, as another of the same text has another label and comes first or is "
        f"the stronger word, such as {first.other_label!r:.80} ({first.other_by}) for "
        f"{first.kept_label!r:.80} ({first.kept_by}), record {first.kept}"
    ]
