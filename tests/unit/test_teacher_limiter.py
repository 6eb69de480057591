"""The adaptive limit against simulated endpoints in virtual time: it finds the capacity, and yields."""

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from flywheel.teacher.limiter import CEILING_SECONDS, Limiter, Pace

MEDIAN, SIGMA = 0.3, 0.5
MEAN = MEDIAN * math.exp(SIGMA**2 / 2)


@dataclass
class Simulation:
    """An endpoint with places and a queue, or one that refuses what finds no place.

    Attributes:
        ill: share of the calls that get a place and are refused after all, after a while.
        slowdown: factor of the latency when so many calls are worked at.
        limits: the limit at each second.
    """

    places: int
    refuses: bool = False
    ill: float = 0.0
    slowdown: Callable[[int], float] = lambda _: 1.0
    seed: int = 0
    now: float = 0.0
    answered: int = 0
    refused: int = 0
    limits: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.limiter = Limiter(256, clock=lambda: self.now)
        self._dice = random.Random(self.seed)
        self._events: list[tuple[float, int, float, bool, bool]] = []
        self._queue: list[float] = []
        self._busy = self._number = 0

    def run(self, until: float) -> None:
        """Keep as many calls in flight as the limiter allows."""
        while True:
            while self.limiter.has_room:
                self.limiter.enter()
                if self._busy < self.places:
                    self._serve(self.now)
                elif self.refuses:
                    self._after(0.005, self.now, answered=False, had_place=False)
                else:
                    self._queue.append(self.now)
            if self._events[0][0] > until:
                return
            self.now, _, sent_at, answered, had_place = heapq.heappop(self._events)
            while len(self.limits) <= self.now:
                self.limits.append(self.limiter.limit)
            self.limiter.leave()
            if answered:
                self.answered += 1
                self.limiter.answered(self.now - sent_at)
            else:
                self.refused += 1
                self.limiter.refused(sent_at)
            self._busy -= had_place
            if self._queue and self._busy < self.places:
                self._serve(self._queue.pop(0))

    def _serve(self, sent_at: float) -> None:
        self._busy += 1
        latency = MEDIAN * math.exp(self._dice.gauss(0, SIGMA)) * self.slowdown(self._busy)
        self._after(latency, sent_at, answered=self._dice.random() >= self.ill, had_place=True)

    def _after(self, seconds: float, sent_at: float, *, answered: bool, had_place: bool) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + seconds, self._number, sent_at, answered, had_place))


@pytest.mark.parametrize("places", [4, 16, 54, 128])
def test_it_finds_the_capacity_and_leaves_no_place_empty(places: int) -> None:
    simulation = Simulation(places)
    simulation.run(90)
    assert simulation.answered > 0.95 * 90 * places / MEAN
    settled = sorted(simulation.limits[45:])[len(simulation.limits[45:]) // 2]
    assert places <= settled <= 3 * places + 10


def test_it_begins_with_one_call_alone() -> None:
    simulation = Simulation(54)
    simulation.run(0.0)
    assert simulation.limiter.in_flight == 1
    limiter = Limiter(256)
    limiter.enter()
    limiter.leave()
    limiter.answered(0.3)
    assert limiter.limit == 8


def test_it_yields_when_the_latency_rises_and_comes_back() -> None:
    simulation = Simulation(54)
    simulation.run(60)
    before = simulation.limits[-1]
    simulation.places = 15  # others take the rest
    simulation.run(120)
    assert simulation.limits[-1] < 0.7 * before
    simulation.places = 54
    simulation.run(180)
    assert simulation.limits[-1] >= 54


def test_it_stays_below_where_it_was_refused() -> None:
    simulation = Simulation(54, refuses=True)
    simulation.run(150)
    assert simulation.refused < 0.01 * simulation.answered
    assert simulation.answered > 0.9 * 150 * 54 / MEAN
    assert max(simulation.limits[10:]) <= 60


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_refusals_that_do_not_depend_on_it_leave_no_place_empty(share: float, seed: int) -> None:
    simulation = Simulation(54, ill=share, seed=seed)
    simulation.run(300)
    assert simulation.answered > 0.9 * 300 * 54 / MEAN * (1 - share)
    assert max(simulation.limits[100:]) <= 3 * 54 + 10


def test_it_gives_up_its_places_where_all_calls_are_refused() -> None:
    simulation = Simulation(54)
    simulation.run(60)
    assert simulation.limits[-1] >= 54
    simulation.ill = 1.0
    simulation.run(240)
    assert simulation.limits[-1] <= 3
    simulation.ill = 0.0
    simulation.run(400)
    assert simulation.limits[-1] >= 54


def test_it_yields_to_a_lack_of_places_beside_refusals_that_do_not_depend_on_it() -> None:
    simulation = Simulation(54, refuses=True, ill=0.05)
    simulation.run(300)
    assert simulation.refused < 0.15 * simulation.answered
    assert simulation.answered > 0.85 * 300 * 54 / MEAN * 0.95
    assert sorted(simulation.limits[100:])[-30] <= 66


def test_it_settles_at_the_knee_of_an_endpoint_that_is_slower_the_more_it_does() -> None:
    simulation = Simulation(10**6, slowdown=lambda busy: 1 + busy / 30)
    simulation.run(200)
    assert 30 < simulation.limits[-1] < 256


def test_refusals_of_calls_sent_before_a_cut_cut_no_more() -> None:
    now = 100.0
    limiter = Limiter(256, clock=lambda: now)
    limiter.enter()
    limiter.answered(0.3)
    for _ in range(50):
        limiter.refused(99.0 if _ else 100.0)
    assert limiter.limit == 7
    now += CEILING_SECONDS
    limiter.refused(now)
    assert limiter.limit == 7


def test_a_fixed_limit_stays() -> None:
    limiter = Limiter(5, adaptive=False)
    assert limiter.limit == 5
    limiter.answered(0.3)
    limiter.refused(0.0)
    limiter.restart()
    assert limiter.limit == 5


def test_a_pace_gives_a_seconds_worth_at_once_and_then_its_rate() -> None:
    now = 0.0
    pace = Pace(120, clock=lambda: now)  # two a second
    sent = []
    for _ in range(10):
        now = max(now, pace.opens_at)
        pace.use(1)
        sent.append(now)
    assert sent == [0, 0, 0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]


def test_what_a_pace_noted_too_much_is_given_back() -> None:
    pace = Pace(60, clock=lambda: 0.0)
    pace.use(10)
    pace.use(-6)
    assert pace.opens_at == 3.0
