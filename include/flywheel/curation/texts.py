"""The sample's own text in a prompt: what is left without the instructions that many prompts share.

Near-duplicates are judged by it, and duplicates too. Where the prompt is the workload's own, the workload
knows the text. Others (prompts of before an edit, logs of an application with a prompt of its own) share
beginnings and ends that are found here: otherwise two such prompts would be near-duplicates for their
instructions' sake.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from flywheel.records import Record
from flywheel.stores.prompts import shared_start
from flywheel.workload import Workload

# Numbers stay whole, so that headlines which differ in a figure differ in a word.
_WORD = re.compile(r"\w+(?:[.,'’&-]\w+)*")
# Texts that begin with the same so many characters may be prompts with the same instructions; they are taken
# for such when they share at least MIN_SHARED characters, which headlines do not have.
_SAME_START = 64
MIN_SHARED = 256
_MAX_KNOWN = 16
# Few enough that their prompts stay in the processor's cache.
_BATCH = 500
_MAX_SINGLE = 10_000


def words_of(text: str) -> list[str]:
    """Return the words of a text, without case and punctuation; `$27.50` and `Q3` are words."""
    return _WORD.findall(text.casefold())


def own_texts(records: Iterable[Record], workload: Workload | None) -> Iterator[tuple[Record, str]]:
    """Yield each record with its own text, in their order.

    Args:
        workload: whose prompt most of the records have, where known.
    """
    prompts = _Prompts()
    batch: list[tuple[Record, str, bool]] = []
    for record in records:
        text = workload.text_of(record.messages) if workload else None
        batch.append((record, _last_user_text(record) if text is None else text, text is None))
        if len(batch) == _BATCH:
            yield from prompts.strip(batch)
            batch.clear()
    yield from prompts.strip(batch)


class _Prompts:
    """The beginnings and ends that prompts share, learned batch by batch."""

    def __init__(self) -> None:
        self._known: dict[str, list[tuple[str, str]]] = {}
        # A text of each beginning that has met no other like it yet.
        self._single: dict[str, str] = {}

    def strip(self, batch: list[tuple[Record, str, bool]]) -> Iterator[tuple[Record, str]]:
        """Yield the records of a batch with what is their own of those texts that are whole prompts."""
        new: dict[str, set[str]] = {}
        for _, text, is_prompt in batch:
            if is_prompt and len(text) >= MIN_SHARED and self._find(text) is None:
                new.setdefault(text[:_SAME_START], set()).add(text)
        for start, texts in new.items():
            self._learn(start, texts)
        for record, text, is_prompt in batch:
            ends = self._find(text) if is_prompt else None
            yield record, text[len(ends[0]) : len(text) - len(ends[1])] if ends else text

    def _learn(self, start: str, texts: set[str]) -> None:
        if start in self._single:
            texts = {*texts, self._single.pop(start)}
        before, after = _shared(texts) if len(texts) > 1 else ("", "")
        if len(before) + len(after) >= MIN_SHARED:
            known = self._known.setdefault(start, [])
            known.append((before, after))
            # The shortest first: few prompts may agree by chance on words of their own.
            known.sort(key=lambda ends: len(ends[0]) + len(ends[1]))
            del known[_MAX_KNOWN:]
        elif len(self._single) < _MAX_SINGLE:
            self._single[start] = min(texts)

    def _find(self, text: str) -> tuple[str, str] | None:
        for before, after in self._known.get(text[:_SAME_START], ()):
            long_enough = len(text) >= len(before) + len(after)
            if long_enough and text.startswith(before) and text.endswith(after):
                return before, after
        return None


def _shared(texts: set[str]) -> tuple[str, str]:
    """Return what the texts begin with and what the rest of them ends with, cut at white space."""
    first, last = min(texts), max(texts)  # of all, these two share the least
    before = _to_space(first[: shared_start(first, last)])
    rests = [text[len(before) :][::-1] for text in texts]
    first, last = min(rests), max(rests)
    return before, _to_space(first[: shared_start(first, last)])[::-1]


def _to_space(text: str) -> str:
    """Return the text up to its last white space, so that no word is cut."""
    match = re.search(r".*\s", text, re.DOTALL)
    return match[0] if match else ""


def _last_user_text(record: Record) -> str:
    for message in reversed(record.messages):
        if message["role"] == "user":
            return str(message["content"])
    return str(record.messages[-1]["content"])
