"""Python's garbage collector, which looks for cycles among objects again and again, where there are none."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Objects made until the collector looks for cycles among the new ones; the default is 700.
COLLECT_AFTER = 200_000


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let the collector look for cycles rarely.

    Records are trees, which reference counts free: it would look at all that are kept, in vain, for a third
    of the time of curating them. And what mlflow, scikit-learn and matplotlib make while they are imported
    stays: it would look at that for a third of the time of importing them.
    """
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
