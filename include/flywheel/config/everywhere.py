"""The configurations whose places are looked into: the operator's own, and those of his experiments."""

from __future__ import annotations

from pathlib import Path

from flywheel.config import Config, load_config
from flywheel.config.experiments import experiment_names
from flywheel.config.loading import project_home


def configs(path: Path | None = None) -> list[Config]:
    """Return the configuration and those of all experiments that keep their data elsewhere.

    Args:
        path: of the configuration; None: the one in force.

    Raises:
        ConfigError: one is wrong.
    """
    found: dict[str, Config] = {}
    for name in ("", *experiment_names(project_home())):
        config = load_config(path, name)
        kept_in = (config.artifacts, config.store, config.mlflow_config)
        found.setdefault(repr([section.model_dump() for section in kept_in]), config)
    return list(found.values())
