"""Groups of near-duplicate texts: word sets whose Jaccard similarity reaches a threshold, found exactly.

MinHash with banding (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, ch. 3) finds
similar sets with a probability, and on headlines it drowns: they are short and follow patterns, so that very
many pairs share half of their words, and bands that still find pairs at 0.85 find those too. Short sets
allow better. Two similar sets differ in at most k words, few enough to be known from their sizes: 1 for
headlines of up to 12 words at 0.85. Deal the words into m > k parts by their hash: at most k parts differ,
so the two sets agree on one of the C(m, k) sums of the hashes of m - k parts. All pairs that agree somewhere
are compared exactly, so no pair is missed and none is reported wrongly. This is the partitioned enumeration
of Arasu, Ganti and Kaushik (Efficient Exact Set-Similarity Joins, VLDB 2006); before the comparison, 64 bits
a set tell most of the others apart (the bitmap filter of Sandes, Teodoro and Melo, Information Systems 2020).

A million headlines take 8 s on one core at 0.85; the work grows as the threshold falls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

# What a set costs in a choice of parts, in pairs that are looked at; and how many numbers of parts are tried.
_MEMBER_COST = 2
_MORE_PARTS = 16
# Pairs, and words, that are held at once; bounds memory to some 100 MB.
_PAIRS = 1 << 20
_CHUNK_WORDS = 1 << 22
# Above this size a bound on the differing words replaces their exact number; it is at most one higher.
_LARGE = 500
# 0.85 * 20 is not quite 17 in floating point.
_ROUNDING = 1e-9


def group_similar(words: NDArray[np.int32], starts: Ints, threshold: float) -> Ints:
    """Group sets by similarity: sets that a chain of similar pairs joins are one group.

    Args:
        words: (total,) the words of all sets as numbers, each once in its set; set i is
            words[starts[i] : starts[i + 1]], sorted.
        starts: (n + 1,) rising from 0.
        threshold: Jaccard similarity in (0, 1] from which two sets are similar. Two empty sets are similar.

    Returns:
        (n,) the smallest index of a set of its group, for each set.
    """
    n = len(starts) - 1
    if n == 0:
        return np.empty(0, np.int64)
    sets = _Sets(words, starts, threshold)
    groups = Groups(n)
    groups.join(*sets.equal_pairs())
    # Of equal sets one goes on.
    rest = np.flatnonzero(np.bincount(groups.first))
    bits = sets.bits()
    for low, high, top in _size_ranges(np.flatnonzero(np.bincount(sets.sizes[rest])), threshold):
        differing = _most_differing(low, high, top, threshold)
        members = rest[(sets.sizes[rest] >= low) & (sets.sizes[rest] <= top)]
        if differing == 0 or len(members) < 2:
            continue
        for signature in sets.signatures(members, differing):
            for one, other in _pairs_within_runs(signature):
                a, b = members[one], members[other]
                smaller = np.minimum(sets.sizes[a], sets.sizes[b])
                total = sets.sizes[a] + sets.sizes[b]
                # A bit that one set has and the other has not is a word in which they differ.
                least = np.bitwise_count(bits[a] ^ bits[b])
                # A pair with its smaller set above `high` is a later range's.
                possible = (smaller <= high) & (
                    least <= (1 - threshold) / (1 + threshold) * total + _ROUNDING
                )
                a, b = groups.apart(a[possible], b[possible])
                similar = sets.similar(a, b)
                groups.join(a[similar], b[similar])
    return groups.first


class _Sets:
    """Sets of words, with hashes that do not depend on the order of the sets."""

    def __init__(self, words: NDArray[np.int32], starts: Ints, threshold: float) -> None:
        self.words, self.starts, self.threshold = words, starts, threshold
        self.sizes = np.diff(starts)

    def equal_pairs(self) -> tuple[Ints, Ints]:
        """Return pairs that join all equal sets: each set with the next equal one."""
        hashes = self._sums(_mix(self.words))
        order = np.argsort(hashes, kind="stable")
        same = hashes[order[1:]] == hashes[order[:-1]]
        a, b = order[:-1][same], order[1:][same]
        equal = self.sizes[a] == self.sizes[b]
        equal[equal] = self._shared(a[equal], b[equal]) == self.sizes[a[equal]]
        return a[equal], b[equal]

    def signatures(self, members: Ints, differing: int) -> Iterator[Hashes]:
        """Yield (len(members),) hashes; two sets that differ in at most so many words agree in one.

        The number of parts is free: more parts make each hash more selective, but there are more of them.
        The cheapest is taken, judged by the pairs of its first hash.
        """
        best, least = differing + 1, math.inf
        for parts in range(differing + 1, differing + 1 + _MORE_PARTS):
            choices = math.comb(parts, differing)
            if parts > differing + 1 and choices * len(members) * _MEMBER_COST > least:
                break
            _, start, end = _runs(next(_kept(self._part_sums(members, parts), differing)))
            pairs = int(((end - start) * (end - start - 1) // 2).sum())
            cost = choices * (len(members) * _MEMBER_COST + pairs)
            if cost < least:
                best, least = parts, cost
        yield from _kept(self._part_sums(members, best), differing)

    def _part_sums(self, members: Ints, parts: int) -> Hashes:
        """Return (parts, len(members)) sums of the hashes of the words that fall into each part."""
        sums = np.zeros((parts, len(members)), np.uint64)
        for chunk in _chunks(self.sizes[members], _CHUNK_WORDS):
            hashes = _mix(self.words[_slices(self.starts, members[chunk])])
            part = ((hashes >> np.uint64(32)) % np.uint64(parts)).astype(np.int64)
            row = np.repeat(np.arange(chunk.start, chunk.stop), self.sizes[members[chunk]])
            np.add.at(sums, (part, row), hashes)
        return sums

    def bits(self) -> Hashes:
        """Return 64 bits for each set: the hashes of its words set them."""
        bits = np.zeros(len(self.sizes), np.uint64)
        for chunk in _chunks(self.sizes, _CHUNK_WORDS):
            words = self.words[self.starts[chunk.start] : self.starts[chunk.stop]]
            row = np.repeat(np.arange(chunk.start, chunk.stop), self.sizes[chunk])
            np.bitwise_or.at(bits, row, np.uint64(1) << (_mix(words) & np.uint64(63)))
        return bits

    def similar(self, a: Ints, b: Ints) -> NDArray[np.bool_]:
        """Return whether sets a[i] and b[i] reach the threshold."""
        shared = self._shared(a, b)
        union = self.sizes[a] + self.sizes[b] - shared
        return np.asarray(shared >= self.threshold * union - _ROUNDING)

    def _shared(self, a: Ints, b: Ints) -> Ints:
        """Return the number of words that sets a[i] and b[i] share."""
        shared = np.empty(len(a), np.int64)
        for chunk in _chunks(self.sizes[a] + self.sizes[b], _CHUNK_WORDS):
            shared[chunk] = self._matrix(a[chunk]).multiply(self._matrix(b[chunk])).sum(axis=1)
        return shared

    def _matrix(self, rows: Ints) -> csr_array:
        indices = self.words[_slices(self.starts, rows)]
        indptr = np.concatenate([[0], np.cumsum(self.sizes[rows])])
        shape = (len(rows), int(np.iinfo(np.int32).max))
        matrix = csr_array((np.ones(len(indices), np.int32), indices, indptr), shape=shape)
        matrix.has_canonical_format = True
        return matrix

    def _sums(self, values: Hashes) -> Hashes:
        """Return the sum of each set's values, modulo 2^64; of an empty set 0."""
        ends = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
        return np.asarray(ends[self.starts[1:]] - ends[self.starts[:-1]])


class Groups:
    """Sets joined to groups; a group is named by its smallest index."""

    def __init__(self, n: int) -> None:
        self.first: Ints = np.arange(n)

    def join(self, a: Ints, b: Ints) -> None:
        """Make the groups of a[i] and b[i] one."""
        if len(a) == 0:
            return
        ends = np.concatenate([self.first[a], self.first[b]])
        names, node = np.unique(ends, return_inverse=True)
        edges = coo_array((np.ones(len(a), np.int8), (node[: len(a)], node[len(a) :])), shape=2 * names.shape)
        _, component = connected_components(edges, directed=False)
        # Names rise, so the first of each component is its smallest.
        _, smallest = np.unique(component, return_index=True)
        renamed = np.arange(len(self.first))
        renamed[names] = names[smallest[component]]
        self.first = renamed[self.first]

    def apart(self, a: Ints, b: Ints) -> tuple[Ints, Ints]:
        """Return the pairs that are not in one group yet."""
        apart = self.first[a] != self.first[b]
        return a[apart], b[apart]


def _mix(values: NDArray[np.int32]) -> Hashes:
    """Return well mixed 64-bit hashes of numbers (SplitMix64; Steele, Lea and Flood, OOPSLA 2014)."""
    z = (values.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _slices(starts: Ints, rows: Ints) -> Ints:
    """Return the places of the rows' words, one row after the other."""
    sizes = starts[rows + 1] - starts[rows]
    ends = np.cumsum(sizes)
    return np.repeat(starts[rows] - ends + sizes, sizes) + np.arange(int(sizes.sum()))


def _kept(sums: Hashes, differing: int) -> Iterator[Hashes]:
    """Yield the sums over each choice of all but `differing` parts."""
    parts = len(sums)
    if 2 * differing >= parts:
        for kept in combinations(range(parts), parts - differing):
            yield sums[list(kept)].sum(axis=0, dtype=np.uint64)
    else:
        total = sums.sum(axis=0, dtype=np.uint64)
        for dropped in combinations(range(parts), differing):
            yield total - sums[list(dropped)].sum(axis=0, dtype=np.uint64)


def _size_ranges(sizes: Ints, threshold: float) -> Iterator[tuple[int, int, int]]:
    """Yield (low, high, top): each similar pair has its smaller set in low..high of one, both in low..top.

    Args:
        sizes: the sizes that occur, rising.
    """
    ranges: list[tuple[int, int]] = []
    for size in sizes.tolist():
        if size > 0 and (not ranges or size > ranges[-1][1]):
            ranges.append((size, _largest_partner(size, threshold)))
    for low, high in ranges:
        yield low, high, _largest_partner(high, threshold)


def _largest_partner(size: int, threshold: float) -> int:
    """Return the largest set that a set of `size` can be similar to."""
    return max(size, math.floor(size / threshold + _ROUNDING))


def _most_differing(low: int, high: int, top: int, threshold: float) -> int:
    """Return the largest number of words in which a similar pair differs, its smaller set in low..high."""
    if top > _LARGE:
        return math.floor((1 - threshold) / (1 + threshold) * (high + top) + _ROUNDING)
    small = np.arange(low, high + 1)
    large = np.arange(low, top + 1)
    total = small[:, None] + large[None, :]
    shared = np.ceil(threshold / (1 + threshold) * total - _ROUNDING)
    possible = (large[None, :] >= small[:, None]) & (shared <= small[:, None])
    return int(np.where(possible, total - 2 * shared, 0).max())


def _pairs_within_runs(signature: Hashes) -> Iterator[tuple[Ints, Ints]]:
    """Yield batches of all pairs of places with the same signature."""
    order, run_start, run_end = _runs(signature)
    # The place at i is paired with each later one of its run.
    partners = np.repeat(run_end, run_end - run_start) - np.arange(len(order)) - 1
    some = np.flatnonzero(partners)
    for chunk in _chunks(partners[some], _PAIRS):
        left = some[chunk]
        count = partners[left]
        offset = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        yield order[np.repeat(left, count)], order[np.repeat(left + 1, count) + offset]


def _runs(signature: Hashes) -> tuple[Ints, Ints, Ints]:
    """Return the places of signatures that occur again, sorted by them, and each run's start and end."""
    # Most occur once: counting them in about eight buckets for each leaves few to sort.
    bits = min(24, len(signature).bit_length() + 3)
    bucket = (signature >> np.uint64(64 - bits)).astype(np.int64)
    some = np.flatnonzero(np.bincount(bucket, minlength=1 << bits)[bucket] > 1)
    order = some[np.argsort(signature[some])]
    ordered = signature[order]
    new = np.concatenate([np.ones(min(1, len(order)), bool), ordered[1:] != ordered[:-1]])
    run_start = np.flatnonzero(new)
    return order, run_start, np.concatenate([run_start[1:], np.full(min(1, len(order)), len(order))])


def _chunks(weights: Ints, most: int) -> Iterator[slice]:
    """Yield slices that cover all places, each of about the weight `most` or of one place."""
    ends = np.cumsum(weights)
    start = 0
    while start < len(weights):
        done = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, done + most, side="right")))
        yield slice(start, end)
        start = end
