"""A fine-tuning by the GPU path's engine (on a CPU, with the reference operations): as the other engine's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_students import make_model, make_samples, with_adapter

from flywheel.config.training import TrainingConfig
from flywheel.students import training
from flywheel.students.adapter import trainable
from flywheel.students.gpu.backend import GpuEngine
from flywheel.students.training import fine_tune


def fine_tuned(settings: TrainingConfig, **options: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
    model = with_adapter(make_model(head_dim=16))
    samples = make_samples(24, 36)
    outcome = fine_tune(model, samples[:30], samples[30:], settings, **options)
    return {name: weight.detach().clone() for name, weight in trainable(model).items()}, outcome.state.losses


def take_gpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        training, "engine_for", lambda model, dropout: GpuEngine(model, dropout, graphs=False)
    )


@pytest.fixture
def gpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    take_gpu_path(monkeypatch)


SETTINGS = TrainingConfig(batch_size=8, learning_rate=5e-3, epochs=2, validations=2)


def test_both_engines_train_the_same_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, wanted_losses = fine_tuned(SETTINGS)
    take_gpu_path(monkeypatch)
    found, losses = fine_tuned(SETTINGS)
    assert losses == pytest.approx(wanted_losses, rel=1e-4)
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=2e-2, atol=2e-4)


@pytest.mark.usefixtures("gpu_path")
def test_a_batch_split_into_rows_trains_alike() -> None:
    whole, _ = fine_tuned(SETTINGS)
    split, _ = fine_tuned(SETTINGS, most_tokens=150)
    for name, weight in whole.items():
        torch.testing.assert_close(split[name], weight, rtol=2e-2, atol=2e-4)


@pytest.mark.usefixtures("gpu_path")
def test_a_training_that_was_stopped_ends_in_the_same_adapter(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"checkpoint_seconds": 1e-9})
    wanted, _ = fine_tuned(settings, dropout=0.1, seed=3)
    written = []

    class StoppedError(Exception):
        pass

    def stop() -> None:
        written.append(1)
        if len(written) == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        fine_tuned(settings, dropout=0.1, seed=3, scratch=tmp_path, after_checkpoint=stop)
    found, _ = fine_tuned(settings, dropout=0.1, seed=3, scratch=tmp_path)
    for name, weight in wanted.items():
        assert torch.equal(found[name], weight), name
