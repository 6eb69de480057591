"""What a record is beside its own text: its instructions, the turns before it, the functions it offers.

Two dialogues that end alike, or one question under two instructions, are two records: duplicates are looked
for among records of one such context alone. Days, times and identifiers in instructions are passed over, for
applications write today's into them. And the turns of one dialogue belong together, so that no split puts
one of them beside an examination of the other: a record continues another one where its messages begin with
that one's messages and answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from flywheel.curation.words import words_of
from flywheel.workloads.records import Message, Record

# Words of earlier turns that are kept, the latest: they tell which texts report one event.
MOST_EARLIER = 300

_INSTRUCTIONS = ("system", "developer")
_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_MOMENT = re.compile(
    r"\b(?:\d{4}-\d\d-\d\d(?:[t ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:z|[+-]\d\d:?\d\d)?)?"
    r"|\d{1,2}:\d\d(?::\d\d)?(?: ?[ap]\.?m\b\.?)?"
    r"|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH},? \d{{4}}"
    rf"|{_MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day"
    r"|\d{10}|\d{13}"
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\b"
)


class Around(NamedTuple):
    """What is around a record's own text.

    Attributes:
        context: of instructions, earlier turns and offered functions, the same where they are; "" for none.
        earlier: words of earlier turns, at most `MOST_EARLIER`.
        whole: of all turns with the answer, in 64 bits; 0 where that is not asked.
        before: of all turns up to the last answer among them, in 64 bits; 0 where there is none.
    """

    context: str = ""
    earlier: tuple[str, ...] = ()
    whole: int = 0
    before: int = 0


ALONE = Around()


def around(record: Record) -> Around:
    """Return what is around the own text of a record, which is its last user message and what came after."""
    told, turns = [], []
    for message in record.messages:
        if message["role"] in _INSTRUCTIONS:
            told.append(str(message.get("content") or ""))
        else:
            turns.append(message)
    tools = tuple(sorted(tool["function"]["name"] for tool in record.tools)) if record.tools else ()
    context = _context(tuple(told), tools) if told or tools else ""
    last = next((at for at in reversed(range(len(turns))) if turns[at]["role"] == "user"), len(turns) - 1)
    history = turns[: max(0, last)]
    answered = next((at for at in reversed(range(len(turns))) if turns[at]["role"] == "assistant"), -1)
    answer = {"role": "assistant", "content": record.answer, "tool_calls": record.tool_calls}
    whole = _number([*turns, answer])
    if answered < 0 and not history:
        return Around(context, (), whole)
    words = [_words(message) for message in history]
    said = (f"{message['role']} {' '.join(own)}" for message, own in zip(history, words, strict=True))
    earlier = [word for own in words for word in own]
    return Around(
        context=digest([context, *said]) if history else context,
        earlier=tuple(dict.fromkeys(reversed(earlier)))[:MOST_EARLIER],
        whole=whole,
        before=_number(turns[: answered + 1]) if answered >= 0 else 0,
    )


@lru_cache(maxsize=1024)
def _context(told: tuple[str, ...], tools: tuple[str, ...]) -> str:
    """Return what instructions and the names of offered functions are told apart by."""
    return digest([*map(instructions, told), *tools])


@lru_cache(maxsize=1024)
def instructions(text: str) -> str:
    """Return what tells instructions apart: their words, but for days, times and identifiers."""
    return digest(words_of(_MOMENT.sub(" ", text.casefold())))


def digest(parts: Iterable[str]) -> str:
    """Return 16 hex digits of texts in their order."""
    return blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _words(message: Message) -> list[str]:
    """Return the words of a turn, with those of its calls."""
    return words_of(
        " ".join([str(message.get("content") or ""), *map(_call, message.get("tool_calls") or ())])
    )


def _call(call: dict[str, Any]) -> str:
    return f"{call['function']['name']} {call['function'].get('arguments') or ''}"


def _number(turns: Sequence[Message]) -> int:
    """Return 64 bits of turns, without what varies between two logs of them; never 0."""
    said = []
    for turn in turns:
        said += [turn["role"], (turn.get("content") or "").strip()]
        calls = turn.get("tool_calls")
        if calls:
            said += [call["function"]["name"] for call in calls]
    return int.from_bytes(blake2b("\0".join(said).encode(), digest_size=8).digest(), "little") or 1
