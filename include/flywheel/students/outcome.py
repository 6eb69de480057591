"""Where a training is, and what it came to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from flywheel.jobs.result import LossPoint
from flywheel.jobs.settings import Settings


@dataclass
class TrainingState:
    """Where a training is, besides its tensors; kept in the checkpoint as JSON.

    Attributes:
        step: optimizer steps taken.
        seconds: spent, also before a restart.
        samples: seen, over all epochs.
        tokens: computed for them, those of shared prefixes once a row.
        losses: of each step, in nats a token.
        val_losses: by the step they were computed after, as text (JSON's keys are).
        best_val_loss: the lowest so far.
        validations_without_gain: since the lowest.
        stopped_early: whether patience ran out.
    """

    step: int = 0
    seconds: float = 0.0
    samples: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)
    val_losses: dict[str, float] = field(default_factory=dict)
    best_val_loss: float = math.inf
    validations_without_gain: int = 0
    stopped_early: bool = False


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What a training came to.

    Attributes:
        state: at its end.
        settings: what it was run with, and the steps planned.
        steps_run: steps taken by this call.
        resumed_from_step: the checkpoint's step, or None.
        prefix: tokens of the shared prefix.
        val_loss: of the weights that were kept, or None.
        compile_seconds: what the first steps took longer than the others: kernels and graphs are made there.
    """

    state: TrainingState
    settings: Settings
    steps_run: int
    resumed_from_step: int | None
    prefix: int
    val_loss: float | None
    compile_seconds: float = 0.0

    @property
    def train_loss(self) -> float:
        """The mean loss of the last tenth of the steps, in nats a token."""
        losses = self.state.losses[-max(1, len(self.state.losses) // 10) :]
        return sum(losses) / len(losses)

    def curve(self, points: int = 100) -> tuple[LossPoint, ...]:
        """Return the losses as about so many points, plus those with a validation."""
        losses = self.state.losses
        every = max(1, math.ceil(len(losses) / points))
        steps = {1, *range(every, len(losses) + 1, every), *map(int, self.state.val_losses), len(losses)}
        return tuple(
            LossPoint(step=step, loss=losses[step - 1], val_loss=self.state.val_losses.get(str(step)))
            for step in sorted(steps)
        )
