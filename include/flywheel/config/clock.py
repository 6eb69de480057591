"""What sections that start a DAG by the clock share."""

from __future__ import annotations

from pydantic import Field, field_validator

from flywheel.config.section import Section
from flywheel.config.times import known_cron, known_time_zone


class ClockSection(Section):
    """A time of the clock, in a time zone; null: not by clock."""

    cron: str | None = None
    time_zone: str = Field("UTC", description="Of the clock.")

    @field_validator("time_zone")
    @classmethod
    def _zone_exists(cls, zone: str) -> str:
        return known_time_zone(zone)

    @field_validator("cron")
    @classmethod
    def _cron_is_valid(cls, cron: str | None) -> str | None:
        return known_cron(cron)
