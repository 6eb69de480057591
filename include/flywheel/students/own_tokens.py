"""The special tokens of a student's own tokenizer, broken up wherever a conversation's texts hold them.

`flywheel.workloads.markers` knows the forms of well-known models; a tokenizer may have others. Here all of
its tokens are known, and the texts of a conversation are broken up before the chat template writes its own
around them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from flywheel.workloads.markers import Message, changed

# A token of fewer signs, or of letters alone, is a word or a sign of any text.
_SHORTEST = 3


class OwnTokens:
    """Breaks up the tokens of one tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        tokens = {str(token) for token in getattr(tokenizer, "all_special_tokens", ())}
        # What is added and not special may be runs of spaces, which many tokenizers have; or `<tool_call>`.
        tokens |= {str(token) for token in added if token.special or re.search(r"[<>\[\]|]", str(token))}
        known = sorted((token for token in tokens if _is_mark(token)), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known))) if known else None

    def broken(self, text: str) -> str:
        """Return a text without a token: a space stands after the first character of each."""
        # A token may hold another one, and what is left of it be one still.
        while self._pattern is not None and self._pattern.search(text):
            text = self._pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        return text

    def in_conversation(self, messages: Sequence[Message], *, answered: bool = False) -> list[Message]:
        """Return messages without a token in their texts.

        Args:
            answered: the last message is the answer to learn, which stays as it is.
        """
        request = messages[:-1] if answered else messages
        return [*(changed(message, self.broken) for message in request), *messages[len(request) :]]


def _is_mark(token: str) -> bool:
    return len(token) >= _SHORTEST and not token.isspace() and not token.strip().isalnum()
