"""What a student says of many texts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from flywheel.students.classifiers import Chosen


@dataclass(frozen=True)
class Classified:
    """The classes of N texts, out of C.

    Attributes:
        answers: the number of each text's class, -1 of a text that has none: [N].
        probabilities: of each class, calibrated: [N, C]; those of a text sum to one, or are NaN where it has
            no class.
        refused: why a text has no class, by its place.
    """

    answers: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    refused: dict[int, str] = field(default_factory=dict)

    @classmethod
    def nothing(cls, texts: int, classes: int) -> Self:
        """Return the classes of texts of which none has one yet."""
        return cls(np.full(texts, -1, np.int64), np.full((texts, classes), np.nan))

    def take(self, places: Sequence[int], chosen: Sequence[Chosen], temperature: float | None) -> None:
        """Enter the answers to the texts at some places."""
        from flywheel.students.calibration import calibrated  # scipy

        if not places:
            return
        at = np.asarray(places)
        self.answers[at] = [one.answer for one in chosen]
        logs = np.stack([one.log_probabilities for one in chosen])
        self.probabilities[at] = calibrated(logs, temperature or 1.0)
