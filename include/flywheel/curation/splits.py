"""Which records are held out, which validate, and in which order the others train.

The shuffle is a hash of each record's text with the seed as its key, not a random number of its place. So a
split does not depend on the order of the records, and it is stable as data grows: a class's eval records are
those with its smallest hashes, and as long as the class's share of the eval set does not rise, a record
becomes one only by being new. What a student trained on last night is not what it is examined on tonight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flywheel.config.schema import DataSplitConfig

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Split:
    """Places of records, in the order in which they are written.

    Attributes:
        train: its first N are a stratified sample for every N; so are those of the other two.
        val: validation.
        eval: held out.
        stratified: whether classes have their shares in each part.
        notes: what the user should know of how it was split.
    """

    train: Ints
    val: Ints
    eval: Ints
    stratified: bool
    notes: tuple[str, ...]


def split(labels: Ints, names: Sequence[str], hashes: Hashes, config: DataSplitConfig) -> Split:
    """Split records into train, validation and eval.

    Args:
        labels: (n,) class of each record, as a place in `names`.
        names: the classes, sorted.
        hashes: (n,) the shuffle: a number of each record that depends on its content and the seed alone.
        config: `eval_size` is less than n.
    """
    strata, stratified, notes = _strata(labels, names, config)
    counts = np.bincount(strata)
    eval_counts = apportion(counts, config.eval_size)
    rest = counts - eval_counts
    val_counts = apportion(rest, round(config.val_ratio * int(rest.sum())))
    # Records by class and hash; `rank` is the place of each within its class.
    order = np.lexsort((hashes, strata))
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(order)) - np.repeat(starts, counts)
    stratum = strata[order]
    in_eval = rank < eval_counts[stratum]
    in_val = ~in_eval & (rank < (eval_counts + val_counts)[stratum])
    return Split(
        train=_ranked(order[~in_eval & ~in_val], strata, hashes),
        val=_ranked(order[in_val], strata, hashes),
        eval=_ranked(order[in_eval], strata, hashes),
        stratified=stratified,
        notes=notes,
    )


def apportion(counts: Ints, seats: int) -> Ints:
    """Share `seats` among strata by their counts, by largest remainder (Hamilton's method).

    Each gets its exact share rounded down or up, and never more than it has.

    Args:
        counts: (strata,) not all zero; their sum is at least `seats`.
    """
    total = int(counts.sum())
    if total == 0:
        return np.zeros_like(counts)
    whole, remainder = np.divmod(counts * seats, total)
    left = seats - int(whole.sum())
    # Stable: of equal remainders the first stratum, in the order of the names, gets the seat.
    whole[np.argsort(-remainder, kind="stable")[:left]] += 1
    return whole


def _ranked(places: Ints, strata: Ints, hashes: Hashes) -> Ints:
    """Order records so that the first N are a stratified sample for every N.

    The i-th of the n records of a stratum stands at (i + 1/2) / n of the way: up to any point, each stratum
    has its share to within half a record.
    """
    by_stratum = places[np.lexsort((hashes[places], strata[places]))]
    stratum = strata[by_stratum]
    counts = np.bincount(stratum) if len(stratum) else np.zeros(0, np.int64)
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(stratum)) - np.repeat(starts, counts)
    position = (rank + 0.5) / counts[stratum]
    return by_stratum[np.lexsort((hashes[by_stratum], position))]


def _strata(
    labels: Ints, names: Sequence[str], config: DataSplitConfig
) -> tuple[Ints, bool, tuple[str, ...]]:
    """Return the stratum of each record from 0 on, whether strata are classes, and notes for the user."""
    together = np.zeros(len(labels), np.int64)
    if not config.stratify_enabled:
        return together, False, ("random split: data_split_config.stratify_enabled is false",)
    counts = np.bincount(labels, minlength=len(names))
    rare = counts <= config.rare_class_threshold
    pooled = [name for name, count, few in zip(names, counts, rare, strict=True) if few and count]
    strata = labels
    notes = []
    if pooled:
        notes.append(
            f"pooled as 'others' for stratification, with at most {config.rare_class_threshold} records each "
            f"(data_split_config.rare_class_threshold): {', '.join(pooled)}"
        )
        strata = np.where(rare[labels], len(names), labels)
    values, strata = np.unique(strata, return_inverse=True)
    smallest = int(np.bincount(strata).min())
    if smallest < config.min_samples_per_class:
        stratum = int(values[np.argmin(np.bincount(strata))])
        name = "the pooled 'others'" if stratum == len(names) else repr(names[stratum])
        notes.append(
            f"random split instead of a stratified one: {name} has {smallest} records, "
            f"data_split_config.min_samples_per_class asks for {config.min_samples_per_class}"
        )
        return together, False, tuple(notes)
    return strata.astype(np.int64), True, tuple(notes)
