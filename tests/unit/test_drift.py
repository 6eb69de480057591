"""Drift: false alarms over a year of nights are as rare as stated, and a real drop is soon told."""

from __future__ import annotations

import numpy as np
import pytest

from flywheel.serving.drift import ERROR_RATE, NIGHTS, Detector, distance, level_of_eval, share_of, shares

YEARS = 400


def alarms(rng: np.random.Generator, level: float, agreement: float, audited: int) -> bool:
    detector = Detector(level)
    return any(detector.night(int(rng.binomial(audited, agreement)), audited) for _ in range(NIGHTS))


@pytest.mark.parametrize("audited", [3, 40, 400])
def test_in_a_year_of_nights_at_the_level_a_false_alarm_is_as_rare_as_stated(audited: int) -> None:
    rng = np.random.default_rng(0)
    found = sum(alarms(rng, 0.9, 0.9, audited) for _ in range(YEARS))
    assert found / YEARS <= ERROR_RATE / 2 + 3 * (ERROR_RATE * (1 - ERROR_RATE) / YEARS) ** 0.5


def test_the_level_of_an_eval_set_counts_its_own_chance() -> None:
    """Eval set and nights are of one world; what the eval set happened to give is part of the error."""
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(YEARS):
        level = level_of_eval(int(rng.binomial(1000, 0.92)), 1000)
        found += alarms(rng, level, 0.92, 60)
    assert found / YEARS <= ERROR_RATE + 3 * (ERROR_RATE * (1 - ERROR_RATE) / YEARS) ** 0.5


def test_an_alarm_at_any_single_night_at_95_percent_would_come_every_year() -> None:
    from scipy.stats import binom

    rng = np.random.default_rng(2)
    nights = rng.binomial(100, 0.9, (50, NIGHTS))
    assert (binom.cdf(nights, 100, 0.9) < 0.05).any(1).all()


@pytest.mark.parametrize(("agreement", "within"), [(0.7, 2), (0.8, 5), (0.85, 15)])
def test_a_drop_after_half_a_good_year_is_told_within_days(agreement: float, within: int) -> None:
    rng, late = np.random.default_rng(3), []
    for _ in range(20):
        detector = Detector(0.9)
        for _ in range(180):
            assert not detector.night(int(rng.binomial(100, 0.93)), 100)
        late.append(next(n for n in range(1, 365) if detector.night(int(rng.binomial(100, agreement)), 100)))
    assert np.median(late) <= within


def test_after_an_alarm_it_begins_anew() -> None:
    detector = Detector(0.9)
    assert detector.night(0, 50)
    assert not detector.night(46, 50)


def test_nights_without_audits_are_no_evidence() -> None:
    detector = Detector(0.9)
    assert not any(detector.night(0, 0) for _ in range(NIGHTS))


def test_a_share_is_weighted_by_how_probable_each_draw_was() -> None:
    """Half of the requests were drawn at 1 in 10 and agree, half at 1 in 1 and do not: one half agrees."""
    found = share_of([(True, 0.1)] * 100 + [(False, 1.0)] * 1000)
    assert found.value == pytest.approx(0.5)
    assert found.of == 1100
    assert 0.4 < found.low < 0.5 < found.high < 0.6  # of some 360 draws, not of 1,100
    assert share_of([]).value is None


def test_the_interval_of_a_share_covers_it() -> None:
    rng, covered = np.random.default_rng(4), 0
    for _ in range(500):
        found = share_of((bool(hit), 0.02) for hit in rng.random(150) < 0.9)
        covered += found.low <= 0.9 <= found.high
    assert covered >= 0.94 * 500


def test_classes_that_changed_are_told_by_their_distance() -> None:
    assert distance(shares(["a", "a", "b", "b"]), shares(["a", "a", "a", "c"])) == pytest.approx(0.5)
    assert distance({"a": 1.0}, {"a": 1.0}) == 0
