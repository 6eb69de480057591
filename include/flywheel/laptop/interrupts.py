"""SIGINT, SIGTERM and SIGHUP as one KeyboardInterrupt, at moments when nothing can be lost by it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Raises KeyboardInterrupt in the main thread for each of these signals, as a context."""

    def __init__(self) -> None:
        self._holds = 0
        self._came = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put a signal off until the end of the block: between a process's start and its being known."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        self._raise()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        self._raise()

    def _raise(self) -> None:
        if self._came and not self._holds:
            self._came = False
            raise KeyboardInterrupt
