"""Requests that come at about the same time share one pass of the student."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueFullError(Exception):
    """The queue is full."""


class Batches(Generic[Item, Result]):
    """Gathers requests into batches, and has each answered in a thread, one batch at a time.

    While a pass runs, those that come wait and make the next batch; one that comes alone waits `wait_ms` for
    others, and one that has waited for a pass does not wait for others. A torch of several such threads at
    once would share the same cores.

    Args:
        answer: gives the result of each item, in order; an exception among them is raised to its caller.
        batch_size: items in a pass at most.
        wait_ms: milliseconds.
        most_waiting: items in the queue; beyond that, `QueueFullError`.
        thread: runs the passes; shared by all students of a process.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        batch_size: int,
        wait_ms: float,
        most_waiting: int,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._answer, self._batch_size, self._wait = answer, batch_size, wait_ms / 1000
        self._most_waiting, self._thread = most_waiting, thread
        self._waiting: list[tuple[Item, float, asyncio.Future[Result]]] = []
        self._worker: asyncio.Task[None] | None = None
        self._full = asyncio.Event()

    async def ask(self, item: Item) -> Result:
        """Return the result of an item.

        Raises:
            QueueFullError: too many are waiting.
        """
        if len(self._waiting) >= self._most_waiting:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, loop.time(), result))
        if len(self._waiting) >= self._batch_size:
            self._full.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await result

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            left = self._waiting[0][1] + self._wait - loop.time()
            if len(self._waiting) < self._batch_size and left > 0:
                self._full.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._full.wait()
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            # Whoever has gone meanwhile is not answered.
            batch = [one for one in batch if not one[2].done()]
            if not batch:
                continue
            found: Sequence[Result | Exception]
            try:
                found = await loop.run_in_executor(self._thread, self._answer, [item for item, _, _ in batch])
            except Exception as error:
                found = [error] * len(batch)
            for (_, _, result), one in zip(batch, found, strict=True):
                if result.done():
                    continue
                if isinstance(one, Exception):
                    result.set_exception(one)
                else:
                    result.set_result(one)
