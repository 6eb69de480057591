"""The shipped configuration with other sections, as an operator's file would have them."""

from __future__ import annotations

from typing import Any

from flywheel.config import Config, load_config
from flywheel.config.experiments import laid_over
from flywheel.config.loading import validate_config


def changed_config(sections: dict[str, Any]) -> Config:
    """Return the shipped configuration with some of its keys changed.

    Raises:
        ConfigError: a key or value is not one of the schema's.
    """
    return validate_config(laid_over(load_config().model_dump(mode="json"), sections), "benchmark")
