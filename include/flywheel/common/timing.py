"""Where a job's time goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timing:
    """The seconds of a job, by part.

    Attributes:
        seconds: of each part, by name, in the order in which they first began.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Count what runs inside as so much more of a part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Count so many seconds more of a part."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
