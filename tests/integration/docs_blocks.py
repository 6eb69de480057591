"""The shell blocks of README.md and docs/*.md: which they are, and how each is to be run.

A comment before a block says what it needs, `<!-- tier: up; before: COMMAND; after: COMMAND -->`:

    up          Airflow of `make run` is up
    stays       it does not end by itself: it is left running
    long        minutes, or the package index
    cluster     a Kubernetes cluster
    gpu         a GPU
    elsewhere   a service on another machine

`before` makes what the reader has already, `after` takes away what the next block must not meet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
TIERS = {"up", "stays", "long", "cluster", "gpu", "elsewhere"}
# Run where FLYWHEEL_DOCS_TIERS names them.
APART = {"long", "cluster", "gpu", "elsewhere"}
_FENCE = re.compile(
    r"(?:^<!-- (?P<told>(?:tier|before|after):[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```"
    r"(?P<then>\n\n```json\n(?P<shown>.*?)^```)?",
    re.MULTILINE | re.DOTALL,
)
_NEXT = re.compile(r"; (?=(?:tier|before|after): )")


@dataclass(frozen=True)
class Block:
    """A block.

    Attributes:
        shown: the answer that the page shows below it; empty: none.
    """

    name: str
    text: str
    language: str
    tiers: frozenset[str]
    before: str
    after: str
    shown: str


def blocks() -> list[Block]:
    """Return the fenced blocks of all pages without a language, or of a shell, in order."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for fence in _FENCE.finditer(text):
            if fence["language"] not in ("", "sh", "bash", "shell", "console"):
                continue
            parts = _NEXT.split(fence["told"]) if fence["told"] else []
            told = dict(part.split(": ", 1) for part in parts)
            line = text.count("\n", 0, fence.start("text"))
            found.append(
                Block(
                    f"{page.relative_to(PROJECT)}:{line}",
                    fence["text"],
                    fence["language"],
                    frozenset(told.get("tier", "").split()),
                    told.get("before", ""),
                    told.get("after", ""),
                    fence["shown"] or "",
                )
            )
    return found
