"""The garbage collector is let look rarely, and as often as before afterwards."""

from __future__ import annotations

import gc

import pytest

from flywheel.common.collecting import COLLECT_AFTER, rare_collections


def test_the_collector_looks_rarely_inside_and_as_before_after_an_error_too() -> None:
    before = gc.get_threshold()

    @rare_collections()
    def fails() -> None:
        assert gc.get_threshold() == (COLLECT_AFTER, *before[1:])
        raise ValueError("inside")

    for _ in range(2):
        with pytest.raises(ValueError, match="inside"):
            fails()
        assert gc.get_threshold() == before
