"""Append-only files of this machine: an entry is on the disk before its answer is sent.

    FOLDER/<id>.jsonl      a segment, one entry a line; whoever writes it holds its lock (flock)

Entries that come while others are being synced are written and synced together next (group commit), so the
disk's sync is shared by all requests in flight. A segment is closed when it is large or old; one whose writer
was killed loses its lock with it, and its last line where that is torn: its answer was not sent. Whoever gets
the lock of a segment may ship it (flywheel.serving.traffic.shipping).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flywheel.common.durable import sync_folder

SUFFIX = ".jsonl"
# A segment is closed then, and another begun.
MOST_BYTES = 8 << 20


class Segments:
    """Writes entries of one process.

    Args:
        folder: of the segments; made where it is missing.
        oldest_seconds: a segment is closed after that, so that its entries get into the store.
    """

    def __init__(self, folder: Path, *, oldest_seconds: float = 5.0) -> None:
        self._folder, self._oldest = folder, oldest_seconds
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file: int | None = None
        self._begun = 0.0
        self._size = 0
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        # One thread: segments are written and closed one after the other.
        self._thread = ThreadPoolExecutor(1, "traffic")

    async def append(self, line: bytes) -> None:
        """Return when a line is on the disk.

        Raises:
            OSError: it cannot be written; it may be there in part, and is not shipped then.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((line, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await done

    async def close_old(self) -> None:
        """Close the segment where it is old enough."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close_if_old)

    async def close(self) -> None:
        """Close the segment; another append begins a new one."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await loop.run_in_executor(self._thread, self._write_now, b"".join(line for line, _ in batch))
            except OSError as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
                continue
            for _, done in batch:
                if not done.done():
                    done.set_result(None)

    def _write_now(self, data: bytes) -> None:
        if self._file is None:
            self._file = self._begin()
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]
            os.fdatasync(self._file)
        except OSError:
            # What is there in part must not become a line with what comes next.
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)
        if self._size >= MOST_BYTES:
            self._close()

    def _begin(self) -> int:
        """Make a segment, locked before it has its name."""
        name = f"{int(time.time() * 1000):013}-{uuid.uuid4().hex[:12]}"
        aside = self._folder / f".{name}.aside"
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.rename(aside, self._folder / f"{name}{SUFFIX}")
        sync_folder(self._folder)
        self._begun, self._size = time.monotonic(), 0
        return file

    def _close_if_old(self) -> None:
        if self._file is not None and time.monotonic() - self._begun >= self._oldest:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)  # and with it the lock goes
            self._file = None
