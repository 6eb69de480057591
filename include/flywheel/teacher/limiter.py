"""How many calls an endpoint carries at once: found out while it is used, and given up when others need it.

The limit follows the gradient of the latency, as in Netflix's concurrency-limits (its GradientLimit and
Gradient2Limit, https://github.com/Netflix/concurrency-limits), whose idea is that of TCP Vegas: more calls
than an endpoint can work at only wait there, so the latency tells. After each round of answers,

    limit <- limit * min(1, TOLERANCE * base / latency) + sqrt(limit)

with the round's mean latency. The square root is room for a queue, without which an endpoint would at times
have nothing to do. `base` is the latency at half the limit, measured anew every 10 to 100 rounds, the more
often the more it changes, by halving the limit for two rounds (TCP BBR's ProbeRTT, Cardwell et al. 2016, does
the same for the same reason: a base that is never measured anew drifts up with the queue that one makes
oneself). So the limit settles where twice the calls give a third more answers: at 1.5 times the places of an
endpoint with so many places, and at the knee of one that is slower the more it has to do, as batching
servers are.

It begins with one call alone, after which the endpoint has the prompts' common part in its prefix cache; then
with eight, and one more for each answer, which doubles them each round (TCP's slow start), until the latency
rises or a call is refused. Refusals (429, 503, 529) cut the limit by a twentieth, once a round; from then on
it grows by one call a round, and does not pass the place where it was cut for CEILING_SECONDS.

An endpoint may refuse a share of all calls whatever their number (one of its servers is ill, or others use up
its rate); cuts do not help there, and would go on to a call or two. So every few cuts the limit is halved for
two rounds as above, and the share that is refused even then is taken for the endpoint's own: up to twice as
many cut nothing. (That not every loss is congestion is BBR's thought as well; its second version bears 2 %,
draft-cardwell-iccrg-bbr-congestion-control-02.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

TOLERANCE = 1.5
SMOOTHING = 0.5
FIRST_LIMIT = 8
# Answers in a round, if the limit is lower: fewer say little about a mean.
MIN_ROUND = 16
PROBE_ROUNDS = (10, 100)
REFUSED_FACTOR = 0.95
CEILING_SECONDS = 30.0
PROBE_CUTS = 5
# What is refused beyond this share at half the limit is no share of its own but too many calls still.
MAX_OWN_REFUSALS = 0.2
# An endpoint that refused a call so lately is approached one call a round.
CAREFUL_SECONDS = 300.0


class Limiter:
    """The calls in flight at one endpoint, and how many there may be.

    Args:
        most: never more than so many.
        adaptive: False: always `most`.
        clock: monotonic seconds.
    """

    def __init__(
        self, most: int, *, adaptive: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.in_flight = 0
        self._most = most
        self._adaptive = adaptive
        self._clock = clock
        self._limit = 1.0 if adaptive else float(most)
        self._answered = False
        self._slow_start = True
        self._base: float | None = None
        self._rounds = 0
        self._probe_after = PROBE_ROUNDS[0]
        # Rounds left of a probe: the first lets the queue drain, the second is measured.
        self._probing = 0
        self._sum = 0.0
        self._count = 0
        self._refusals = 0
        self._cuts = 0
        self._own_refusals = 0.0
        self._round = MIN_ROUND
        self._busiest = 0
        self._cut_at = -math.inf
        self._ceiling = math.inf
        self._ceiling_at = -math.inf

    @property
    def limit(self) -> int:
        """Calls that may be in flight now."""
        return max(1, math.ceil(self._limit / 2) if self._probing else int(self._limit))

    @property
    def has_room(self) -> bool:
        """Whether another call may be sent."""
        return self.in_flight < self.limit

    def enter(self) -> None:
        """Note that a call is sent."""
        self.in_flight += 1
        self._busiest = max(self._busiest, self.in_flight)

    def leave(self) -> None:
        """Note that a call has ended, in whatever way."""
        self.in_flight -= 1

    def answered(self, seconds: float) -> None:
        """Note an answer and its latency."""
        if not self._adaptive:
            return
        if not self._answered:
            self._answered = True
            self._limit = float(min(FIRST_LIMIT, self._most))
            return  # the first answer had the whole prompt to read, and a connection to make
        if self._slow_start and self._busiest >= self.limit:
            self._grow(1)
        self._sum += seconds
        self._count += 1
        if self._count >= self._round:
            self._end_round(self._sum / self._count)

    def refused(self, sent_at: float) -> None:
        """Note that the endpoint said it has too much to do. Calls sent before the last cut cut no more."""
        if not self._adaptive or sent_at < self._cut_at:
            return
        self._refusals += 1
        if self._refusals <= (self._round if self._probing else self._tolerated):
            return
        if self._probing:  # a whole round of refusals, and the answers that would end the probe do not come
            self._probing = self._cuts = 0
        now = self._clock()
        self._slow_start = False
        if self._limit >= self._ceiling or now - self._ceiling_at > CEILING_SECONDS:
            self._ceiling, self._ceiling_at = self._limit, now
        self._cut_at = now
        self._limit = max(1.0, self._limit * REFUSED_FACTOR)
        self._cuts += 1
        if self._cuts >= PROBE_CUTS:
            self._rounds, self._probing = 0, 2
        self._begin_round()

    def restart(self) -> None:
        """Begin anew after an outage: nothing is known of the endpoint that came back."""
        if self._adaptive:
            self._limit = float(min(FIRST_LIMIT, self._most))
            self._slow_start = True
            self._base, self._probing, self._rounds, self._cuts = None, 0, 0, 0
            self._own_refusals = 0.0
            self._probe_after = PROBE_ROUNDS[0]
            self._begin_round()

    @property
    def _tolerated(self) -> int:
        """Refusals in a round that are the endpoint's own."""
        return math.ceil(2 * self._own_refusals * self._round) + 1 if self._own_refusals else 0

    def _end_round(self, latency: float) -> None:
        used = self._busiest >= self.limit
        refused = self._refusals / (self._refusals + self._count)
        self._begin_round()
        if self._probing:
            self._probing -= 1
            if not self._probing:
                self._end_probe(latency, refused)
            return
        # A lower latency than the base is news; half of it, for a part of it is chance.
        if self._base is None:
            self._base = latency
        elif latency < self._base:
            self._base += SMOOTHING * (latency - self._base)
        gradient = min(1.0, max(0.5, TOLERANCE * self._base / latency))
        if self._slow_start:
            # Half the gradient's tolerance more: the first rounds are short, and their means vary.
            self._slow_start = latency < 2.0 * self._base and self._limit < self._most
            if self._slow_start:
                return
        self._rounds += 1
        if self._rounds >= self._probe_after and latency > 1.3 * self._base:
            self._rounds, self._probing = 0, 2
        if gradient == 1.0 and not used:
            return  # so many calls are not there to be sent
        wanted = self._limit * gradient + math.sqrt(self._limit)
        if wanted < self._limit:
            self._limit += SMOOTHING * (wanted - self._limit)
        else:
            self._grow(wanted - self._limit)

    def _end_probe(self, latency: float, refused: float) -> None:
        changed = self._base is None or abs(latency - self._base) > 0.2 * self._base
        self._base = latency
        self._probe_after = PROBE_ROUNDS[0] if changed else min(2 * self._probe_after, PROBE_ROUNDS[1])
        own = refused if refused <= MAX_OWN_REFUSALS else 0.0
        if own and not self._own_refusals:  # what was cut was cut in vain
            self._own_refusals = own
            self._limit = min(max(self._limit, self._ceiling), float(self._most))
            self._cut_at = self._ceiling_at = -math.inf
        else:
            self._own_refusals += SMOOTHING * (own - self._own_refusals)
            if self._own_refusals < 0.001:
                self._own_refusals = 0.0
        self._cuts = 0

    def _grow(self, by: float) -> None:
        now = self._clock()
        limit = self._limit + (min(by, 1.0) if now - self._cut_at <= CAREFUL_SECONDS else by)
        if now - self._ceiling_at <= CEILING_SECONDS:
            limit = min(limit, max(self._limit, 0.97 * self._ceiling))
        self._limit = min(limit, float(self._most))

    def _begin_round(self) -> None:
        self._sum, self._count, self._refusals, self._busiest = 0.0, 0, 0, self.in_flight
        self._round = max(MIN_ROUND, int(self._limit))


class Pace:
    """Spaces out what is used by the minute: calls, or tokens (the leaky bucket as a meter, ITU-T I.371).

    Args:
        per_minute: the rate; a second's worth may be used at once.
        clock: monotonic seconds.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_each = 60.0 / per_minute
        self._clock = clock
        self._used_until = -math.inf

    @property
    def opens_at(self) -> float:
        """Monotonic seconds from when on more may be used."""
        return self._used_until - 1.0

    def use(self, amount: float) -> None:
        """Note what is used; a negative amount gives back what was noted too much."""
        self._used_until = max(self._clock(), self._used_until) + amount * self._seconds_each
