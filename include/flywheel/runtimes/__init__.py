"""Where a job of a student runs. Each runtime is one module; all run the same command on the same SPEC."""

from __future__ import annotations

from flywheel.config.schema import RuntimeConfig
from flywheel.runtimes.base import Job, RefusedJobError, Runtime

__all__ = ["Job", "RefusedJobError", "Runtime", "open_runtime"]


def open_runtime(config: RuntimeConfig) -> Runtime:
    """Return the runtime that the configuration asks for."""
    from flywheel.runtimes.local import LocalRuntime

    return LocalRuntime(config)
