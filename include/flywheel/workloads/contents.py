"""A message's content: a text, or a list of parts, of which some are text.

OpenAI's chat API has both, in requests, answers and the results of tools: `"Hello"` is
`[{"type": "text", "text": "Hello"}]`. Mistral's and others' answers have what the model thought as parts of
their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_TEXT = frozenset({"text", "input_text", "output_text"})
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_text", "reasoning_content"})
REFUSAL = "refusal"


class PartError(ValueError):
    """A part that is no text: the message says which, and what it is."""


def text_of_parts(parts: Sequence[Any], passed_over: frozenset[str] = frozenset()) -> str:
    """Return the text of a content in parts, without what the model thought.

    Args:
        passed_over: further types of parts that are left out.

    Raises:
        PartError: a part is of another type, such as an image, or is none.
    """
    texts = []
    for index, part in enumerate(parts):
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            raise PartError(f"{index}: expected an object or a text, got {type(part).__name__}")
        kind = part.get("type", "text")
        if not isinstance(kind, str) or kind not in _TEXT | _THOUGHTS | passed_over:
            raise PartError(f"{index}: expected a text, got {kind!r:.60}, which no student reads")
        if kind in _TEXT:
            if not isinstance(part.get("text"), str):
                raise PartError(f"{index}.text: expected a text, got {type(part.get('text')).__name__}")
            texts.append(part["text"])
    return "".join(texts)
