"""Section `logging_config`: how much the command line, the tasks of a run, their jobs and the API log."""

from __future__ import annotations

import logging
from typing import Literal

from pydantic import Field

from flywheel.config.section import BlueprintSection

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

_OWN = logging.getLogger("flywheel")


class LoggingConfig(BlueprintSection):
    """How much is logged: by the command line, the tasks of a run, its jobs, and the API."""

    level: LogLevel = Field(
        "INFO", description="Nothing below it is logged; `flywheel --verbose` logs all of a command."
    )


def use_level(level: LogLevel) -> None:
    """Log from this level on in this process.

    Handlers that would hold such lines back, as Airflow's do by its own level, let them through; the level of
    the root logger still holds for what the libraries say.
    """
    _OWN.setLevel(level)
    for handler in logging.getLogger().handlers:
        if handler.level > _OWN.level:
            handler.setLevel(_OWN.level)


def log_to_stderr(level: LogLevel) -> None:
    """Have this process log to stderr, a line `LEVEL message` each, from this level on.

    Of what the libraries say, DEBUG is never shown.
    """
    others = max(logging.INFO, logging.getLevelNamesMapping()[level])
    logging.basicConfig(level=others, format="%(levelname)s %(message)s", force=True)
    use_level(level)
