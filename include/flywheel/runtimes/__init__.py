"""Where a job of a student runs. Each runtime is one module; all run the same command on the same SPEC."""

from __future__ import annotations

from flywheel.config.schema import Config
from flywheel.runtimes.base import Job, RefusedJobError, Runtime

__all__ = ["Job", "RefusedJobError", "Runtime", "open_runtime"]


def open_runtime(config: Config) -> Runtime:
    """Return the runtime that the configuration asks for, to run jobs from this process."""
    if config.runtime.type == "nemo":
        from flywheel.runtimes.nemo.runtime import NemoRuntime

        return NemoRuntime(config)
    from flywheel.runtimes.local import LocalRuntime

    return LocalRuntime(config.runtime)
