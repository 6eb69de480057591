"""How often a night promotes a student that is not good enough, and how often one that is.

    python -m benchmarks.promotion [--quick]

Nine made students (three of them on three sizes) answer made eval sets of 13 classes; their mistakes are
correlated by .6 (one latent difficulty of a record). The rule is the project's own: the lower bounds of
`flywheel.promotion`, `min_eval` off. `ours` is the share of nights of 400 eval records with a wrong
promotion when all nine are truly at .895 and .90 is asked, `peer` the same of a rule by point estimates. In
`right` the best, dearest, is truly at .93 and passes, the next at .92, .90, .89; in `right_second` the
best is the next dearest and the dearest at .90.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from flywheel.config.promotion import PromotionConfig
from flywheel.evaluation.choice import reaching
from flywheel.evaluation.statistics import (
    bound_of_difference,
    paired_difference,
    standard_error,
    weighted_f1,
)

CLASSES = 13
SHARES = np.array([30, 12, 25, 8, 10, 6, 14, 28, 9, 20, 5, 11, 22]) / 200
CORRELATION = 0.6
BAR = 0.90
SIZES = (100, 400, 1000)
PROMOTION = PromotionConfig()
NIGHTS_SHARED = 0.9
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Student:
    """A candidate as it was measured."""

    size: int
    parameters: int | None
    score: float | None = None
    score_error: float | None = None
    eval_records: int | None = None


# From the dearest on the most records down, as the report has them.
LINE = [Student(size, parameters) for size in (2500, 1000, 300) for parameters in (8, 3, 1)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="300 nights instead of 2,000")
    nights = 300 if parser.parse_args().quick else 2000
    started = time.monotonic()
    rng = np.random.default_rng(0)
    level = _accuracies(rng, [0.895] * 9)
    falling = _accuracies(rng, [0.93, 0.92, 0.90, 0.89, 0.87, 0.84, 0.80, 0.75, 0.70])
    second = _accuracies(rng, [0.90, 0.93, 0.89, 0.89, 0.87, 0.84, 0.80, 0.75, 0.70])
    found: dict[str, Any] = {"nights": nights, "error_rate": PROMOTION.error_rate}
    for size in SIZES:
        wrong, by_point = _nights(rng, level, size, nights)
        found[f"wrong_at_{size}"], found[f"wrong_by_point_at_{size}"] = wrong, by_point
        found[f"right_at_{size}"] = _nights(rng, falling, size, nights, best=0)[0]
        found[f"right_second_at_{size}"] = _nights(rng, second, size, nights, best=1)[0]
        found[f"worse_champion_at_{size}"] = _champions(rng, size, nights)
    found["months"] = max(100, nights // 4)
    found["wrong_months"] = {size: _months(rng, level, size, found["months"]) for size in SIZES}
    ours, peer = found["wrong_at_400"], found["wrong_by_point_at_400"]
    print(
        json.dumps(
            {
                "name": "promotion",
                "ours": ours,
                "peer": peer,
                "ratio": round(ours / peer, 4) if peer else None,
                "unit": "share of nights with a wrong promotion",
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "machine": f"{platform.machine()}, {platform.system()}, one core",
                "seconds": round(time.monotonic() - started, 1),
                **found,
            }
        )
    )


def _accuracies(rng: np.random.Generator, scores: list[float]) -> list[float]:
    """Return the share of right answers with which students have these weighted F1 in the long run."""
    found = []
    for score in scores:
        share = score
        for _ in range(3):
            _, cells = _answers(rng, [share], 400_000)
            share += score - weighted_f1(_matrix(cells[0]))
        found.append(share)
    return found


def _answers(rng: np.random.Generator, shares: list[float], records: int) -> tuple[Ints, list[Ints]]:
    """Return the teacher's classes of records, and by student their cells of the confusion matrix."""
    teacher = rng.choice(CLASSES, size=records, p=SHARES)
    common = rng.standard_normal(records)
    cells = []
    for share in shares:
        own = rng.standard_normal(records)
        hard = math.sqrt(CORRELATION) * common + math.sqrt(1 - CORRELATION) * own
        other = (teacher + rng.integers(1, CLASSES, records)) % CLASSES
        cells.append(teacher * (CLASSES + 1) + np.where(hard < ndtri(share), teacher, other))
    return teacher, cells


def _matrix(cells: Ints) -> Ints:
    return np.bincount(cells, minlength=CLASSES * (CLASSES + 1)).reshape(CLASSES, CLASSES + 1)


def _measured(cells: list[Ints]) -> list[Student]:
    rows = []
    for place, own in zip(LINE, cells, strict=True):
        matrix = _matrix(own)
        error = standard_error(matrix)
        rows.append(Student(place.size, place.parameters, weighted_f1(matrix), error, len(own)))
    return rows


def _passed(rows: list[Student]) -> list[int]:
    """Return the places of the candidates that are shown to be good enough."""
    return [rows.index(row) for row in reaching(rows, BAR, PROMOTION.error_rate)]


def _nights(
    rng: np.random.Generator, shares: list[float], size: int, nights: int, *, best: int | None = None
) -> tuple[float, float]:
    """Return the share of nights on which the best candidate passes (None: any), and by point estimates."""
    ours = points = 0
    for _ in range(nights):
        rows = _measured(_answers(rng, shares, size)[1])
        passed = _passed(rows)
        ours += bool(passed) if best is None else best in passed
        points += any(row.score is not None and row.score >= BAR for row in rows)
    return ours / nights, points / nights


def _champions(rng: np.random.Generator, size: int, nights: int) -> float:
    """Return the share of nights that replace a champion by a cheaper one that is worse by .025."""
    shares = _accuracies(rng, [0.94, 0.915])
    replaced = 0
    for _ in range(nights):
        teacher, (old, new) = _answers(rng, shares, size)
        names = [teacher, old % (CLASSES + 1), new % (CLASSES + 1)]
        right, before, after = (list(map(str, values)) for values in names)
        low = bound_of_difference(*paired_difference(right, after, before), PROMOTION.error_rate)
        replaced += low >= -PROMOTION.margin
    return replaced / nights


def _months(rng: np.random.Generator, shares: list[float], size: int, months: int) -> float:
    """Return the share of months of 30 nights, whose eval sets share 90 %, with a wrong promotion."""
    new = round(size * (1 - NIGHTS_SHARED))
    wrong = 0
    for _ in range(months):
        _, cells = _answers(rng, shares, size + 29 * new)
        wrong += any(
            _passed(_measured([own[start : start + size] for own in cells]))
            for start in range(0, 30 * new, new)
        )
    return wrong / months


if __name__ == "__main__":
    main()
