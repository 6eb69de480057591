"""The section `annotation`: a history of texts, labelled by champions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flywheel.config.clock import ClockSection

Mode = Literal["point_in_time", "champion"]


class AnnotationConfig(ClockSection):
    """What `flywheel annotate` makes of the texts of `source`: Parquet files, a part of a month each."""

    cron: str | None = Field(
        None,
        description="When the DAG flywheel_annotate labels the last days, such as '0 5 * * *'; null: only "
        "by hand.",
    )
    mode: Literal["point_in_time", "champion"] = Field(
        "point_in_time",
        description="point_in_time: each text is labelled by the champion of its day, who knew nothing of "
        "later. champion: by today's, who has read on; every row says so.",
    )
    lag: int = Field(
        0,
        ge=0,
        description="Seconds that must lie between a champion's cutoff and a text that it labels, at least.",
    )
    out: str | None = Field(
        None, description="A folder or an fsspec URL; null: `annotations` in the artifact root."
    )
    text: Literal["keep", "hash"] = Field(
        "keep", description="hash: rows have the SHA-256 of a text in its place."
    )
    shard_days: int = Field(
        31, ge=1, le=31, description="Days of a month that one job labels and one file holds, at most."
    )
    days: int = Field(
        2,
        ge=1,
        description="By the clock so many days are looked at: those that come late are taken in, and what is "
        "there already is found.",
    )
