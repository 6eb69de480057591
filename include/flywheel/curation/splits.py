"""Which records are held out, which validate and calibrate, and in which order the others train.

`random`: the shuffle is a hash of each record's text with the seed as its key, not a random number of its
place. So a split does not depend on the order of the records, and it is stable as data grows: a class's eval
records are those with its smallest hashes, and as long as the class's share of the eval set does not rise, a
record becomes one only by being new. An event goes as a whole, by its first record's class and hash.

`temporal`: training, gap, validation, calibration, eval in the order in which the records were known, so
that a student is examined on what came after all it learned from. Records whose event reaches into a later
part are left out, and so are those within the gap before the first later record: purging and embargo
(Lopez de Prado, Advances in Financial Machine Learning, 2018, ch. 7). The first N training records are a
stratified sample of the whole training span for every N: a learning curve shows what more records give, and
would show what later records give if its sizes were the latest N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from flywheel.config.schema import DataSplitConfig

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_DAY = 86400
# Of the records before validation, the share that the gap takes at most: all may have come within an hour.
MOST_IN_GAP = 0.1


@dataclass(frozen=True)
class Split:
    """Places of records, in the order in which they are written.

    Attributes:
        train: its first N are a stratified sample for every N; so are those of the others.
        val: validation.
        calibration: held out of training, to set thresholds on.
        eval: held out.
        left_out: of events that reach into a later part, and those in the gap; rising.
        stratified: whether classes have their shares in each part; of a temporal split in each training size.
        notes: what the user should know of how it was split.
    """

    train: Ints
    val: Ints
    calibration: Ints
    eval: Ints
    left_out: Ints
    stratified: bool
    notes: tuple[str, ...]


def split(
    labels: Ints, names: Sequence[str], hashes: Hashes, times: Ints, events: Ints, config: DataSplitConfig
) -> Split:
    """Split records into train, validation, calibration and eval.

    Args:
        labels: (n,) class of each record, as a place in `names`.
        names: the classes, sorted.
        hashes: (n,) the shuffle: a number of each record that depends on its content and the seed alone.
        times: (n,) when each was known, in unix seconds, rising.
        events: (n,) the first record of the event of each, as a place.
        config: `eval_size` is less than n.
    """
    if config.split == "temporal":
        return _temporal(labels, names, hashes, times, events, config)
    return _random(labels, names, hashes, events, config)


def _random(
    labels: Ints, names: Sequence[str], hashes: Hashes, events: Ints, config: DataSplitConfig
) -> Split:
    strata, stratified, notes = _strata(labels, names, config)
    # An event is of the stratum of its first record and has its hash.
    firsts, event, sizes = np.unique(events, return_inverse=True, return_counts=True)
    stratum, shuffle = strata[firsts], hashes[firsts]
    counts = np.bincount(stratum, sizes, minlength=int(strata.max()) + 1).astype(np.int64)
    eval_counts = apportion(counts, config.eval_size)
    rest = counts - eval_counts
    val_counts = apportion(rest, round(config.val_ratio * int(rest.sum())))
    calibration_counts = apportion(rest - val_counts, _calibration_size(rest, val_counts, config))
    order = np.lexsort((shuffle, stratum))
    bounds = np.searchsorted(stratum[order], np.arange(len(counts) + 1)).tolist()
    part = np.zeros(len(firsts), np.int8)  # 0: training
    for one, (start, end) in enumerate(pairwise(bounds)):
        for number, seats in enumerate((eval_counts, val_counts, calibration_counts), 1):
            members = order[start:end][part[order[start:end]] == 0]
            part[members[_fill(sizes[members], int(seats[one]))]] = number
    of_record = part[event]
    train, held_out, val, calibration = (np.flatnonzero(of_record == number) for number in range(4))
    if len(held_out) != config.eval_size:
        notes += (
            f"eval has {len(held_out)} records instead of {config.eval_size} "
            "(data_split_config.eval_size): events are kept whole",
        )
    return Split(
        train=_ranked(train, strata, hashes),
        val=_ranked(val, strata, hashes),
        calibration=_ranked(calibration, strata, hashes),
        eval=_ranked(held_out, strata, hashes),
        left_out=np.empty(0, np.int64),
        stratified=stratified,
        notes=notes,
    )


def _calibration_size(rest: Ints, val: Ints, config: DataSplitConfig) -> int:
    """Return the records for calibration: a share of what is not eval, as far as validation leaves them."""
    total = int(rest.sum())
    return min(round(config.calibration_ratio * total), total - int(val.sum()))


def _fill(sizes: Ints, seats: int) -> Ints:
    """Return which events, taken in their order, fill the seats; one that does not fit is passed over."""
    ends = np.cumsum(sizes)
    whole = int(np.searchsorted(ends, seats, side="right"))
    left = seats - (int(ends[whole - 1]) if whole else 0)
    taken = list(range(whole))
    if left:
        for place in (whole + np.flatnonzero(sizes[whole:] <= left)).tolist():
            if sizes[place] <= left:
                taken.append(place)
                left -= int(sizes[place])
            if not left:
                break
    return np.array(taken, np.int64)


def _temporal(
    labels: Ints, names: Sequence[str], hashes: Hashes, times: Ints, events: Ints, config: DataSplitConfig
) -> Split:
    free = np.ones(len(labels), np.bool_)

    def newest(count: int) -> Ints:
        """Take the newest free records, and what else is free of their events out."""
        there = np.flatnonzero(free)
        taken = there[len(there) - min(count, len(there)) :]
        free[taken] = False
        free[free] = ~np.isin(events[free], events[taken])
        return taken

    held_out = newest(config.eval_size)
    rest = int(free.sum())
    calibration = newest(round(config.calibration_ratio * rest))
    val = newest(round(config.val_ratio * rest))
    later = np.concatenate([val, calibration, held_out])
    notes: list[str] = []
    there = np.flatnonzero(free)
    in_gap = int((times[there] > times[later.min()] - round(config.gap_days * _DAY)).sum())
    most = int(MOST_IN_GAP * len(there))
    if in_gap > most:
        notes.append(
            f"the gap before validation holds {most} records, as data_split_config.gap_days "
            f"({config.gap_days:g}) would have taken {in_gap} of {len(there)}"
        )
    train = there[: len(there) - min(in_gap, most)]
    if len(train) == 0:
        return Split(train, val, calibration, held_out, there, stratified=False, notes=tuple(notes))
    strata, stratified, more = _strata(labels[train], names, config)
    of_train = np.zeros(len(labels), np.int64)
    of_train[train] = strata
    unseen = [names[label] for label in np.setdiff1d(labels[held_out], labels[train]).tolist()]
    if unseen:
        count = int(np.isin(labels[held_out], np.setdiff1d(labels[held_out], labels[train])).sum())
        notes.append(f"{count} eval records are of classes that training has none of: {', '.join(unseen)}")
    used = np.zeros(len(labels), np.bool_)
    used[train] = used[later] = True
    return Split(
        train=_ranked(train, of_train, hashes),
        val=_ranked(val, labels, hashes),
        calibration=_ranked(calibration, labels, hashes),
        eval=_ranked(held_out, labels, hashes),
        left_out=np.flatnonzero(~used),
        stratified=stratified,
        notes=(*notes, *more),
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
