"""What curation keeps of each record in memory: some 100 bytes, whatever the length of its prompt."""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flywheel.config.schema import DataSplitConfig
from flywheel.curation.events import event_words, group_events
from flywheel.curation.near_duplicates import group_similar
from flywheel.curation.reading import Reduced

# Conflicts that are listed.
MOST_EXAMPLES = 20


@dataclass(frozen=True)
class Pair:
    """Two records of one text with different labels: the one that stays, and the one that is left out.

    `kept` and `other` are record ids; `*_by` places in `flywheel.records.STRENGTH`.
    """

    kept: str
    kept_label: str
    kept_by: int
    other: str
    other_label: str
    other_by: int


@dataclass(frozen=True)
class Samples:
    """The records that are used, one of each group of near-duplicates, in the order in which they were known.

    Attributes:
        ids: (n,) record ids.
        labels: (n,) class of each, as a place in `names`.
        names: the classes, sorted.
        hashes: (n,) of the text's words in their order, with the seed as key.
        known_at: (n,) unix seconds, rising.
        events: (n,) the first record of the event that each reports, as a place.
        words: the words of all, as numbers; record i has words[starts[i] : starts[i + 1]].
        starts: (n + 1,) rising from 0.
        labelled_by: (n,) who gave the label, as a place in `flywheel.records.STRENGTH`.
        duplicates: records left out because another one has the same words in the same order.
        near_duplicates: records left out because another one has nearly the same words.
        conflicts: of the duplicates, those whose label is another than that of the record that stays;
            `conflict_examples` are the first of them.
    """

    ids: list[str]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    hashes: NDArray[np.uint64]
    known_at: NDArray[np.int64]
    labelled_by: NDArray[np.int8]
    events: NDArray[np.int64]
    words: NDArray[np.int32]
    starts: NDArray[np.int64]
    duplicates: int
    near_duplicates: int
    conflicts: int
    conflict_examples: tuple[Pair, ...]


def collect(records: Iterable[Reduced], config: DataSplitConfig) -> Samples:
    """Choose among records; of duplicates and near-duplicates the earliest of the strongest word stays.

    A text that comes again with another time is thereby as it was first seen, and what somebody posts never
    takes the place of what the teacher or an application said.

    Args:
        records: in the order in which they were known.
        config: the seed of the hashes, and what near-duplicates and events are.
    """
    key = str(config.random_seed).encode()
    digests: dict[bytes, int] = {}
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__  # a new word gets the next number
    names: dict[str, int] = {}
    ids: list[str] = []
    labels, words, starts, hashes = array("q"), array("i"), array("q", [0]), array("Q")
    known, by = array("q"), array("b")
    # Of each record that is left out here: its id, the place of its text above, its label and who gave that.
    others, of, others_labels, others_by = list[str](), array("q"), array("q"), array("b")
    total = 0
    for total, (record_id, label, text, known_at, labelled_by) in enumerate(records, 1):  # noqa: B007
        digest = hashlib.blake2b(text.encode(), digest_size=16, key=key).digest()
        there = digests.setdefault(digest, len(ids))
        if there < len(ids):
            other = record_id, names.setdefault(label, len(names)), labelled_by
            if labelled_by < by[there]:
                ids[there], labels[there], by[there], other = *other, (ids[there], labels[there], by[there])
                known[there] = known_at
            others.append(other[0])
            of.append(there)
            others_labels.append(other[1])
            others_by.append(other[2])
            continue
        ids.append(record_id)
        known.append(known_at)
        by.append(labelled_by)
        labels.append(names.setdefault(label, len(names)))
        words.extend(sorted(map(vocabulary.__getitem__, set(text.split()))))
        starts.append(len(words))
        hashes.append(int.from_bytes(digest[:8], "little"))
    duplicates = total - len(ids)
    spellings = list(vocabulary)
    del digests, vocabulary
    all_words, all_starts = np.frombuffer(words, np.int32), np.frombuffer(starts, np.int64)
    first = group_similar(all_words, all_starts, threshold=config.near_duplicate_similarity)
    strength, times = np.frombuffer(by, np.int8), np.frombuffer(known, np.int64)
    # The first of each group by the strength of its word, then by its place.
    order = np.lexsort((np.arange(len(ids)), strength, first))
    kept = order[np.flatnonzero(np.diff(first[order], prepend=-1))]
    kept = kept[np.lexsort((kept, times[kept]))]
    merged, figures = event_words(spellings)
    kept_words, kept_starts = _rows(merged[all_words], all_starts, kept)
    events = group_events(
        kept_words,
        kept_starts,
        times[kept],
        figures,
        similarity=config.event_similarity,
        days=config.event_days,
    )
    by_name = sorted(names)
    place = np.array([by_name.index(name) for name in names], np.int64)
    named = tuple(names)
    conflicts = np.flatnonzero(np.frombuffer(labels, np.int64)[of] != np.frombuffer(others_labels, np.int64))
    examples = tuple(
        Pair(ids[of[i]], named[labels[of[i]]], by[of[i]], others[i], named[others_labels[i]], others_by[i])
        for i in conflicts[:MOST_EXAMPLES].tolist()
    )
    return Samples(
        ids=[ids[index] for index in kept.tolist()],
        labels=place[np.frombuffer(labels, np.int64)[kept]] if ids else np.empty(0, np.int64),
        names=tuple(by_name),
        hashes=np.frombuffer(hashes, np.uint64)[kept],
        known_at=times[kept],
        labelled_by=strength[kept],
        events=events,
        words=kept_words,
        starts=kept_starts,
        duplicates=duplicates,
        near_duplicates=len(ids) - len(kept),
        conflicts=len(conflicts),
        conflict_examples=examples,
    )


def _rows(
    words: NDArray[np.int32], starts: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the words of some rows, one row after the other, and where each starts."""
    sizes = starts[rows + 1] - starts[rows]
    ends = np.cumsum(sizes)
    places = np.repeat(starts[rows] - ends + sizes, sizes) + np.arange(int(sizes.sum()))
    return words[places], np.concatenate([[0], ends])
