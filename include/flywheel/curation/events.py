"""Groups of texts that report one event, in other words too: same names, same figures, close in time.

A text joins the event of an earlier one within a window of days when their words, weighted by how rare they
are, agree well enough: single-pass clustering with the cosine of idf-weighted words and a window of time
(Allan, Papka and Lavrenko, On-line New Event Detection and Tracking, SIGIR 1998; Yang, Pierce and Carbonell,
A Study on Retrospective and On-line Event Detection, SIGIR 1998). Names and figures are the rare words of
news and carry the weight (Kumaran and Allan, Text Classification and Named Entities for New Event Detection,
SIGIR 2004); two texts that both have figures and share none report two events.

What is compared: pairs within the window that share two of each other's rarest words, found by sorting, so
that the work grows with the texts and not with their pairs. What keeps groups small: a text must resemble
the first report of its event, not only the latest, and be within the window of it. So no chain of similar
texts runs through the months; and as the first report never changes, groups stay as data grows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# The rarest words of a text, of which it must share two with another to be compared.
RAREST = 6
# Later texts with the same two rare words that a text is compared with, for each two.
NEIGHBOURS = 12
# How similar a text must be to the first report of the event of one that it resembles, of the threshold.
TO_FIRST = 0.8
# A word of every twentieth text or more tells nothing of an event; its rarity is counted from there.
COMMON = 20
_DAY = 86400
_PAIRS = 1 << 20
_FIGURE = re.compile(r"[\d.,]*\d")


def event_words(vocabulary: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return, for each word, the number under which its spellings are one, and whether that is a figure.

    `$1.50bn` and `1.5` are one figure, `Acme's` and `Acme` one name, `3,000` is `3000`.
    """
    numbers: dict[str, int] = {}
    figures: list[bool] = []
    merged = np.empty(len(vocabulary), np.int32)
    for place, word in enumerate(vocabulary):
        found = _FIGURE.match(word)
        if found:
            whole, _, rest = found[0].replace(",", "").partition(".")
            rest = rest.rstrip("0")
            word = f"{whole}.{rest}" if rest else whole
        elif word.endswith(("'s", "’s")):
            word = word[:-2]
        merged[place] = numbers.setdefault(word, len(numbers))
        if merged[place] == len(figures):
            figures.append(bool(found))
    return merged, np.array(figures, np.bool_)


def group_events(
    words: NDArray[np.int32],
    starts: Ints,
    times: Ints,
    figures: NDArray[np.bool_],
    *,
    similarity: float,
    days: float,
) -> Ints:
    """Group texts by the event that they report.

    Args:
        words: (total,) the words of all texts as numbers; text i has words[starts[i] : starts[i + 1]].
        starts: (n + 1,) rising from 0.
        times: (n,) unix seconds, rising.
        figures: whether each word is a figure.
        similarity: cosine in (0, 1] from which two texts report one event.
        days: between the first report of an event and its last, at most; 0: each text is an event of its own.

    Returns:
        (n,) the smallest index of a text of its event, for each text.
    """
    n = len(starts) - 1
    event: Ints = np.arange(n)
    if n < 2 or days <= 0:
        return event
    texts = _Texts(words, starts, figures)
    window = round(days * _DAY)
    edges = [texts.similar(a, b, similarity) for a, b in _chunks(*texts.candidates(times, window))]
    earlier, later, cosine = (np.concatenate(part) for part in zip(*edges, strict=True)) if edges else _NONE
    # Of each text its pairs with earlier ones, the most similar first; of equal ones the earliest.
    order = np.lexsort((earlier, -cosine, later))
    least = TO_FIRST * similarity
    for i, j in zip(earlier[order].tolist(), later[order].tolist(), strict=True):
        if event[j] != j:
            continue  # it has joined the most similar one already
        first = int(event[i])
        if times[j] - times[first] <= window and (first == i or texts.cosine(first, j) >= least):
            event[j] = first
    return event


_NONE = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


class _Texts:
    """Texts as sets of words, numbered anew from the rarest on, each set sorted."""

    def __init__(self, words: NDArray[np.int32], starts: Ints, figures: NDArray[np.bool_]) -> None:
        n = len(starts) - 1
        row = np.repeat(np.arange(n), np.diff(starts))
        count = np.bincount(words, minlength=len(figures))
        by_rarity = np.argsort(count, kind="stable")
        rank = np.empty(len(by_rarity), np.int64)
        rank[by_rarity] = np.arange(len(by_rarity))
        keys = _unique((row << 32) | rank[words])
        row, self.words = keys >> 32, keys & 0xFFFFFFFF
        self.starts: Ints = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))])
        self.count = count[by_rarity]
        self.figure = figures[by_rarity]
        idf = np.log((n + 1) / np.maximum(self.count, 1))
        self.weight: Floats = np.maximum(idf - math.log(COMMON), 0) ** 2
        self.norm = np.sqrt(np.maximum(np.bincount(row, self.weight[self.words], minlength=n), 1e-12))
        self.has_figure = np.bincount(row, self.figure[self.words], minlength=n) > 0
        self._row = row

    def candidates(self, times: Ints, window: int) -> tuple[Ints, Ints]:
        """Return pairs within the window that share two of their rarest words, each once, earlier first."""
        # A word of one text alone joins nothing.
        shared = self.count[self.words] > 1
        row, word = self._row[shared], self.words[shared]
        n = len(self.starts) - 1
        sizes = np.bincount(row, minlength=n)
        first = np.cumsum(sizes) - sizes
        place = np.arange(len(row)) - first[row]
        rare = np.full((RAREST, n), -1, np.int64)
        few = place < RAREST
        rare[place[few], row[few]] = word[few]
        keys, texts = [], []
        for one, other in combinations(range(RAREST), 2):
            there = np.flatnonzero(rare[other] >= 0)
            keys.append((rare[one, there] << 32) | rare[other, there])
            texts.append(there)
        key, text = np.concatenate(keys), np.concatenate(texts)
        order = np.lexsort((text, key))
        key, text = key[order], text[order]
        active = np.arange(len(key))
        pairs = []
        for distance in range(1, NEIGHBOURS + 1):
            active = active[active + distance < len(key)]
            after = active + distance
            near = (key[after] == key[active]) & (times[text[after]] - times[text[active]] <= window)
            active = active[near]
            if len(active) == 0:
                break
            pairs.append(text[active] * n + text[active + distance])
        if not pairs:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        both = _unique(np.concatenate(pairs))
        return both // n, both % n

    def similar(self, a: Ints, b: Ints, similarity: float) -> tuple[Ints, Ints, Floats]:
        """Return those pairs that report one event, with their cosines."""
        one, other = self._matrix(a), self._matrix(b)
        common = one.multiply(other)
        cosine = (common @ self.weight) / (self.norm[a] * self.norm[b])
        apart = self.has_figure[a] & self.has_figure[b] & (common @ self.figure.astype(np.float64) == 0)
        kept = (cosine >= similarity) & ~apart
        return a[kept], b[kept], cosine[kept]

    def cosine(self, i: int, j: int) -> float:
        """Return the cosine of two texts."""
        one = self.words[self.starts[i] : self.starts[i + 1]]
        other = self.words[self.starts[j] : self.starts[j + 1]]
        common = np.intersect1d(one, other, assume_unique=True)
        return float(self.weight[common].sum()) / float(self.norm[i] * self.norm[j])

    def _matrix(self, rows: Ints) -> csr_array:
        sizes = self.starts[rows + 1] - self.starts[rows]
        ends = np.cumsum(sizes)
        places = np.repeat(self.starts[rows] - ends + sizes, sizes) + np.arange(int(sizes.sum()))
        indptr = np.concatenate([[0], ends])
        shape = (len(rows), len(self.weight))
        matrix = csr_array((np.ones(len(places)), self.words[places], indptr), shape=shape)
        matrix.has_canonical_format = True
        return matrix


def _unique(numbers: Ints) -> Ints:
    """Return the different numbers, rising; `np.unique` takes 12 times as long, by a hash table."""
    ordered: Ints = np.sort(numbers)
    is_first: NDArray[np.bool_] = np.diff(ordered, prepend=ordered[:1] - 1) != 0
    return ordered[is_first]


def _chunks(a: Ints, b: Ints) -> list[tuple[Ints, Ints]]:
    parts = math.ceil(len(a) / _PAIRS)
    return [(a[i * _PAIRS : (i + 1) * _PAIRS], b[i * _PAIRS : (i + 1) * _PAIRS]) for i in range(parts)]
