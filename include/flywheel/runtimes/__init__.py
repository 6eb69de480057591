"""Where a job of a student runs. Each runtime is one folder; all run the same command on the same SPEC.

base.py          what a job is, and the class that a runtime is
job_operator.py  the task of a job: what is the same wherever it runs
planned.py       stands in while the config file cannot be read
local/           processes of this machine
kubernetes/      pods of a cluster
nemo/            NVIDIA's NeMo microservices
"""

from __future__ import annotations

from importlib import import_module

from flywheel.common.errors import ConfigError
from flywheel.config import Config
from flywheel.runtimes.base import Job, RefusedJobError, Runtime

__all__ = ["Job", "RefusedJobError", "Runtime", "open_runtime"]

# `runtime.type` names one of these, or MODULE:CLASS of another.
_RUNTIMES = {
    "local": "flywheel.runtimes.local.runtime:LocalRuntime",
    "kubernetes": "flywheel.runtimes.kubernetes.runtime:KubernetesRuntime",
    "nemo": "flywheel.runtimes.nemo.runtime:NemoRuntime",
}


def open_runtime(config: Config) -> Runtime:
    """Return the runtime that the config names.

    Raises:
        ConfigError: it is none, or cannot be used here.
    """
    module, _, name = _RUNTIMES.get(config.runtime.type, config.runtime.type).partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"runtime.type {config.runtime.type!r} cannot be imported: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Runtime)):
        raise ConfigError(f"runtime.type {config.runtime.type!r}: no flywheel.runtimes.Runtime")
    return found(config)
