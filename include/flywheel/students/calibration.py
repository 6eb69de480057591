"""Probabilities that mean what they say: temperature scaling, and how far confidence lies from being right.

One temperature divides the logarithms of a student's probabilities before they are normalised again. It is
the one under which the teacher's answers to the calibration slice are likeliest (Guo et al., On Calibration
of Modern Neural Networks, ICML 2017, arXiv 1706.04599); the slice was in no training, and no score is of it.
The answer itself stays, for the order of the classes does. A fifth of the slice gives the temperature and
the levels of confidence at which the rest is counted, so that the counts are of records that had no part in
either (flywheel.evaluation.cascade needs that). How well it fits is measured on the eval set, in
bins of equally many answers (Nixon et al., Measuring Calibration in Deep Learning, 2019, arXiv 1904.01685).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import betaincinv, log_softmax

from flywheel.jobs.result import Calibration, ConfidenceBin, ConfidenceLevel

if TYPE_CHECKING:
    from flywheel.students.classifiers import Chosen

Floats = NDArray[np.float64]

# Fewer records say nothing of a temperature: probabilities then stay as they are.
LEAST_RECORDS = 30
BINS = 10
# One in so many records of the slice gives the temperature, but at least LEAST_RECORDS.
_SHARE = 5
# Levels of confidence: each is passed by another so many of them.
LEVELS = 40
# exp of these bounds the temperature.
_SPAN = (-3.0, 3.0)


@dataclass(frozen=True, slots=True)
class Probabilities:
    """The calibrated probabilities of a student's answers.

    Attributes:
        classes: the names of the columns.
        values: of the records that were asked: [N, C]; those of a record sum to one.
        calibration: what is known of them.
    """

    classes: tuple[str, ...]
    values: Floats
    calibration: Calibration

    def lines(self) -> list[dict[str, float]]:
        """Return, for each record, the probability of each class that has one of at least 0.0005."""
        return [
            {name: value for name, value in zip(self.classes, row, strict=True) if value >= 0.0005}
            for row in self.values.round(4).tolist()
        ]


def fit_temperature(log_probabilities: Floats, right: NDArray[np.int64]) -> float:
    """Return the temperature under which the right classes are likeliest.

    Args:
        log_probabilities: natural logarithms: [N, C].
        right: the teacher's class of each record: [N].
    """
    places = np.arange(len(right))

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(log_probabilities / np.exp(log_temperature), axis=1)
        return float(-scaled[places, right].mean())

    return float(np.exp(minimize_scalar(loss, bounds=_SPAN, method="bounded").x))


def calibrated(log_probabilities: Floats, temperature: float) -> Floats:
    """Return probabilities at a temperature, from natural logarithms: [N, C]."""
    return np.asarray(np.exp(log_softmax(log_probabilities / temperature, axis=1)))


def bins_of(confidence: Floats, right: NDArray[np.bool_]) -> tuple[ConfidenceBin, ...]:
    """Return answers in bins of equally many, in order of confidence.

    Args:
        confidence: probability of the answer that was given: [N].
        right: whether it agrees with the teacher: [N].
    """
    order = np.argsort(confidence, kind="stable")
    bins = []
    for places in np.array_split(order, min(BINS, len(order))):
        count, hits = len(places), int(right[places].sum())
        bins.append(
            ConfidenceBin(
                records=count,
                confidence=float(confidence[places].mean()),
                right=hits / count,
                low=float(betaincinv(hits, count - hits + 1, 0.025)) if hits else 0.0,
                high=float(betaincinv(hits + 1, count - hits, 0.975)) if hits < count else 1.0,
            )
        )
    return tuple(bins)


def calibration_error(bins: tuple[ConfidenceBin, ...]) -> float:
    """Return the expected calibration error of binned answers, in [0, 1]."""
    total = sum(part.records for part in bins)
    return sum(part.records * abs(part.confidence - part.right) for part in bins) / max(1, total)


def levels_of(apart: Floats, confidence: Floats, right: NDArray[np.bool_]) -> tuple[ConfidenceLevel, ...]:
    """Count answers at levels of confidence that others gave: `LEVELS` quantiles, and all.

    Args:
        apart: confidence of the answers that give the levels: [M].
        confidence: of the answers that are counted: [N].
        right: whether these agree with the teacher: [N].
    """
    if not len(apart) or not len(confidence):
        return ()
    shares = 1 - np.arange(1, LEVELS) / LEVELS
    levels = [*np.quantile(apart, shares, method="higher").tolist(), 0.0]
    order = np.argsort(confidence)
    below = np.searchsorted(confidence[order], levels)
    hits = np.concatenate([[0], np.cumsum(right[order])])
    return tuple(
        ConfidenceLevel(confidence=level, records=len(order) - at, right=int(hits[-1] - hits[at]))
        for level, at in zip(levels, below.tolist(), strict=True)
    )


def probabilities_of(
    classes: tuple[str, ...],
    records: Sequence[Mapping[str, Any]],
    held: Sequence[Mapping[str, Any]],
    choices: Sequence[Chosen],
) -> Probabilities:
    """Fit a temperature on the calibration slice, and measure on the eval set what it gives.

    Args:
        classes: in the order of the answers that were chosen among: C.
        records: of the eval set that were asked, with the teacher's labels: N, at least 1.
        held: of the calibration slice: H, may be none.
        choices: the answers to these and, after them, to those: N + H.
    """
    place_of = {name: place for place, name in enumerate(classes)}
    teacher = np.array([place_of.get(record["label"], -1) for record in (*records, *held)])
    logs = np.stack([choice.log_probabilities for choice in choices])
    given = np.array([choice.answer for choice in choices])
    right = given == teacher
    count = len(records)
    known = np.flatnonzero(teacher[count:] >= 0) + count
    enough = len(known) >= LEAST_RECORDS
    fitted = known[_spread(len(known), max(LEAST_RECORDS, len(known) // _SHARE))] if enough else known[:0]
    temperature = fit_temperature(logs[fitted], teacher[fitted]) if enough else 1.0
    scaled = calibrated(logs, temperature)
    confidence = scaled[np.arange(len(given)), given]
    levels: tuple[ConfidenceLevel, ...] = ()
    if enough:
        counted = np.setdiff1d(np.arange(count, len(given)), fitted)
        levels = levels_of(confidence[fitted], confidence[counted], right[counted])
    bins = bins_of(confidence[:count], right[:count])
    before = calibrated(logs[:count], 1.0)[np.arange(count), given[:count]]
    return Probabilities(
        classes,
        scaled[:count],
        Calibration(
            temperature=temperature,
            records=len(fitted),
            ece=calibration_error(bins),
            ece_before=calibration_error(bins_of(before, right[:count])),
            bins=bins,
            levels=levels,
        ),
    )


def _spread(count: int, of: int) -> NDArray[np.int64]:
    """Return `of` places among `count`, evenly spread."""
    return np.linspace(0, count - 1, of).round().astype(np.int64)
