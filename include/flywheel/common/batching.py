"""Items of a stream, some at a time: `itertools.batched`, which Python has from 3.12 on, as lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items in order, the last one shorter; none is empty."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
        del batch  # it is not kept while the next one is made
