"""One endpoint as the client sees it: its connections, how much it carries, and whether it is well.

An endpoint whose calls fail EJECT_AFTER times in a row is ejected (a circuit breaker: Nygard, Release It!,
2007; the growing times out are those of Envoy's outlier detection). It gets no calls for a second, then one
call to try; each failure doubles the time out, an answer brings the endpoint back, from a few calls on.
"""

from __future__ import annotations

import logging
import math
import random
import time

from flywheel.common.errors import TeacherError
from flywheel.config.teacher import RateLimits
from flywheel.teacher.connections import Connections
from flywheel.teacher.endpoint import Endpoint
from flywheel.teacher.limiter import Limiter, Pace

log = logging.getLogger(__name__)

EJECT_AFTER = 5
FIRST_EJECTION_SECONDS = 1.0
MAX_EJECTION_SECONDS = 30.0


class Route:
    """An endpoint, and what is known of it.

    Attributes:
        broken: why it can answer no call at all, such as a wrong key; None while it can.
        has_answered: whether it has ever given an answer.
        refusals: calls in a row that it refused for a reason that may be the endpoint's own, such as its key.
    """

    def __init__(
        self, endpoint: Endpoint, connections: Connections, limiter: Limiter, rates: RateLimits
    ) -> None:
        self.endpoint = endpoint
        self.connections = connections
        self.limiter = limiter
        self.broken: TeacherError | None = None
        self.has_answered = False
        self.refusals = 0
        self._calls = Pace(rates.requests_per_minute) if rates.requests_per_minute else None
        self._tokens = Pace(rates.tokens_per_minute) if rates.tokens_per_minute else None
        self._closed_until = -math.inf
        self._failures = 0
        self._ejections = 0
        self._ejected_at = self._ejected_until = -math.inf

    @property
    def is_ejected(self) -> bool:
        """Whether its last calls failed; one at a time then tries it."""
        return self._ejections > 0

    @property
    def has_room(self) -> bool:
        """Whether it carries one more call."""
        return self.is_ejected or self.limiter.has_room

    @property
    def load(self) -> float:
        """Calls in flight for each that it carries."""
        return self.limiter.in_flight / self.limiter.limit

    @property
    def opens_at(self) -> float:
        """Monotonic seconds from when on it takes calls: after a Retry-After, an ejection, at its rates."""
        return max(
            self._closed_until,
            self._ejected_until,
            self._calls.opens_at if self._calls else -math.inf,
            self._tokens.opens_at if self._tokens else -math.inf,
        )

    def enter(self) -> None:
        """Note that a call is sent."""
        self.limiter.enter()
        if self.is_ejected:  # one call tries it, and no other meanwhile
            self._ejected_until = time.monotonic() + self._time_out()
        if self._calls:
            self._calls.use(1)

    def use_tokens(self, tokens: float) -> None:
        """Note tokens that a call will use, or, below 0, did not use."""
        if self._tokens:
            self._tokens.use(tokens)

    def close_for(self, seconds: float) -> None:
        """Send nothing for so long, as the endpoint asks."""
        self._closed_until = max(self._closed_until, time.monotonic() + seconds)

    def answered(self) -> None:
        """Note that it gave an answer."""
        self.has_answered = True
        self.refusals = 0
        self.is_alive()

    def is_alive(self) -> None:
        """Note that it answered."""
        if self.is_ejected:
            log.info("%s answers again", self.endpoint.url)
            self.limiter.restart()
        self._failures = self._ejections = 0
        self._ejected_until = -math.inf

    def has_failed(self, sent_at: float, reason: str) -> None:
        """Note that a call failed. Those that were on their way when it was ejected say nothing new."""
        if sent_at < self._ejected_at:
            return
        self._failures += 1
        if self._failures < EJECT_AFTER and not self.is_ejected:
            return
        if not self.is_ejected:
            log.warning(
                "%s: %d calls in a row failed, it gets none for a while: %s",
                self.endpoint.url,
                self._failures,
                reason,
            )
        self._ejected_at = time.monotonic()
        self._ejected_until = self._ejected_at + self._time_out()
        self._ejections = min(self._ejections + 1, 10)

    def _time_out(self) -> float:
        bound: float = min(MAX_EJECTION_SECONDS, FIRST_EJECTION_SECONDS * 2**self._ejections)
        return bound * random.uniform(0.75, 1.0)
