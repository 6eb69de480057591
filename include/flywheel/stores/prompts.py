"""Keeps the part that the prompts of a workload share once, whatever the workload.

A request is its skeleton, all of it but the text of its last message, and that text. Of the text, a record
keeps only what differs from a reference text: the number of characters that both begin with, those that both
end with, and what stands between. The reference is simply an earlier record's text with the same skeleton,
so nothing has to be configured, and a prompt that changes gets a new reference. A million records around a
prompt of 5 KB take 0.2 GB and not 5 (measured by benchmarks/curate.py).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson

from flywheel.common.shared_text import shared_end, shared_start

# A text that shares this many characters more with another recent text than with all references is
# the second of a new prompt: the other becomes a reference. Two headlines share fewer by chance.
MIN_GAIN = 256
# Texts of one skeleton that a new one is compared with.
MAX_REFERENCES = 8


@dataclass(slots=True)
class Reference:
    """A skeleton and a text that later texts are compared with.

    Attributes:
        skeleton: the request's JSON with an empty text in its last message.
        number: of it in the store; None until it has one.
        first, last: of the latest difference from it: where the next one probably is.
    """

    skeleton: bytes
    text: str
    number: int | None = None
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """A request as what differs from a reference: its first and last characters are the reference's."""

    reference: Reference
    first: int
    last: int
    text: str


class Compressor:
    """Turns requests into differences from the references it knows, and proposes new ones.

    It remembers the most recently used skeletons and, for each, a few references and a few texts that
    resembled none; a text of those becomes a reference once another resembles it.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[list[Reference], list[str]]] = OrderedDict()

    def know(self, reference: Reference) -> None:
        """Use a reference that the store has."""
        references, _ = self._of(reference.skeleton)
        references.insert(0, reference)
        del references[MAX_REFERENCES:]

    def knows(self, skeleton: bytes) -> bool:
        """Return whether there is a reference of that skeleton."""
        return skeleton in self._known

    def references(self) -> list[Reference]:
        """Return the references that it knows."""
        return [reference for references, _ in self._known.values() for reference in references]

    def reduce(self, skeleton: bytes, text: str) -> Difference:
        """Return the difference from the best reference.

        A reference without a number is new: it must be stored before the difference.
        """
        references, others = self._of(skeleton)
        best: Difference | None = None
        for reference in references:
            best = _better(best, difference(reference, text))
            if len(best.text) < MIN_GAIN:
                break
        if best is not None and len(best.text) < MIN_GAIN:
            if best.reference is not references[0]:
                references.remove(best.reference)
                references.insert(0, best.reference)
            return best
        if best is None:
            reference = Reference(skeleton, text)
            self.know(reference)
            return difference(reference, text)
        for other in others:
            found = difference(Reference(skeleton, other), text)
            if len(found.text) + MIN_GAIN <= len(best.text):
                best = found
        if best.reference.text in others:
            others.remove(best.reference.text)
            self.know(best.reference)
        else:
            others.insert(0, text)
            del others[MAX_REFERENCES:]
        return best

    def _of(self, skeleton: bytes) -> tuple[list[Reference], list[str]]:
        entry = self._known.setdefault(skeleton, ([], []))
        self._known.move_to_end(skeleton)
        if len(self._known) > 64:
            self._known.popitem(last=False)
        return entry


def digest(content: bytes) -> bytes:
    """Return 16 bytes that identify a skeleton or a text."""
    return hashlib.sha256(content).digest()[:16]


def skeleton_and_text(request: dict[str, Any]) -> tuple[bytes, str]:
    """Split a request into its JSON with an empty text in its last message, and that text."""
    *others, last = request["messages"]
    return orjson.dumps({**request, "messages": [*others, {**last, "content": ""}]}), last["content"]


class Frame:
    """A reference as it is read: gives requests back from what differs."""

    def __init__(self, skeleton: bytes, text: str) -> None:
        self._skeleton: dict[str, Any] = orjson.loads(skeleton)
        self._text = text

    def request(self, first: int, last: int, text: str) -> dict[str, Any]:
        """Return the request, its messages fresh so that a caller may change them."""
        reference = self._text
        content = f"{reference[:first]}{text}{reference[len(reference) - last :]}"
        messages = [{**message} for message in self._skeleton["messages"]]
        messages[-1]["content"] = content
        return {**self._skeleton, "messages": messages}


def difference(reference: Reference, text: str) -> Difference:
    """Return what differs between a text and a reference."""
    shared = reference.text
    first = shared_start(shared, text, reference.first)
    last = shared_end(shared, text, min(len(shared), len(text)) - first, reference.last)
    reference.first, reference.last = first, last
    return Difference(reference, first, last, text[first : len(text) - last])


def _better(one: Difference | None, other: Difference) -> Difference:
    return other if one is None or len(other.text) < len(one.text) else one
