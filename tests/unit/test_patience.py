import math

import pytest

from flywheel.common.patience import Patience


class GaveUpError(Exception):
    pass


def impatient(seconds: float = math.inf, **settings) -> Patience:
    return Patience(seconds, lambda error: GaveUpError(str(error)), **settings)


def test_waits_grow_are_random_and_begin_anew_after_a_success() -> None:
    rows = []
    for _ in range(300):
        patience = impatient()
        rows.append([patience.failed(OSError()) for _ in range(12)])
        patience.reset()
        assert patience.failed(OSError()) <= 0.5
    for attempt, bound in ((1, 0.5), (2, 1.0), (4, 4.0), (12, 30.0)):
        waits = [row[attempt - 1] for row in rows]
        assert bound * 0.8 < max(waits) <= bound
        assert min(waits) < bound * 0.2


def test_no_wait_is_shorter_than_the_service_asks_for() -> None:
    assert impatient(asked=lambda error: 45.0).failed(OSError()) == 45.0


def test_the_first_failure_of_a_row_is_told() -> None:
    told: list[Exception] = []
    patience = impatient(say=told.append)
    first, second = OSError("first"), OSError("second")
    patience.failed(first)
    patience.failed(second)
    assert told == [first]
    patience.reset()
    patience.failed(second)
    assert told == [first, second]


def test_what_may_not_pass_is_given_up_at_once_and_what_may_after_its_time() -> None:
    patience = impatient(may_pass=lambda error: isinstance(error, OSError))
    with pytest.raises(GaveUpError, match="refused") as gave_up:
        patience.failed(ValueError("refused"))
    assert isinstance(gave_up.value.__cause__, ValueError)
    hasty = impatient(1e-9)
    with pytest.raises(GaveUpError, match="away"):
        for _ in range(100):
            hasty.failed(OSError("away"))
