"""What a dataset is made of: summary.json."""

from __future__ import annotations

from typing import Any

import numpy as np

from flywheel.curation.posted import conflict_notes, conflicts_of
from flywheel.curation.prompts import notes_of
from flywheel.curation.result import PromptCounts
from flywheel.curation.samples import Ints, Samples
from flywheel.curation.splits import Split
from flywheel.runs.plan import Plan
from flywheel.workloads.records import STRENGTH


def summary_of(
    plan: Plan,
    key: str,
    total: int,
    samples: Samples,
    parts: Split,
    sides: dict[str, Ints],
    prompts: PromptCounts,
) -> dict[str, Any]:
    """Return what summary.json says of a dataset.

    Args:
        key: of the dataset.
        total: records that were read.
        sides: places of the samples in each file.
        prompts: what was sifted out for its prompt.
    """
    conflicts = conflicts_of(samples)
    return {
        "dataset": key,
        "cutoff": plan.cutoff,
        "total": total,
        "duplicates": samples.duplicates,
        "near_duplicates": samples.near_duplicates,
        "conflicts": samples.conflicts,
        "conflict_examples": [conflict.model_dump(mode="json") for conflict in conflicts],
        "labelled_by": {
            by: count
            for by, count in zip(
                STRENGTH, np.bincount(samples.labelled_by, minlength=3).tolist(), strict=True
            )
            if count
        },
        "prompts": prompts.model_dump(mode="json"),
        "used": len(samples.ids),
        **{name: len(places) for name, places in sides.items()},
        "left_out": len(parts.left_out),
        "split": plan.config.data_split_config.split,
        "events": int(np.count_nonzero(np.bincount(samples.events))),
        "known": {name: _known(samples, places) for name, places in sides.items() if len(places)},
        "stratified": parts.stratified,
        "notes": [*parts.notes, *notes_of(prompts), *conflict_notes(samples.conflicts, conflicts)],
        "per_class": _per_class(samples, parts),
    }


def _per_class(samples: Samples, parts: Split) -> dict[str, dict[str, int]]:
    def counts(places: Ints) -> list[int]:
        return [int(count) for count in np.bincount(samples.labels[places], minlength=len(samples.names))]

    rows = zip(*map(counts, (parts.train, parts.val, parts.calibration, parts.eval)), strict=True)
    return {
        name: dict(zip(("total", "train", "val", "calibration", "eval"), (sum(row), *row), strict=True))
        for name, row in zip(samples.names, rows, strict=True)
        if sum(row)
    }


def _known(samples: Samples, places: Ints) -> tuple[int, int]:
    """Return when the first and the last of these records were known."""
    times = samples.known_at[places]
    return int(times.min()), int(times.max())
