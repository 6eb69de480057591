"""Training settings of encoders that nobody set: rate by width, epochs by the number of records."""

from __future__ import annotations

import math

from flywheel.config.training import TrainingConfig
from flywheel.jobs.settings import Settings

# Measured with MiniLM-L6, of width 384, on real headlines (docs/training.md, docs/LOG.md).
_RATE, _WIDTH, _POWER = 5e-4, 384, 0.775
_STEPS, _LEAST_EPOCHS, _MOST_EPOCHS = 100, 2, 5


def settle(training: TrainingConfig, records: int, width: int) -> Settings:
    """Return the settings of a training: what the config sets, and what fits where it leaves them open.

    Args:
        training: section `training_config`.
        records: training records, at least 1.
        width: length of the encoder's hidden states.
    """
    each = math.ceil(records / training.batch_size)
    rate = training.learning_rate or float(f"{_RATE * (_WIDTH / width) ** _POWER:.2g}")
    epochs = training.epochs or min(_MOST_EPOCHS, max(_LEAST_EPOCHS, math.ceil(_STEPS / each)))
    return Settings(rate, epochs, max(each * epochs, training.min_steps))
