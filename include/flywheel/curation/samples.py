"""What curation keeps of each record in memory: some 100 bytes, whatever the length of its prompt."""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flywheel.config.schema import DataSplitConfig
from flywheel.curation.events import event_words, group_events
from flywheel.curation.near_duplicates import Groups, group_similar
from flywheel.curation.reading import Reduced

Ints = NDArray[np.int64]

# Conflicts that are listed.
MOST_EXAMPLES = 20
# Records that go on where another one has ended: asked again, or in several ways.
MOST_CONTINUATIONS = 5


@dataclass(frozen=True)
class Pair:
    """Two records of one text with different labels: the one that stays, and the one that is left out.

    `kept` and `other` are record ids; `*_by` places in `flywheel.workloads.records.STRENGTH`.
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
        events: (n,) the first record of the event that each reports, or of its dialogue, as a place.
        words: the words of all, as numbers; record i has words[starts[i] : starts[i + 1]].
        starts: (n + 1,) rising from 0.
        labelled_by: (n,) who gave the label, as a place in `flywheel.workloads.records.STRENGTH`.
        duplicates: records left out because another one has the same words in the same order.
        near_duplicates: records left out because another one has nearly the same words.
        conflicts: of the duplicates, those whose label is another than that of the record that stays;
            `conflict_examples` are the first of them.
        texts: (n,) a number of the text's words, and of its context where it has one, by which it is known
            again under another id, seed or prompt.
        aside: ids of the duplicates and near-duplicates; `aside_of` the place of the record that stays.
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
    texts: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    aside: list[str] = field(default_factory=list)
    aside_of: Ints = field(default_factory=lambda: np.empty(0, np.int64))


def collect(records: Iterable[Reduced], config: DataSplitConfig) -> Samples:
    """Choose among records; of duplicates and near-duplicates the earliest of the strongest word stays.

    Duplicates are looked for among records of one context. A text that comes again with another time is
    thereby as it was first seen, and what somebody posts never takes the place of what the teacher or an
    application said.

    Args:
        records: in the order in which they were known.
        config: the seed of the hashes, and what near-duplicates and events are.
    """
    read = _read(records, str(config.random_seed).encode())
    ids, contexts = read.ids, np.frombuffer(read.contexts, np.int64)
    words, starts = np.frombuffer(read.words, np.int32), np.frombuffer(read.starts, np.int64)
    compared = _apart(words, starts, contexts, read.count_of_contexts)
    first = group_similar(compared, starts, threshold=config.near_duplicate_similarity)
    strength, times = np.frombuffer(read.by, np.int8), np.frombuffer(read.known, np.int64)
    # The first of each group by the strength of its word, then by its place.
    order = np.lexsort((np.arange(len(ids)), strength, first))
    kept = order[np.flatnonzero(np.diff(first[order], prepend=-1))]
    kept = kept[np.lexsort((kept, times[kept]))]
    place_of_group = np.full(len(ids), -1, np.int64)
    place_of_group[first[kept]] = np.arange(len(kept))
    dropped = np.setdiff1d(np.arange(len(ids)), kept)
    aside_of = place_of_group[first[np.concatenate([np.frombuffer(read.of, np.int64), dropped])]]
    by_name = sorted(read.names)
    place = np.array([by_name.index(name) for name in read.names], np.int64)
    kept_words, kept_starts, events = _events(read, words, starts, kept, times[kept], config)
    conflicts, examples = _conflicts(read)
    return Samples(
        ids=[ids[index] for index in kept.tolist()],
        labels=place[np.frombuffer(read.labels, np.int64)[kept]] if ids else np.empty(0, np.int64),
        names=tuple(by_name),
        hashes=np.frombuffer(read.hashes, np.uint64)[kept],
        known_at=times[kept],
        labelled_by=strength[kept],
        events=events,
        words=kept_words,
        starts=kept_starts,
        duplicates=len(read.others),
        near_duplicates=len(ids) - len(kept),
        conflicts=conflicts,
        conflict_examples=examples,
        texts=np.frombuffer(read.texts, np.uint64)[kept],
        aside=[*read.others, *(ids[index] for index in dropped.tolist())],
        aside_of=aside_of,
    )


@dataclass(frozen=True)
class _Read:
    """What is kept of the records while they are read, in flat arrays; duplicates are left out.

    Attributes:
        of: of each record that was left out (`others`), the place of its text above.
        earlier: the words of earlier turns.
        count_of_contexts: that there are; `contexts` has the number of each record's.
        wholes, befores: what `continued` asks.
        spellings: of the words, by their numbers.
    """

    ids: list[str]
    labels: array[int]
    names: dict[str, int]
    known: array[int]
    by: array[int]
    words: array[int]
    starts: array[int]
    hashes: array[int]
    texts: array[int]
    others: list[str]
    of: array[int]
    others_labels: array[int]
    others_by: array[int]
    earlier: array[int]
    earlier_starts: array[int]
    contexts: array[int]
    count_of_contexts: int
    wholes: array[int]
    befores: array[int]
    spellings: list[str]


def _read(records: Iterable[Reduced], key: bytes) -> _Read:
    digests: dict[bytes, int] = {}
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__  # a new word gets the next number
    names: dict[str, int] = {}
    ids: list[str] = []
    labels, words, starts, hashes = array("q"), array("i"), array("q", [0]), array("Q")
    texts = array("Q")
    known, by = array("q"), array("b")
    others, of, others_labels, others_by = list[str](), array("q"), array("q"), array("b")
    earlier, earlier_starts, contexts = array("i"), array("q", [0]), array("q")
    numbers, wholes, befores = {"": 0}, array("Q"), array("Q")
    for record in records:
        record_id, label, text, known_at, labelled_by = record[:5]
        digest = hashlib.blake2b(text.encode(), digest_size=16, key=key).digest()
        context = numbers.setdefault(record.context, len(numbers))
        there = digests.setdefault(digest + context.to_bytes(4) if context else digest, len(ids))
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
        own = set(text.split())
        if context and not own:
            own = {f"\0{context}"}  # without words it is as another one is whose context is the same
        words.extend(sorted(map(vocabulary.__getitem__, own)))
        starts.append(len(words))
        earlier.extend(map(vocabulary.__getitem__, record.earlier.split()))
        earlier_starts.append(len(earlier))
        contexts.append(context)
        wholes.append(record.whole)
        befores.append(record.before)
        hashes.append(int.from_bytes(digest[:8], "little"))
        texts.append(text_number(f"{record.context}\n{text}" if context else text))
    return _Read(
        *(ids, labels, names, known, by, words, starts, hashes, texts),
        *(others, of, others_labels, others_by, earlier, earlier_starts, contexts, len(numbers)),
        *(wholes, befores, list(vocabulary)),
    )


def _events(
    read: _Read,
    words: NDArray[np.int32],
    starts: Ints,
    kept: Ints,
    times: Ints,
    config: DataSplitConfig,
) -> tuple[NDArray[np.int32], Ints, Ints]:
    """Return the words of the records that are kept, and the event or dialogue of each."""
    merged, figures = event_words(read.spellings)
    kept_words, kept_starts = _rows(merged[words], starts, kept)
    if len(read.earlier):
        earlier = merged[np.frombuffer(read.earlier, np.int32)]
        before = _rows(earlier, np.frombuffer(read.earlier_starts, np.int64), kept)
        kept_words, kept_starts = _joined((kept_words, kept_starts), before)
    dialogues = Groups(len(kept))
    dialogues.first = group_events(
        kept_words,
        kept_starts,
        times,
        figures,
        similarity=config.event_similarity,
        days=config.event_days,
    )
    wholes, befores = (np.frombuffer(of, np.uint64)[kept] for of in (read.wholes, read.befores))
    dialogues.join(*continued(wholes, befores))
    return kept_words, kept_starts, dialogues.first


def _conflicts(read: _Read) -> tuple[int, tuple[Pair, ...]]:
    """Return how many duplicates have another label than the record that stays, and the first of them."""
    ids, labels, names, of = read.ids, read.labels, tuple(read.names), read.of
    found = np.flatnonzero(np.frombuffer(labels, np.int64)[of] != np.frombuffer(read.others_labels, np.int64))
    return len(found), tuple(
        Pair(
            *(ids[of[i]], names[labels[of[i]]], read.by[of[i]]),
            *(read.others[i], names[read.others_labels[i]], read.others_by[i]),
        )
        for i in found[:MOST_EXAMPLES].tolist()
    )


def text_number(text: str) -> int:
    """Return the number by which a text is known again: of its words, as `Reduced` has them; never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1


def continued(whole: NDArray[np.uint64], before: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """Return pairs of records of which the second goes on where the first has ended.

    A beginning that many records go on from (a greeting with its answer) is no dialogue of theirs.

    Args:
        whole, before: (n,) see `flywheel.curation.conversation.Around`.
    """
    order = np.argsort(whole, kind="stable")
    later = np.flatnonzero(before)
    place = np.searchsorted(whole[order], before[later])
    inside = place < len(order)
    later, place = later[inside], place[inside]
    found = whole[order[place]] == before[later]
    earlier, later = order[place[found]], later[found]
    few = np.bincount(earlier, minlength=len(whole))[earlier] <= MOST_CONTINUATIONS
    return earlier[few], later[few]


def _apart(words: NDArray[np.int32], starts: Ints, contexts: Ints, count: int) -> NDArray[np.int32]:
    """Return the words numbered so that no two contexts share one; in each row still rising.

    Args:
        count: of contexts that there may be.
    """
    if count < 2:
        return words
    keys = (np.repeat(contexts, np.diff(starts)) << 32) | words
    _, numbered = np.unique(keys, return_inverse=True)
    return np.asarray(numbered, np.int32)


def _joined(
    one: tuple[NDArray[np.int32], Ints], other: tuple[NDArray[np.int32], Ints]
) -> tuple[NDArray[np.int32], Ints]:
    """Return rows that hold the words of both, and where each starts."""
    sizes = np.diff(one[1]) + np.diff(other[1])
    row = np.concatenate([np.repeat(np.arange(len(sizes)), np.diff(starts)) for _, starts in (one, other)])
    words = np.concatenate([one[0], other[0]])[np.argsort(row, kind="stable")]
    return words, np.concatenate([[0], np.cumsum(sizes)])


def _rows(
    words: NDArray[np.int32], starts: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the words of some rows, one row after the other, and where each starts."""
    sizes = starts[rows + 1] - starts[rows]
    ends = np.cumsum(sizes)
    places = np.repeat(starts[rows] - ends + sizes, sizes) + np.arange(int(sizes.sum()))
    return words[places], np.concatenate([[0], ends])
