"""How fast a candidate answered in its evaluation, as the report holds it and says it."""

from __future__ import annotations

from pydantic import BaseModel


class SpeedPart(BaseModel):
    """How fast a student answered; latencies in milliseconds.

    Attributes:
        answers_per_second: in batches, without the warm-up.
        latency_p50_ms, latency_p95_ms: of a batch, as each of its prompts waited.
        batch_size: prompts in such a batch, or in flight at once; None in reports whose times contain the
            first batch's loading of kernels.
        warmup_seconds: the batch that was thrown away.
        single_p50_ms, single_p95_ms: of prompts answered alone.
        answer_seconds: seconds an answer in the median batch, and the 95 % interval of that.
        per_million: money for a million answers at that speed; None without `prices`.
    """

    answers_per_second: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    batch_size: int | None = None
    warmup_seconds: float | None = None
    single_p50_ms: float | None = None
    single_p95_ms: float | None = None
    answer_seconds: tuple[float, float, float] | None = None
    per_million: float | None = None
