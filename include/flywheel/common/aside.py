"""A file of findings, written aside until it is whole: a stage that is killed leaves none half written."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from flywheel.common.durable import put_in_place
from flywheel.common.full_disk import is_full, told_when_full


class AsideFile:
    """Put in place at the end of the `with`, where `count` says that something was found; else there is none.

    Args:
        path: of the file.
        mode: and the settings are those of `Path.open`.
    """

    def __init__(self, path: Path, mode: str, **settings: Any) -> None:
        self.count = 0
        self._path = path
        self._aside = path.with_name(f".{path.name}.{os.getpid()}")
        self._file: IO[Any] = self._aside.open(mode, **settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with told_when_full(self._path):
                self._file.close()
                if error is not None and is_full(error):
                    raise error
                if self.count:
                    put_in_place(self._aside, self._path)
                else:
                    self._path.unlink(missing_ok=True)
        finally:
            self._aside.unlink(missing_ok=True)
