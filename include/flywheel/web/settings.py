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


def config_of(experiment: object) -> Config:
    """Return the configuration of a run that names an experiment; of one that is not there, that of the file.

    Raises:
        ConfigError: the file is wrong.
    """
    if not isinstance(experiment, str) or not experiment:
        return config()
    try:
        return load_config(default_config_path(), experiment)
    except ConfigError:
        return config()


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
