"""What texts have in common: how they begin and how they end. Cheap to import."""

from __future__ import annotations

import re
from collections.abc import Sequence


def common_text(texts: Sequence[str]) -> str:
    """Return the longest text that all texts begin with."""
    first, last = min(texts), max(texts)  # of all, these two share the least
    return first[: shared_start(first, last)]


def between(text: str, before: str, after: str) -> str | None:
    """Return what a text has of its own between its beginning and its end; None where it has others."""
    if len(text) < len(before) + len(after) or not (text.startswith(before) and text.endswith(after)):
        return None
    return text[len(before) : len(text) - len(after)]


def shared_ends(texts: set[str], *, whole_words: bool = True) -> tuple[str, str]:
    """Return what the texts begin with and what the rest of them ends with, cut at white space."""
    cut = _to_space if whole_words else str
    before = cut(common_text(list(texts)))
    rests = [text[len(before) :][::-1] for text in texts]
    return before, cut(common_text(rests))[::-1]


def _to_space(text: str) -> str:
    """Return the text up to its last white space, so that no word is cut."""
    match = re.search(r".*\s", text, re.DOTALL)
    return match[0] if match else ""


def shared_start(one: str, other: str, guess: int = 0) -> int:
    """Return the number of characters that both texts begin with.

    Args:
        guess: where to look first; a good one saves most of the work.
    """
    most = min(len(one), len(other))
    if one[:guess] != other[:guess]:
        return _bisect(one, other, 0, min(guess, most))
    low, step = min(guess, most), 16
    while low < most and one[low : low + step] == other[low : low + step]:
        low, step = min(low + step, most), 2 * step
    return _bisect(one, other, low, min(low + step, most))


def shared_end(one: str, other: str, at_most: int, guess: int = 0) -> int:
    """Return the number of characters, at most `at_most`, that both texts end with."""
    # Read backwards, ends are beginnings; only as much as is needed is turned around.
    length = min(at_most, max(2 * guess, 256))
    while True:
        start, end = one[len(one) - length :][::-1], other[len(other) - length :][::-1]
        found = shared_start(start, end, min(guess, length))
        if found < length or length == at_most:
            return found
        guess, length = found, min(at_most, 4 * length)


def _bisect(one: str, other: str, low: int, high: int) -> int:
    """Return the number of characters that both begin with, known to be from `low` to `high`."""
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
