"""The configuration as the API sees it: the file of now, read again when it has changed."""

from __future__ import annotations

import os
import threading
from functools import lru_cache

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ConfigError
from flywheel.config import Config, load_config
from flywheel.config.api import ApiConfig
from flywheel.config.loading import default_config_path
from flywheel.config.logs import use_level
from flywheel.workloads.experiments import experiments
from flywheel.workloads.workload import Workload

_lock = threading.Lock()
_read: tuple[tuple[str, int, int], Config] | None = None
_limits = ApiConfig()


def config() -> Config:
    """Return the configuration in force.

    Raises:
        ConfigError: the file is wrong.
    """
    global _read, _limits
    path = default_config_path()
    try:
        state = os.stat(path)
        version = (str(path), state.st_mtime_ns, state.st_size)
    except OSError:
        version = (str(path), 0, 0)
    with _lock:
        if _read is None or _read[0] != version:
            _read = (version, load_config(path))
            _limits = _read[1].api
            use_level(_read[1].logging_config.level)
        return _read[1]


def config_of(experiment: str) -> Config:
    """Return the configuration of an experiment; of one that is wrong or gone, that of config.yaml.

    Raises:
        ConfigError: config.yaml is wrong.
    """
    there = experiments() if experiment else ()
    found = next((one.config for one in there if one.name == experiment), None)
    return config() if found is None else found


def limits() -> ApiConfig:
    """Return the section `api`; where the file is wrong, as it was when it was last right, else the default.

    A mistake in the file must neither open the API nor take it away.
    """
    try:
        return config().api
    except ConfigError:
        return _limits


def workload() -> Workload:
    """Return the workload of the configuration."""
    return Workload.load(config().workload)


@lru_cache(maxsize=256)
def artifact_root(url: str) -> ArtifactRoot:
    """Return an artifact root; opening one costs an import of its file system."""
    return ArtifactRoot(url)
