"""What a stage or a job used: seconds by the clock, of CPUs and of GPUs; kept beside its result."""

from __future__ import annotations

import os
import time

from pydantic import BaseModel, ConfigDict


class Used(BaseModel):
    """What was used, of the try that ended well.

    Attributes:
        wall_seconds: by the clock.
        cpu_seconds: of all cores, by the process and those of its children that have ended.
        gpu_seconds: by the clock, times the GPUs that were held.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0


class Meter:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), _cpu()

    def used(self, gpus: int = 0) -> Used:
        """Return what was used since.

        Args:
            gpus: that were held all the time.
        """
        wall = time.monotonic() - self._wall
        return Used(
            wall_seconds=round(wall, 3),
            cpu_seconds=round(_cpu() - self._cpu, 3),
            gpu_seconds=round(wall * gpus, 3),
        )


def _cpu() -> float:
    """Return the CPU time of this process and of its children that have ended, in seconds."""
    return sum(os.times()[:4])
