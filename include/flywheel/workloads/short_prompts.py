"""Short prompts: a fine-tuned student is asked the record's own text alone, without the instructions.

What a classification's prompts share (a system message, instructions, examples in words) tells a student that
was trained on them nothing: with the text alone it learns faster, answers faster and as well
(docs/training.md). The form is found in the data, so it works for logs whose template is unknown, and is kept
beside the adapter: whoever asks the student later takes away the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flywheel.workloads.lines import SharedPrompt, shared_prompt

# Records of a training set that the form is taken from: the first ones, whatever the size of a candidate.
LOOKED_AT = 1000

Messages = Sequence[dict[str, Any]]


class ShortPrompt(SharedPrompt):
    """What a student's prompts leave out."""

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> ShortPrompt | None:
        """Return what the prompts of a training set's records share; None: too little to leave anything out.

        Args:
            records: lines of train.jsonl; the first `LOOKED_AT` count.
        """
        found = shared_prompt([record["messages"][:-1] for record in records[:LOOKED_AT]])
        return cls(**found.model_dump()) if found else None

    def shortened(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a line of a data set without what is left out."""
        *request, answer = record["messages"]
        return {**record, "messages": [*self.shorten(request), answer]}

    def shorten(self, messages: Messages) -> list[dict[str, Any]]:
        """Return a conversation without what is left out; one of another form as it is."""
        own = self.without(messages)
        if own is None:
            return list(messages)
        text = own[0].get("content")
        return [{**own[0], "content": text.strip()}, *own[1:]] if isinstance(text, str) else own
