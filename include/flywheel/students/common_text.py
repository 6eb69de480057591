"""What all prompts begin with, as text. No torch here: a task that only scores answers needs it, too."""

from __future__ import annotations

from collections.abc import Sequence


def common_text(texts: Sequence[str]) -> str:
    """Return the longest text that all texts begin with."""
    first, last = min(texts), max(texts)
    for place, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return first[:place]
    return first
