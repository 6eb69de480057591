"""Patience with a service that is away or busy: how long to wait after a failure, and when to give up.

A wait is random between nothing and a bound that doubles with each failure (AWS Architecture Blog,
"Exponential Backoff And Jitter"), and never shorter than what the service asks for.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

from tenacity import RetryCallState, Retrying, stop_after_delay, wait_random_exponential


class Patience:
    """The waits between attempts, by tenacity; the caller makes the attempts, which may differ.

    Args:
        seconds: of failures alone, after which it is over.
        over: gives the error to raise for the last failure, when time is over or it may not pass.
        may_pass: whether another attempt may help after an error.
        asked: seconds that a service asks for in an error (Retry-After).
        say: hears of the first failure in a row.
        first, longest: bounds of the first wait and of all, in seconds.
    """

    def __init__(
        self,
        seconds: float,
        over: Callable[[Any], Exception],
        *,
        may_pass: Callable[[Any], bool] = lambda _: True,
        asked: Callable[[Any], float] = lambda _: 0.0,
        say: Callable[[Any], object] = lambda _: None,
        first: float = 0.5,
        longest: float = 30.0,
    ) -> None:
        self._over, self._may_pass, self._asked, self._say = over, may_pass, asked, say
        self._stop, self._wait = stop_after_delay(seconds), wait_random_exponential(first, longest)
        self._row: RetryCallState | None = None

    def failed(self, error: Exception) -> float:
        """Return the seconds until the next attempt.

        Raises:
            Exception: what `over` gives.
        """
        begins = self._row is None
        row = self._row = self._row or RetryCallState(Retrying(), None, (), {})
        row.set_exception((type(error), error, error.__traceback__))
        if not self._may_pass(error) or self._stop(row):
            raise self._over(error) from error
        if begins:
            self._say(error)
        pause = max(self._wait(row), self._asked(error))
        row.prepare_for_next_attempt()
        return pause

    def wait(self, error: Exception) -> None:
        """Wait after a failure; raises as `failed`."""
        time.sleep(self.failed(error))

    async def pause(self, error: Exception) -> None:
        """Wait as `wait` does, while others go on."""
        await asyncio.sleep(self.failed(error))

    def reset(self) -> None:
        """Begin anew after a success."""
        self._row = None


def seconds_to_wait(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3)."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
