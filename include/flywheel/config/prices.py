"""Section `prices`: what the machines cost that students answer on."""

from __future__ import annotations

from pydantic import Field

from flywheel.config.section import Section


class PricesConfig(Section):
    """What an hour of students' machines costs; `teacher.prices` has the teacher's tokens."""

    cpu_hour: float | None = Field(
        None, ge=0, description="Of the CPUs of a job without GPUs. null: cost is time, not money."
    )
    gpu_hour: float | None = Field(None, ge=0, description="Of one GPU. null: cost is time, not money.")

    def hour(self, device: str, gpus: int) -> float | None:
        """Return the price of an hour of a job; None: it is not known.

        Args:
            device: `cpu`, or the name of a GPU.
            gpus: that its student asks for.
        """
        if device == "cpu":
            return self.cpu_hour
        return None if self.gpu_hour is None else self.gpu_hour * max(1, gpus)
