"""How labelling is getting on: rate, time left, cost so far, in one line of the log every ten seconds."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence

from flywheel.common.errors import FlywheelError
from flywheel.config.source import SourceConfig
from flywheel.sources.files import SourceFile, files_of
from flywheel.teacher.client import TeacherClient
from flywheel.teacher.labeller import LabellingCounts

log = logging.getLogger(__name__)

LOG_SECONDS = 10.0
# The rate is that of the last minute.
_RATE_SECONDS = 60.0
_BLOCK = 1 << 20


class LabellingProgress:
    """Counts what is done, and says so from time to time.

    Args:
        client: knows what was spent and what is in flight.
        read: rows read so far, by what became of them.
        sources: of headlines; their rows are counted meanwhile, in a thread, where they are on this machine.
    """

    def __init__(
        self, client: TeacherClient, read: Counter[str], sources: Sequence[tuple[str, SourceConfig]]
    ) -> None:
        self._client = client
        self._read = read
        self._total: int | None = None
        self._logged = time.monotonic()
        self._points = deque([(self._logged, 0)])
        threading.Thread(target=self._count_rows, args=(sources,), daemon=True, name="rows").start()

    def update(self, counts: LabellingCounts) -> None:
        """Take note of the counts; log them if it is time to."""
        now = time.monotonic()
        if now - self._logged < LOG_SECONDS:
            return
        self._logged = now
        self._points.append((now, counts.headlines))
        while len(self._points) > 2 and now - self._points[0][0] > _RATE_SECONDS:
            self._points.popleft()
        log.info("%s", self.line(counts))

    def line(self, counts: LabellingCounts) -> str:
        """Return the progress in words."""
        spending = self._client.spending
        (since, before), (until, after) = self._points[0], self._points[-1]
        rate = (after - before) / (until - since) if until > since else 0.0
        parts = [f"{counts.headlines:,} headlines settled"]
        if rate:
            parts.append(f"{rate:,.0f}/s")
        # Rows at or after the cutoff, and those that cannot be used, were passed over while reading.
        passed_over = self._read["later"] + self._read["quarantined"]
        if rate and self._total is not None:
            left = max(0.0, (self._total - passed_over - counts.headlines) / rate)
            parts.append(f"about {_duration(left)} left")
        parts.append(f"{counts.found:,} found, {counts.asked:,} answers asked for")
        if counts.set_aside:
            parts.append(f"{counts.set_aside:,} set aside")
        if counts.left:
            parts.append(f"{counts.left:,} left for later, the budget is spent")
        parts.append(f"{spending.tokens:,} tokens")
        if spending.cost:
            parts.append(f"{spending.money(spending.cost)} so far")
        parts.append(f"{self._client.in_flight} of at most {self._client.limit} calls in flight")
        return ", ".join(parts)

    def _count_rows(self, sources: Sequence[tuple[str, SourceConfig]]) -> None:
        total = 0
        try:
            for key, source in sources:
                for file in files_of(source, key):
                    rows = _rows(file)
                    if rows is None:
                        return
                    total += rows
        except FlywheelError:
            return  # the reader of the headlines says it
        self._total = total


def _rows(file: SourceFile) -> int | None:
    """Return about how many rows a file has; None where to count them is to fetch it again."""
    if "file" not in file.fs.protocol:
        return None
    with file.open() as opened:
        if file.format == "parquet":
            from pyarrow.parquet import ParquetFile

            return int(ParquetFile(opened).metadata.num_rows)
        lines = sum(block.count(b"\n") for block in iter(lambda: opened.read(_BLOCK), b""))
        return max(0, lines - (file.format == "csv"))


def _duration(seconds: float) -> str:
    """Return a time in words: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
