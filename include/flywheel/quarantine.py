"""Where bad input goes: one JSONL line for each, with its file, line and reason, so that nothing is lost."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

MAX_RAW_CHARACTERS = 2000


class Quarantine:
    """Collects bad input in a JSONL file: `{"file", "line", "reason", "raw"}`, raw shortened.

    An unusable answer of the teacher stands there too, as `answer`.

    The file is written aside and renamed into place at the end, so that a stage that is killed and run
    again lists each bad input once.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.count = 0
        self.reasons: dict[str, int] = {}
        self._aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self._file = self._aside.open("wb")

    def add(
        self, file: str, line: int | None, reason: str, raw: object = "", *, answer: str | None = None
    ) -> None:
        """Set one bad input aside."""
        text = raw if isinstance(raw, str) else repr(raw)
        entry = {"file": file, "line": line, "reason": reason, "raw": text[:MAX_RAW_CHARACTERS]}
        if answer is not None:
            entry["answer"] = answer[:MAX_RAW_CHARACTERS]
        # Lone surrogates, which JSON cannot hold, become backslash escapes.
        safe = {
            key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
            for key, value in entry.items()
        }
        self._file.write(orjson.dumps(safe, option=orjson.OPT_APPEND_NEWLINE))
        self.count += 1
        kind = reason.split(":", 1)[0][:80]
        self.reasons[kind] = self.reasons.get(kind, 0) + 1

    def close(self) -> None:
        """Put the file in place."""
        if not self._file.closed:
            self._file.close()
            os.replace(self._aside, self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
