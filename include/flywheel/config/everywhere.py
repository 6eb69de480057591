"""The configurations whose places are looked into: config.yaml's, and those of the experiments."""

from __future__ import annotations

import logging
from pathlib import Path

from flywheel.common.errors import ConfigError
from flywheel.config import Config, load_config
from flywheel.config.experiments import experiment_names
from flywheel.config.loading import project_home

log = logging.getLogger(__name__)


def configs(path: Path | None = None, *, leave_out_wrong: bool = False) -> list[Config]:
    """Return the configuration and those of all experiments that keep their data elsewhere.

    Args:
        path: of the configuration; None: the one in force.
        leave_out_wrong: an experiment whose file is wrong is left out, with a warning.

    Raises:
        ConfigError: one is wrong.
    """
    found: dict[str, Config] = {}
    for name in ("", *experiment_names(project_home())):
        try:
            config = load_config(path, name)
        except ConfigError as error:
            if not (name and leave_out_wrong):
                raise
            log.warning("left out: %s", error)
            continue
        kept_in = (config.artifacts, config.store, config.mlflow_config)
        found.setdefault(repr([section.model_dump() for section in kept_in]), config)
    return list(found.values())
