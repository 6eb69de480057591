"""What curation keeps of each record in memory: some 100 bytes, whatever the length of its prompt."""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flywheel.curation.near_duplicates import group_similar
from flywheel.curation.reading import Reduced


@dataclass(frozen=True)
class Samples:
    """The records that are used, one of each group of near-duplicates, in order of time.

    Attributes:
        ids: (n,) record ids.
        labels: (n,) class of each, as a place in `names`.
        names: the classes, sorted.
        hashes: (n,) of the text's words in their order, with the seed as key.
        duplicates: records left out because an earlier one has the same words in the same order.
        near_duplicates: records left out because an earlier one has nearly the same words.
    """

    ids: list[str]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    hashes: NDArray[np.uint64]
    duplicates: int
    near_duplicates: int


def collect(records: Iterable[Reduced], *, seed: int, similarity: float) -> Samples:
    """Choose among records; of duplicates and near-duplicates the earliest stays.

    Args:
        records: in order of time.
        seed: of the hashes.
        similarity: Jaccard similarity of the word sets from which two texts are near-duplicates.
    """
    key = str(seed).encode()
    digests: set[bytes] = set()
    vocabulary: defaultdict[str, int] = defaultdict()
    vocabulary.default_factory = vocabulary.__len__  # a new word gets the next number
    names: dict[str, int] = {}
    ids: list[str] = []
    labels, words, starts, hashes = array("q"), array("i"), array("q", [0]), array("Q")
    total = 0
    for total, (record_id, label, text) in enumerate(records, 1):  # noqa: B007
        digest = hashlib.blake2b(text.encode(), digest_size=16, key=key).digest()
        if digest in digests:
            continue
        digests.add(digest)
        ids.append(record_id)
        labels.append(names.setdefault(label, len(names)))
        words.extend(sorted(map(vocabulary.__getitem__, set(text.split()))))
        starts.append(len(words))
        hashes.append(int.from_bytes(digest[:8], "little"))
    duplicates = total - len(ids)
    del digests, vocabulary
    first = group_similar(
        np.frombuffer(words, np.int32), np.frombuffer(starts, np.int64), threshold=similarity
    )
    kept = np.unique(first)
    by_name = sorted(names)
    place = np.array([by_name.index(name) for name in names], np.int64)
    return Samples(
        ids=[ids[index] for index in kept.tolist()],
        labels=place[np.frombuffer(labels, np.int64)[kept]] if ids else np.empty(0, np.int64),
        names=tuple(by_name),
        hashes=np.frombuffer(hashes, np.uint64)[kept],
        duplicates=duplicates,
        near_duplicates=len(ids) - len(kept),
    )
