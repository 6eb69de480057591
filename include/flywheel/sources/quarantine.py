"""Where bad input goes: a JSONL line for each of the first ones, with file, line and reason; then counts.

What is bad comes from outside and may be anything in any amount: a file of bad rows must not fill the disk.
The first of each reason tell what is wrong; how many there were is counted to the last.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from flywheel.common.durable import put_in_place
from flywheel.common.full_disk import told_when_full
from flywheel.common.redaction import clean, without_secrets

# Of what was read, and of a reason.
MAX_RAW_CHARACTERS = 2000
MAX_REASON_CHARACTERS = 500
# So much is looked through for secrets: one at the end of what is kept is not left there in part.
_BEYOND = 2 * MAX_RAW_CHARACTERS
# Lines of one reason, and bytes of all lines; what comes after is counted and not listed.
MAX_LISTED = 10_000
MAX_BYTES = 64 << 20
# Kinds of reasons that are counted by name: some hold a place in what was read, of which there may be many.
MAX_KINDS = 200
OTHER_KINDS = "other reasons"


class Quarantine:
    """Collects bad input in a JSONL file: `{"file", "line", "reason", "raw"}`, raw shortened.

    An unusable answer of the teacher stands there too, as `answer`. Of each kind of reason the first
    `MAX_LISTED` are listed, within `MAX_BYTES` for all; a last line for each kind that had more says how
    many those were: `{"file": "", "line": null, "reason": "KIND: 7 more, which are not listed", "raw": ""}`.

    The file is written aside and renamed into place at the end, so that a stage that is killed and run
    again lists each bad input once.

    Attributes:
        count: bad inputs, listed or not.
        reasons: how many by kind, which is a reason up to its first colon.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.count = 0
        self.reasons: dict[str, int] = {}
        self._unlisted: Counter[str] = Counter()
        self._room = MAX_BYTES
        self._aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self._file = self._aside.open("wb")

    def add(
        self,
        file: str,
        line: int | None,
        reason: str,
        raw: object = "",
        *,
        answer: str | None = None,
        owner: tuple[str, str] | None = None,
    ) -> None:
        """Set one bad input aside; what a teacher echoes of a secret is not kept.

        Args:
            owner: workload and client, where the file is not one client's alone; `flywheel forget` finds the
                line by them. They stand there as `workload_id` and `client_id`.
        """
        reason = _safe(clean(reason[:_BEYOND]), MAX_REASON_CHARACTERS)
        kind = reason.split(":", 1)[0][:80]
        if kind not in self.reasons and len(self.reasons) >= MAX_KINDS:
            kind = OTHER_KINDS
        self.count += 1
        self.reasons[kind] = self.reasons.get(kind, 0) + 1
        if kind in self._unlisted or self.reasons[kind] > MAX_LISTED or self._room <= 0:
            self._unlisted[kind] += 1
            return
        text = raw if isinstance(raw, str) else repr(raw)
        self._write(file, line, reason, text, answer, owner)

    def _write(
        self,
        file: str,
        line: int | None,
        reason: str,
        raw: str,
        answer: str | None = None,
        owner: tuple[str, str] | None = None,
    ) -> None:
        entry = {
            "file": _safe(file[-MAX_RAW_CHARACTERS:]),
            "line": line,
            "reason": _safe(reason, MAX_REASON_CHARACTERS),
            "raw": _safe(raw),
        }
        if answer is not None:
            entry["answer"] = _safe(answer)
        if owner is not None:
            entry |= {"workload_id": _safe(owner[0], 256), "client_id": _safe(owner[1], 256)}
        data = orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
        self._room -= len(data)
        with told_when_full(self.path):
            self._file.write(data)

    def close(self) -> None:
        """Put the file in place.

        Raises:
            DiskFullError: there is no room for it.
        """
        if self._file.closed:
            return
        try:
            with told_when_full(self.path):
                for kind, count in sorted(self._unlisted.items()):
                    self._write("", None, f"{kind}: {count:,} more, which are not listed", "")
                self._file.close()
                put_in_place(self._aside, self.path)
        finally:
            self._aside.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _safe(text: str, most: int = MAX_RAW_CHARACTERS) -> str:
    """Return the beginning of a text without secrets, as JSON can hold it: lone surrogates are escaped."""
    return without_secrets(text[:_BEYOND])[:most].encode("utf-8", "backslashreplace").decode()
