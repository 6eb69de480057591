"""The batches that a student answers, and what is timed of them.

A first batch loads kernels and, on a GPU, compiles and captures them, and one of another length loads
others: a few are answered before the others and thrown away, so that none of this is in the times of steady
answering. After the others a few prompts are answered one by one: what a request waits that comes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

Answer = TypeVar("Answer")
# Token ids, each [p], or texts.
Prompt = TypeVar("Prompt", bound=Sized)

# Prompts answered one by one, at most, and the seconds after which no further one is.
SINGLES, SINGLE_SECONDS = 8, 1.0
# Where nothing says how many prompts fit at once.
PLAIN_BATCH = 64
# On a GPU: batches of so many lengths, the longest and the shortest among them, but no more than there are.
WARM_UPS = 5
# Without a GPU there is nothing to compile or capture: a few prompts do, one in so many of all.
WARM_UP_ON_CPU, WARM_UP_EVERY = 8, 50


@dataclass(frozen=True, slots=True)
class Answers(Generic[Answer]):
    """What a student answered.

    Attributes:
        given: for each prompt its answer: the ids of its tokens without the end of the turn, or a `Choice`.
        batch_of: the batch that answered each prompt.
        batch_seconds: how long each batch took.
        prefix_seconds: how long what is done once took: the prefix, the packing of weights.
        prefix: tokens of the shared prefix.
        warmup_seconds: the batches answered before the others and thrown away.
        single_seconds: of a few prompts, each answered alone.
        batch_size: prompts answered at once, at most.
    """

    given: list[Answer]
    batch_of: list[int]
    batch_seconds: list[float]
    prefix_seconds: float
    prefix: int
    warmup_seconds: float = 0.0
    single_seconds: tuple[float, ...] = ()
    batch_size: int = 0


def answer_in_batches(
    prompts: Sequence[Prompt],
    ask: Callable[[Sequence[Prompt]], list[Answer]],
    *,
    batch_size: int | None,
    device: str,
    prefix_seconds: float = 0.0,
    prefix: int = 0,
    same_size: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Answers[Answer]:
    """Answer prompts in batches of similar length, longest first, after a warm-up; then a few alone.

    Args:
        prompts: token ids, each [p], or texts.
        ask: gives the answers to a batch, longest prompt first; back only when they are computed.
        batch_size: prompts answered at once; None: `PLAIN_BATCH`.
        device: type of the device, `cpu` or `cuda`.
        prefix_seconds, prefix: see `Answers`.
        same_size: whether the last batch is filled up, so that it runs by the graph of those before it.
        progress: told after each batch how many prompts are answered.
    """
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    batch_size = batch_size or PLAIN_BATCH
    full = min(batch_size, len(order))

    def timed(batch: Sequence[int]) -> tuple[list[Answer], float]:
        started = perf_counter()
        answers = ask([prompts[index] for index in batch])
        return answers, perf_counter() - started

    def seconds_of(batch: Sequence[int]) -> float:
        return timed(batch)[1]

    # Batches of all lengths: what the others need, graphs, kernels and room, is there after them.
    several = min(WARM_UPS, -(-len(order) // batch_size))
    warm_ups = [order[place : place + full] for place in _spread(len(order) - full, several)]
    if device == "cpu":
        few = min(full, WARM_UP_ON_CPU, max(1, len(order) // WARM_UP_EVERY))
        warm_ups = [order[len(order) // 2 :][:few]]
    warmup_seconds = sum(seconds_of(batch) for batch in warm_ups if batch)

    given: dict[int, Answer] = {}
    batch_of = [0] * len(prompts)
    seconds: list[float] = []
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        filled = batch + batch[-1:] * (full - len(batch)) if same_size else batch
        answers, took = timed(filled)
        seconds.append(took)
        for index, answer in zip(batch, answers, strict=not same_size):
            given[index], batch_of[index] = answer, len(seconds) - 1
        if progress is not None:
            progress(start + len(batch))

    alone: list[float] = []
    picked = _of_all_lengths(order)
    if picked and device != "cpu":
        seconds_of(picked[:1])  # a batch of one has a graph of its own
    for index in picked:
        if sum(alone) < SINGLE_SECONDS:
            alone.append(seconds_of([index]))
    in_order = [given[index] for index in range(len(prompts))]
    return Answers(in_order, batch_of, seconds, prefix_seconds, prefix, warmup_seconds, tuple(alone), full)


def _spread(last: int, count: int) -> list[int]:
    """Return places from 0 to the last one, evenly spread, each once."""
    return sorted({round(last * step / max(count - 1, 1)) for step in range(count)})


def _of_all_lengths(order: Sequence[int]) -> list[int]:
    """Return a few of the prompts in order of length, evenly spread; those of middling length come first."""
    count = min(SINGLES, len(order))
    places = [(2 * place + 1) * len(order) // (2 * count) for place in range(count)]
    return [order[place] for place in sorted(places, key=lambda place: abs(2 * place - len(order)))]
