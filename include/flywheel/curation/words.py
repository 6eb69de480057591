"""The words of a text, as all of curation compares them."""

from __future__ import annotations

import re

# Numbers stay whole, so that headlines which differ in a figure differ in a word.
_WORD = re.compile(r"\w+(?:[.,'’&-]\w+)*")


def words_of(text: str) -> list[str]:
    """Return the words of a text, without case and punctuation; `$27.50` and `Q3` are words."""
    return _WORD.findall(text.casefold())
