"""Where texts and log records come from, and how their columns and times are read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from flywheel.config.section import Section
from flywheel.config.times import known_time_format, known_time_zone


class Columns(Section):
    """Which column holds what in a source of headlines."""

    text: str = Field("headline", description="The column with the text to label.")
    timestamp: str | None = Field(
        "date",
        description="The column with the text's time; null: texts without time, only to check the teacher.",
    )
    human_label: str | None = Field(None, description="The column with labels that people gave.")


class SourceConfig(Section):
    """Files of headlines to label, or of log records that an application wrote."""

    path: str = Field(
        min_length=1, description="An fsspec URL, a path or a glob; several files are one source."
    )
    kind: Literal["headlines", "log_records"] = Field(
        "headlines", description="log_records: prompts with their answers; they skip labelling."
    )
    format: Literal["auto", "csv", "jsonl", "parquet"] = Field("auto", description="auto: by the name's end.")
    columns: Columns = Columns()
    time_zone: str = Field("UTC", description="Of times that name none.")
    time_format: tuple[str, ...] = Field(
        (),
        description="How times are written, one form or a list of which the first that fits is taken: "
        "letters of strptime such as '%d/%m/%Y %H:%M' (%Z at the end alone), or auto, unix_s, unix_ms, "
        "unix_us, unix_ns, unix_days, excel, excel_1904. Without it each time must be one that can be read "
        "in one way (docs/sources.md).",
    )
    known_after: int = Field(
        0,
        ge=0,
        description="Seconds after its time from which a text counts as known, for a feed that comes late. A "
        "date without a time is known at the end of its day (23:59:59 in time_zone) and so much later.",
    )
    max_unpacked_gb: float = Field(
        64, gt=0, description="What a compressed file, or all of an archive, may unpack to; more is an error."
    )
    max_ratio: int = Field(
        300,
        ge=10,
        description="How many times its size a compressed file or an archive may unpack to, from 64 MB on; "
        "text has 3 to 20, a log that repeats a long prompt up to 200.",
    )
    stale_after: int | None = Field(
        None,
        ge=1,
        description="Seconds before the cutoff within which the newest text must lie, else report and "
        "notification warn; null: by what the last runs saw.",
    )

    @field_validator("format")
    @classmethod
    def _format_fits(cls, format: str, info: ValidationInfo) -> str:
        if format == "csv" and info.data.get("kind") == "log_records":
            raise ValueError("jsonl or parquet for log_records; csv is for headlines")
        return format

    @field_validator("time_format", mode="before")
    @classmethod
    def _one_format_is_a_list_of_one(cls, formats: Any) -> Any:
        return (formats,) if isinstance(formats, str) else formats

    @field_validator("time_format")
    @classmethod
    def _formats_say_a_time(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(known_time_format, formats))

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, zone: str) -> str:
        return known_time_zone(zone)
