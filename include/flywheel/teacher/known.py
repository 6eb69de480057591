"""What the store knows of a request: its answer, or those of the nights on which none was of use.

Answers are never replaced. The first is kept under the request's key; where it is of no use, the next night's
under that key and `.2`, and so on. So a request is asked on NIGHTS nights at most, and what came on each is
there with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flywheel.stores import PaidAnswer, RecordStore

NIGHTS = 3
# In an answer's usage, beside the endpoint's own counts: why it is of no use, and the run that asked for it;
# and how probable it was.
FAULT = "fault"
NIGHT = "night"
CONFIDENCE = "confidence"
OWN_NOTES = frozenset({FAULT, NIGHT, CONFIDENCE})


@dataclass(frozen=True, slots=True)
class Known:
    """The last answer to a request.

    Attributes:
        label: None where it is of no use.
        nights: on which it was asked for.
    """

    answer: PaidAnswer
    label: str | None
    nights: int = 1

    @property
    def fault(self) -> str:
        """Why it is of no use; empty where that was not noted."""
        return str(self.answer.usage.get(FAULT, ""))

    def is_open(self, night: str) -> bool:
        """Return whether to ask again on a night."""
        return self.label is None and self.nights < NIGHTS and self.answer.usage.get(NIGHT) != night


def key_of_night(key: str, number: int) -> str:
    """Return under which key the answer of the first, second or third night is kept."""
    return key if number == 1 else f"{key}.{number}"


def known_answers(
    store: RecordStore, keys: Sequence[str], label_of: Callable[[PaidAnswer], str | None]
) -> dict[str, Known]:
    """Return what is known of requests; those never asked are left out.

    Args:
        label_of: reads the label of an answer; None: it is of no use.
    """
    known = {key: Known(answer, label_of(answer)) for key, answer in store.get_answers(keys).items()}
    for number in range(2, NIGHTS + 1):
        later = {
            key_of_night(key, number): key
            for key, found in known.items()
            if found.label is None and found.nights == number - 1
        }
        if not later:
            break
        for name, answer in store.get_answers(list(later)).items():
            known[later[name]] = Known(answer, label_of(answer), number)
    return known
