"""Training settings that nobody set: the rate by the student's width, the epochs by its number of records.

Measured with SmolLM2-135M and the demo's students (docs/training.md, docs/LOG.md): adapters want a rate some
ten times that of full fine-tuning, which falls with the width of the model, and a number of steps below which
no rate helps. The power of the width is that of Thinking Machines Lab, "LoRA Without Regret" (2025), for
Llama's family.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flywheel.config.training import TrainingConfig

# Raised when the rules below change: adapters whose settings were found are then made anew.
SETTINGS_VERSION = "settings 1"

# The best rate of SmolLM2-135M, of width 576; between 1e-3 and 3e-3 F1 differs by .01.
_RATE, _WIDTH, _POWER = 2e-3, 576, 0.775
# More epochs give nothing once there are so many steps; beyond ten the student learns its records by heart.
_STEPS, _LEAST_EPOCHS, _MOST_EPOCHS = 160, 3, 10
# What the blueprint's files ask for: where the width is not known, as on NeMo.
_BLUEPRINT_RATE, _BLUEPRINT_EPOCHS = 1e-4, 1
# A tenth of the best rate, or half of the least steps, cost SmolLM2 more than ten times the records give.
_FAR_RATE, _FEW_STEPS = 8.0, 40


@dataclass(frozen=True)
class Settings:
    """What a training is run with.

    Attributes:
        learning_rate: the highest rate of the schedule.
        epochs: passes over the training records.
        steps: optimizer steps.
        doubts: in sentences, what of it was set by hand and lies far from what was measured to be good.
    """

    learning_rate: float
    epochs: int
    steps: int
    doubts: tuple[str, ...] = ()


def settle(training: TrainingConfig, records: int, width: int | None) -> Settings:
    """Return the settings of a training: what the config sets, and what fits where it leaves them open.

    Args:
        training: section `training_config`.
        records: training records, at least 1.
        width: length of the student's hidden states; None where it is not known.
    """
    each = math.ceil(records / training.batch_size)
    if width is None:
        rate = training.learning_rate or _BLUEPRINT_RATE
        epochs = training.epochs or _BLUEPRINT_EPOCHS
        steps = max(each * epochs, training.min_steps)
        return Settings(rate, epochs, steps, (_few(steps),) if steps < _FEW_STEPS else ())
    fitting = _RATE * (_WIDTH / width) ** _POWER
    rate = training.learning_rate or float(f"{fitting:.2g}")
    epochs = training.epochs or min(_MOST_EPOCHS, max(_LEAST_EPOCHS, math.ceil(_STEPS / each)))
    steps = max(each * epochs, training.min_steps)
    doubts = []
    if not fitting / _FAR_RATE <= rate <= fitting * _FAR_RATE:
        doubts.append(
            f"training_config.learning_rate {rate:g} lies far from {fitting:.2g}, which fits a model of "
            f"width {width}: leave it out to have it found"
        )
    if training.epochs is not None and steps < _FEW_STEPS:
        doubts.append(f"{_few(steps)}, or leave epochs out to have them found")
    return Settings(rate, epochs, steps, tuple(doubts))


def _few(steps: int) -> str:
    return (
        f"{steps} optimizer steps are few for an adapter: raise training_config.epochs or min_steps to "
        f"have at least {_STEPS}"
    )
