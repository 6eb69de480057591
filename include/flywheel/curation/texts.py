"""The sample's own text in a prompt: what is left without the instructions that many prompts share.

Near-duplicates are judged by it, and duplicates too. Where the prompt is the workload's own, the workload
knows the text. Others (prompts of before an edit, logs of an application with a prompt of its own) share
beginnings and ends that are found here: otherwise two such prompts would be near-duplicates for their
instructions' sake. Which prompt it was is kept beside the text (`flywheel.curation.conversation`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from flywheel.common.shared_text import shared_ends
from flywheel.curation.conversation import ALONE, Around, around, digest, instructions
from flywheel.workloads.records import Record
from flywheel.workloads.workload import Workload

# Texts that begin with the same so many characters may be prompts with the same instructions ...
_SAME_START = 64
# ... and are taken for such when they share this many, which hardly two headlines do.
MIN_SHARED = 160
# Bounds on what is remembered: prompts and texts of one beginning, and beginnings.
_MAX_KNOWN = 16
_MAX_RECENT = 8
_MAX_STARTS = 1000

# Few enough that their prompts stay in the processor's cache.
_BATCH = 500

Ends = tuple[str, str]


class Own(NamedTuple):
    """A record's own text, and what is around it."""

    text: str
    around: Around = ALONE


def own_texts(records: Iterable[Record], workload: Workload | None) -> Iterator[tuple[Record, Own]]:
    """Yield each record with its own text, in their order.

    Of the workload's own prompt that is all there is; of another one (an application's) its instructions and
    earlier turns are around it.

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
        self._known: dict[str, list[Ends]] = {}
        # Some texts of each beginning, so that a rare prompt is learned from several batches.
        self._recent: dict[str, list[str]] = {}
        self._names: dict[Ends, str] = {}

    def strip(self, batch: list[tuple[Record, str, bool]]) -> Iterator[tuple[Record, Own]]:
        """Yield the records of a batch with what is their own of those texts that are whole prompts."""
        new: dict[str, set[str]] = {}
        for _, text, is_prompt in batch:
            # What is long may hold more instructions than are known.
            if is_prompt and len(text) >= MIN_SHARED and len(self._own(text)[0]) >= MIN_SHARED:
                new.setdefault(text[:_SAME_START], set()).add(text)
        for start, texts in new.items():
            self._learn(start, texts)
        for record, text, is_prompt in batch:
            if not is_prompt:
                yield record, Own(text)
                continue
            own, name = self._own(text)
            found = around(record)
            yield record, Own(own, found._replace(context=digest([found.context, name])) if name else found)

    def _learn(self, start: str, texts: set[str]) -> None:
        recent = self._recent.get(start, [])
        known = self._known.get(start, [])
        found = [ends for ends in _shared_ends({*texts, *recent}, 0) if ends not in known]
        for ends in found:
            # What agrees but for a few words is one prompt, of which the texts agreed by chance.
            like = next((self._names[other] for other in known if _alike(ends, other)), None)
            self._names[ends] = like or instructions("\n".join(ends))
        if found:
            self._known[start] = (known + found)[-_MAX_KNOWN:]
        if recent or len(self._recent) < _MAX_STARTS:
            self._recent[start] = (recent + sorted(texts))[-_MAX_RECENT:]

    def _own(self, text: str) -> tuple[str, str]:
        """Return what is a text's own, and the name of the prompt around it; "" for none."""
        fitting = [
            ends
            for ends in self._known.get(text[:_SAME_START], ())
            if len(text) >= _length(ends) and text.startswith(ends[0]) and text.endswith(ends[1])
        ]
        if not fitting:
            return text, ""
        # The longest, but for a few words more or less, on which the prompts it was learned from may have
        # agreed by chance.
        longest = max(map(_length, fitting))
        before, after = min((e for e in fitting if _length(e) > longest - MIN_SHARED), key=_length)
        return text[len(before) : len(text) - len(after)], self._names[before, after]


def _alike(one: Ends, other: Ends) -> bool:
    """Return whether two ends are of one prompt: the one has but a few words more."""
    short, long = sorted((one, other), key=_length)
    return (
        _length(long) - _length(short) < MIN_SHARED
        and long[0].startswith(short[0])
        and long[1].endswith(short[1])
    )


def _length(ends: Ends) -> int:
    return len(ends[0]) + len(ends[1])


def _shared_ends(texts: set[str], more_than: int) -> Iterator[Ends]:
    """Yield what texts begin and end with, for all of them and for those groups that share much more."""
    ends = shared_ends(texts)
    if len(texts) < 2 or _length(ends) < more_than + MIN_SHARED:
        return
    yield ends
    groups: dict[str, set[str]] = {}
    for text in texts:
        groups.setdefault(text[len(ends[0]) :][:_SAME_START], set()).add(text)
    for start in sorted(groups):
        if len(groups) > 1:
            yield from _shared_ends(groups[start], _length(ends))


def _last_user_text(record: Record) -> str:
    """Return the last user message with what came after it: what its calls returned tells turns apart."""
    after: list[str] = []
    for message in reversed(record.messages):
        after.append(str(message.get("content") or ""))
        if message["role"] == "user":
            return "\n".join(reversed(after)) if len(after) > 1 else after[0]
    return after[0]
