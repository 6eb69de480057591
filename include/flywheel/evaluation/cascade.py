"""From which probability on a student answers by itself, so that it agrees with the teacher often enough.

The threshold is the lowest level of confidence at which the agreement of all answers at least so sure
is shown to reach the target: **Learn then Test** (Angelopoulos, Bates, Candès, Jordan and Lei, arXiv
2110.01052) for the selective risk (Geifman and El-Yaniv, arXiv 1705.08500). At a level that is fixed
beforehand, how many of the answers above it agree is binomial, so each level has an exact test (Clopper
and Pearson, Biometrika 26, 1934). The levels are tested from the most confident down by the **fallback
procedure** (Wiens, Pharmaceutical Statistics 2, 2003) with several starts: each start has an equal share of
the error rate, a level that passes hands what it has on to the next, one that fails nothing. Whatever the
levels have in common, the chance that any of those that pass does not reach the target is the error
rate at most; so the lowest of them may be taken. A choice of the level by the bounds themselves, all at 95 %,
would be wrong more often.

The levels are quantiles of other records than the counted ones (flywheel.students.calibration), as the proof
asks for. It speaks of requests like those of the slice; whether they still are is watched
(flywheel.serving.drift).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from flywheel.jobs.result import Calibration

# One-sided: the bound holds in 95 of 100 promotions.
ERROR_RATE = 0.05
# Starts of the tests: at the first level with enough records, and where they have doubled, and again.
_STARTS = 4


class CascadePoint(BaseModel):
    """A level of confidence.

    Attributes:
        threshold: answers that are at least so sure are the student's.
        share: of the slice's answers that are; `agreement`: the share of them that agree with the teacher.
        low: what the agreement is at least, of this level alone: one-sided, 95 %.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    threshold: float
    share: float
    agreement: float
    low: float


class Cascade(BaseModel):
    """What a champion answers by itself.

    Attributes:
        target: agreement with the teacher that was asked for.
        threshold: of the calibrated probability; None: nothing was shown, and the teacher answers all.
        share, agreement, records: on the slice, at the threshold; `records` of the whole slice.
        low: what the agreement is at least, at its share of the error rate; not below the target.
        reason: how it stands, in a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    target: float
    threshold: float | None = None
    share: float = 0.0
    agreement: float | None = None
    low: float | None = None
    records: int = 0
    reason: str

    def answers(self, confidence: float | None) -> bool:
        """Return whether an answer of that calibrated probability is the student's to give."""
        return self.threshold is not None and confidence is not None and confidence >= self.threshold


def least_records(target: float, rate: float = ERROR_RATE) -> int:
    """Return how many answers, all of them right, show an agreement."""
    return math.ceil(math.log(rate) / math.log(target))


def agreement_low(right: int, records: int, rate: float = ERROR_RATE) -> float:
    """Return what a share is at least, but for a chance of `rate` (Clopper and Pearson)."""
    from scipy.special import betaincinv  # slow to import, and each worker reads champions

    return float(betaincinv(right, records - right + 1, rate)) if right else 0.0


def cascade_of(calibration: Calibration | None, target: float, rate: float = ERROR_RATE) -> Cascade:
    """Choose the threshold of a student.

    Args:
        calibration: of its evaluation; None: its probabilities are not known.
        target: agreement, in (0, 1).
        rate: chance that the agreement above the threshold is below the target.
    """
    if calibration is None or not calibration.levels:
        return Cascade(
            target=target,
            reason="the teacher answers all: without a calibration slice "
            "(data_split_config.calibration_ratio) or probabilities (evaluation_config.decoding: labels) "
            "nothing shows how sure the student may be",
        )
    from scipy.special import betainc

    levels, total = calibration.levels, calibration.level_records
    starts = _starts(len(levels), total, target, rate)
    if not starts:
        return Cascade(
            target=target,
            records=total,
            reason=f"the teacher answers all: the calibration slice has {total:,} records, and at least "
            f"{2 * least_records(target, rate):,} are needed to show an agreement of {target:g}",
        )
    chosen, chosen_at, handed_on = None, 0.0, 0.0
    for place, level in enumerate(levels):
        own = handed_on + (rate / len(starts) if place in starts else 0.0)
        # P(at least so many agree, if the target is just not reached): the exact test.
        chance = betainc(level.right, level.records - level.right + 1, target) if level.right else 1.0
        passes = own > 0 and chance <= own
        handed_on = own if passes else 0.0
        if passes:
            chosen, chosen_at = level, own
    if chosen is None:
        return Cascade(
            target=target,
            records=total,
            reason=f"the teacher answers all: at no confidence do {total:,} records of the calibration slice "
            f"show an agreement of {target:g}",
        )
    agreement, share = chosen.right / chosen.records, chosen.records / total
    low = agreement_low(chosen.right, chosen.records, chosen_at)
    return Cascade(
        target=target,
        threshold=chosen.confidence,
        share=share,
        agreement=agreement,
        low=low,
        records=total,
        reason=f"answers of probability {chosen.confidence:.3f} and more are the student's: {share:.0%} of "
        f"the calibration slice, of which {agreement:.1%} agree with the teacher, at least {low:.1%} "
        f"({1 - rate:.0%} sure), as asked for: {target:g}",
    )


def curve(calibration: Calibration) -> Iterator[CascadePoint]:
    """Yield share answered against agreement, from the most confident level down."""
    total = calibration.level_records
    for level in calibration.levels:
        if level.records:
            yield CascadePoint(
                threshold=level.confidence,
                share=level.records / total,
                agreement=level.right / level.records,
                low=agreement_low(level.right, level.records),
            )


def _starts(levels: int, records: int, target: float, rate: float) -> set[int]:
    """Return the places of the levels at which tests start, by the records that are expected there alone."""
    need = 2 * least_records(target, rate)
    found = set()
    for times in range(_STARTS):
        place = math.ceil(levels * need * 2**times / max(1, records)) - 1
        if place < levels:
            found.add(place)
    return found
