"""Lines of a data set on disk: what many records share, their prompt and functions, is kept once beside them.

    prompts.json    {"prompts": [{"messages", "before", "after"}], "tools": [...]}
    train.jsonl     a line may say `"prompt": 3`: its messages go without those of prompt 3 at their
                    beginning, and the text of the next one without what stood around it; and `"tools": 0`

A record is read back as it was, to the letter: one that no prompt fits is kept whole. Prompts are learned
from the records as they are written, so those of applications, whose template nobody told, are found as well.
Data sets of before have whole lines and no such file, and are read as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from flywheel.common.errors import ArtifactError
from flywheel.common.shared_text import between, shared_ends

PROMPTS_FILE = "prompts.json"
# What so few characters share may be chance, and is not worth a name.
LEAST = 80
# Prompts of a data set that are told apart, and records of one batch that one is learned from.
_MOST_PROMPTS, _FEWEST = 64, 3
# Texts that begin with the same so many characters may have one template.
_SAME_START = 64
_INSTRUCTIONS = ("system", "developer")

Messages = Sequence[Mapping[str, Any]]
# The number of a shared prompt, and what it leaves of a request; None where none fits.
Fit = tuple[int, list[dict[str, Any]]] | None


class SharedPrompt(BaseModel):
    """What prompts have in common.

    Attributes:
        messages: with which a conversation begins.
        before, after: texts around the own text of the message after them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: tuple[dict[str, Any], ...] = ()
    before: str = ""
    after: str = ""

    @property
    def length(self) -> int:
        """Characters that it takes from each prompt."""
        own = sum(len(str(message.get("content"))) for message in self.messages)
        return len(self.before) + len(self.after) + own

    def without(self, messages: Messages) -> list[dict[str, Any]] | None:
        """Return a conversation without what is shared; None where it has another form."""
        count = len(self.messages)
        if len(messages) <= count or list(messages[:count]) != list(self.messages):
            return None
        first, *rest = (dict(message) for message in messages[count:])
        text = first.get("content")
        if not self.before and not self.after:
            return [first, *rest]
        own = between(text, self.before, self.after) if isinstance(text, str) else None
        return None if own is None else [{**first, "content": own}, *rest]

    def around(self, messages: Messages) -> list[dict[str, Any]]:
        """Return a whole conversation: the other way."""
        first, *rest = (dict(message) for message in messages)
        if self.before or self.after:
            first["content"] = f"{self.before}{first['content']}{self.after}"
        return [*(dict(message) for message in self.messages), first, *rest]


def shared_prompt(requests: Sequence[Messages]) -> SharedPrompt | None:
    """Return what requests share; None: too little, or there is one alone."""
    if len(requests) < 2:
        return None
    shared = 0
    shortest = min(map(len, requests))
    if shortest == 0:
        return None
    while shared < shortest - 1 and all(request[shared] == requests[0][shared] for request in requests):
        shared += 1
    messages = tuple(dict(message) for message in requests[0][:shared])
    texts = [request[shared].get("content") for request in requests]
    before = after = ""
    if all(isinstance(text, str) for text in texts):
        before, after = shared_ends({str(text) for text in texts})
    found = SharedPrompt(messages=messages, before=before, after=after)
    return found if found.length >= LEAST else None


class LineWriter:
    """Makes the lines of a data set, and learns meanwhile what they share.

    Args:
        folder: of the data set.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prompts: list[SharedPrompt] = []
        self._longest_first: list[int] = []
        self._tools: dict[bytes, int] = {}
        self._shared_tools: list[Any] = []

    def lines(self, records: Sequence[dict[str, Any]]) -> bytes:
        """Return the lines of some records, as many as there may be in memory."""
        fits = self._learn([record["messages"][:-1] for record in records])
        lines = (self._line(record, fit) for record, fit in zip(records, fits, strict=True))
        return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)

    def close(self) -> None:
        """Write what the lines share."""
        shared = {
            "prompts": [prompt.model_dump(mode="json") for prompt in self._prompts],
            "tools": self._shared_tools,
        }
        (self._folder / PROMPTS_FILE).write_bytes(orjson.dumps(shared))

    def _fit(self, request: Messages) -> Fit:
        """Return the number of the prompt that takes most from a request, and what is left."""
        for number in self._longest_first:
            own = self._prompts[number].without(request)
            if own is not None:
                return number, own
        return None

    def _line(self, record: dict[str, Any], fit: Fit) -> dict[str, Any]:
        line = dict(record)
        if fit is not None:
            line |= {"prompt": fit[0], "messages": [*fit[1], record["messages"][-1]]}
        if record.get("tools"):
            digest = hashlib.blake2b(orjson.dumps(record["tools"]), digest_size=16).digest()
            line["tools"] = self._tools.setdefault(digest, len(self._shared_tools))
            if line["tools"] == len(self._shared_tools):
                self._shared_tools.append(record["tools"])
        return line

    def _learn(self, requests: Sequence[Messages]) -> list[Fit]:
        """Find what those requests share that are still long: by instructions, then by beginning.

        Returns:
            How each fits, now that it is found.
        """
        fits = [self._fit(request) for request in requests]
        alike: dict[bytes, list[Messages]] = {}
        for request, fit in zip(requests, fits, strict=True):
            if fit is None:
                alike.setdefault(_instructions(request), []).append(request)
        if self._take(alike.values()):
            fits = [self._fit(request) for request in requests]
        alike = {}
        for request, fit in zip(requests, fits, strict=True):
            text = (fit[1] if fit else request)[0].get("content") if request else None
            if isinstance(text, str) and len(text) >= 2 * LEAST:
                start = str(fit[0] if fit else "").encode() + text[:_SAME_START].encode()
                alike.setdefault(_instructions(request) + start, []).append(request)
        if self._take(alike.values()):
            fits = [self._fit(request) for request in requests]
        return fits

    def _take(self, groups: Iterable[Sequence[Messages]]) -> bool:
        """Take what the requests of each group share; say whether there was anything new."""
        known = len(self._prompts)
        for group in groups:
            if len(group) < _FEWEST or len(self._prompts) >= _MOST_PROMPTS:
                continue
            found = shared_prompt(group)
            if found is not None and found not in self._prompts:
                self._prompts.append(found)
        places = range(len(self._prompts))
        self._longest_first = sorted(places, key=lambda place: -self._prompts[place].length)
        return len(self._prompts) > known


def read_lines(path: Path, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a file of a data set, whole, all or the first so many.

    Raises:
        ArtifactError: a line is no record, or names a prompt that the data set has not.
    """
    prompts: list[SharedPrompt] = []
    tools: list[Any] = []
    if (path.parent / PROMPTS_FILE).exists():
        shared = orjson.loads((path.parent / PROMPTS_FILE).read_bytes())
        prompts, tools = [SharedPrompt(**prompt) for prompt in shared["prompts"]], shared["tools"]
    with path.open("rb") as file:
        for number, line in enumerate(islice(file, most), 1):
            try:
                record = orjson.loads(line)
                if "prompt" in record:
                    *own, answer = record["messages"]
                    record["messages"] = [*prompts[record.pop("prompt")].around(own), answer]
                if isinstance(record.get("tools"), int):
                    record["tools"] = tools[record["tools"]]
            except (orjson.JSONDecodeError, LookupError, TypeError, ValueError, AttributeError) as error:
                raise ArtifactError(f"{path}, line {number}: no record: {error}") from None
            yield record


def _instructions(request: Messages) -> bytes:
    """Return what a conversation begins with before anybody speaks, to tell templates apart."""
    told = []
    for message in request:
        if message.get("role") not in _INSTRUCTIONS:
            break
        told.append(str(message.get("content")))
    return hashlib.blake2b("\0".join(told).encode(), digest_size=16).digest()
