"""Short prompts: a fine-tuned student is asked the record's own text alone, without the instructions.

What a classification's prompts share (a system message, instructions, examples in words) tells a student that
was trained on them nothing: with the text alone it learns faster, answers faster and as well
(docs/training.md). The form is found in the data, so it works for logs whose template is unknown, and is kept
beside the adapter: whoever asks the student later takes away the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from flywheel.curation.texts import shared_ends

# Records of a training set that the form is taken from: the first ones, whatever the size of a candidate.
LOOKED_AT = 1000
# What so few characters share may be chance: they stay.
LEAST = 80

Messages = Sequence[dict[str, Any]]


class ShortPrompt(BaseModel):
    """What a student's prompts leave out.

    Attributes:
        messages: with which a conversation begins; they are left out whole.
        before, after: texts around the own text of the message after them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: tuple[dict[str, Any], ...] = ()
    before: str = ""
    after: str = ""

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> ShortPrompt | None:
        """Return what the prompts of a training set's records share; None: too little to leave anything out.

        Args:
            records: lines of train.jsonl; the first `LOOKED_AT` count.
        """
        requests = [record["messages"][:-1] for record in records[:LOOKED_AT]]
        if len(requests) < 2:
            return None
        shared = 0
        shortest = min(len(request) for request in requests)
        while shared < shortest - 1 and all(request[shared] == requests[0][shared] for request in requests):
            shared += 1
        texts = [request[shared]["content"] for request in requests]
        if not all(isinstance(text, str) for text in texts):
            return None
        before, after = shared_ends(set(texts))
        messages = tuple(requests[0][:shared])
        length = len(before) + len(after) + sum(len(str(message.get("content"))) for message in messages)
        return cls(messages=messages, before=before, after=after) if length >= LEAST else None

    def shortened(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a line of a data set without what is left out."""
        *request, answer = record["messages"]
        return {**record, "messages": [*self.shorten(request), answer]}

    def shorten(self, messages: Messages) -> list[dict[str, Any]]:
        """Return a conversation without what is left out; one of another form as it is."""
        count = len(self.messages)
        if list(messages[:count]) != list(self.messages) or len(messages) <= count:
            return list(messages)
        first, *rest = messages[count:]
        text = first.get("content")
        if (
            not isinstance(text, str)
            or len(text) < len(self.before) + len(self.after)
            or not (text.startswith(self.before) and text.endswith(self.after))
        ):
            return list(messages)
        own = text[len(self.before) : len(text) - len(self.after)].strip()
        return [{**first, "content": own}, *rest]
