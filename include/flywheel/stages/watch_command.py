"""`flywheel watch`: a night of production by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer


def watch(
    at: Annotated[
        str, typer.Option("--at", help="Requests before this time, ISO 8601 with its zone; default: now.")
    ] = "",
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
    typer.echo(look(load_config(), moment).line())
