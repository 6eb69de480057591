"""`flywheel watch`: a night of production by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from flywheel.promotion.commands import ExperimentOption


def watch(
    at: Annotated[
        str, typer.Option("--at", help="Requests before this time, ISO 8601 with its zone; default: now.")
    ] = "",
    tables: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write the night and the champion's eval set to, for Evidently and others."
        ),
    ] = None,
    experiment: ExperimentOption = "",
) -> None:
    """Have the teacher label the audit of what students answered, and look for drift (docs/production.md)."""
    from flywheel.common.errors import ConfigError
    from flywheel.config import load_config
    from flywheel.stages.watch import watch as look

    try:
        moment = datetime.fromisoformat(at) if at else datetime.now(UTC)
    except ValueError:
        raise ConfigError(f"--at {at!r}: expected a time such as 2026-03-01T02:00+00:00") from None
    if moment.tzinfo is None:
        raise ConfigError(f"--at {at}: expected a time with its zone")
    config = load_config(experiment=experiment)
    night = look(config, moment)
    typer.echo(night.line())
    if tables is not None:
        from flywheel.stages.watch_tables import write_tables

        evaluated, asked = write_tables(config, night, tables)
        typer.echo(f"{tables}: {evaluated:,} answers of the eval set, {asked:,} of production")
