"""The training loop: the same weights from any restart, early stop, limits and clear errors."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_students import make_model, make_samples, with_adapter

from flywheel.common.errors import JobError, StudentError
from flywheel.config.training import TrainingConfig
from flywheel.jobs.progress import Progress
from flywheel.students.adapter import trainable
from flywheel.students.checkpoint import FILE, load_checkpoint, save_checkpoint
from flywheel.students.outcome import TrainingOutcome
from flywheel.students.rows import Sample, build_row
from flywheel.students.trainer import rate_at
from flywheel.students.training import fine_tune

# More frequent than any job needs, so that a checkpoint follows every step.
EVERY_STEP = 1e-9


def config(**changes: Any) -> TrainingConfig:
    settings: dict[str, Any] = {
        "batch_size": 8,
        "learning_rate": 5e-3,
        "epochs": 3,
        "checkpoint_seconds": 1e9,
    }
    return TrainingConfig(**{**settings, **changes})


def weights_after(
    settings: TrainingConfig, train: list[Sample], val: list[Sample] | None = None, **options: Any
) -> tuple[dict[str, torch.Tensor], TrainingOutcome]:
    model = with_adapter(make_model())
    outcome = fine_tune(model, train, val or [], settings, **options)
    return {name: weight.detach().clone() for name, weight in trainable(model).items()}, outcome


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert torch.equal(ours[name], weight), name


class TestLoop:
    def test_the_loss_falls(self) -> None:
        _, outcome = weights_after(config(epochs=20), make_samples(30, 8))
        losses = outcome.state.losses
        assert losses[-1] < 0.7 * losses[0]
        assert outcome.train_loss == pytest.approx(sum(losses[-2:]) / 2)

    def test_a_step_is_that_of_adamw_on_the_mean_loss_of_the_batch(self) -> None:
        samples = make_samples(40, 6)
        ours, outcome = weights_after(config(epochs=1, warmup_ratio=0, max_grad_norm=0.05), samples)
        model = with_adapter(make_model())
        tokens = sum(len(sample.answer) for sample in samples)
        total = 0.0
        for sample in samples:
            ids = torch.from_numpy(np.concatenate([sample.prompt, sample.answer]).astype(np.int64))
            logits = model(input_ids=ids[None]).logits[0, len(sample.prompt) - 1 : -1]
            loss = (
                torch.nn.functional.cross_entropy(logits, ids[len(sample.prompt) :], reduction="sum") / tokens
            )
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trainable(model).values(), 0.05)
        torch.optim.AdamW(trainable(model).values(), lr=5e-3, weight_decay=0.0).step()
        assert outcome.state.losses == [pytest.approx(total, rel=1e-5)]
        for name, weight in trainable(model).items():
            # Adam's first step is the gradient's sign wherever that is clear.
            torch.testing.assert_close(ours[name], weight.detach(), rtol=0, atol=2e-4)

    def test_a_batch_split_into_rows_gives_the_same_weights(self) -> None:
        samples = make_samples(40, 8)
        whole, _ = weights_after(config(epochs=2), samples)
        split, _ = weights_after(config(epochs=2), samples, most_tokens=100)
        for name, weight in whole.items():
            torch.testing.assert_close(split[name], weight, rtol=1e-4, atol=1e-5)

    def test_the_seed_fixes_order_and_dropout(self) -> None:
        samples = make_samples(30, 20)
        first, _ = weights_after(config(), samples, dropout=0.2, seed=1)
        again, _ = weights_after(config(), samples, dropout=0.2, seed=1)
        other, _ = weights_after(config(), samples, dropout=0.2, seed=2)
        assert_same(first, again)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_dropout_changes_the_training_but_not_the_validation(self) -> None:
        samples = make_samples(30, 20)
        settings = config(epochs=1, validations=1, learning_rate=1e-12)
        _, dropped = weights_after(settings, samples, samples[:4], dropout=0.5)
        _, without = weights_after(settings, samples, samples[:4])
        assert dropped.state.losses != without.state.losses
        assert dropped.val_loss == pytest.approx(without.val_loss, abs=1e-6)

    def test_every_epoch_sees_every_sample_once_in_another_order(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        samples = make_samples(30, 20)
        seen: list[int] = []

        def watch(prefix: Any, batch: list[Sample]) -> Any:
            seen.extend(next(i for i, sample in enumerate(samples) if sample is one) for one in batch)
            return build_row(prefix, batch)

        monkeypatch.setattr("flywheel.students.training.build_row", watch)
        told: list[Progress] = []
        _, outcome = weights_after(config(epochs=2, batch_size=8), samples, progress=told.append)
        assert outcome.state.samples == 40
        assert outcome.settings.steps == 6  # two full batches and one of four, twice
        assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20))
        assert seen[:20] != seen[20:] and seen[:20] != list(range(20))
        assert told[-1].step == told[-1].steps == 6 and told[-1].seconds_left == 0

    def test_epochs_repeat_until_the_least_number_of_steps(self) -> None:
        _, outcome = weights_after(config(epochs=1, min_steps=7), make_samples(30, 16))
        assert outcome.settings.steps == outcome.state.step == 7

    def test_samples_without_a_common_prefix_are_trained_too(self) -> None:
        samples = [sample for seed in range(12) for sample in make_samples(0, 1, seed=seed)]
        _, outcome = weights_after(config(epochs=6), samples)
        assert outcome.prefix == 0
        assert outcome.state.losses[-1] < outcome.state.losses[0]

    def test_the_rate_rises_over_the_warmup_and_falls_to_zero(self) -> None:
        rates = [rate_at(step, 20, 1.0, 0.2) for step in range(20)]
        assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
        assert rates[5:] == sorted(rates[5:], reverse=True)
        assert 0 < rates[-1] < 0.02


class TestValidation:
    def test_validations_are_evenly_spaced_and_the_last_is_at_the_end(self) -> None:
        _, outcome = weights_after(config(epochs=8, validations=4), make_samples(30, 8), make_samples(30, 4))
        assert list(map(int, outcome.state.val_losses)) == [2, 4, 6, 8]
        assert outcome.val_loss == list(outcome.state.val_losses.values())[-1]
        assert [point.step for point in outcome.curve() if point.val_loss is not None] == [2, 4, 6, 8]

    def test_patience_stops_the_training_and_keeps_the_best_weights(self) -> None:
        train, val = make_samples(30, 8), make_samples(30, 8, seed=5)  # nothing to learn: val grows worse
        settings = config(epochs=60, validations=30, early_stop_patience=3, learning_rate=3e-2)
        best, outcome = weights_after(settings, train, val)
        state = outcome.state
        assert state.stopped_early and state.step < 60
        assert outcome.val_loss == min(state.val_losses.values())
        assert list(state.val_losses.values()).index(outcome.val_loss) == len(state.val_losses) - 4
        model = with_adapter(make_model())
        with torch.no_grad():
            for name, weight in trainable(model).items():
                weight.copy_(best[name])
        check = fine_tune(model, train, val, config(epochs=1, validations=1, learning_rate=1e-12))
        assert check.val_loss == pytest.approx(outcome.val_loss, rel=1e-5)


class TestErrors:
    def test_a_loss_that_is_no_number_is_a_clear_error(self) -> None:
        model = with_adapter(make_model())
        with torch.no_grad():
            next(iter(trainable(model).values())).fill_(torch.nan)
        with pytest.raises(
            StudentError, match=r"loss is nan at step 1: .* lower training_config.learning_rate"
        ):
            fine_tune(model, make_samples(30, 8), [], config())

    def test_nothing_to_train_on_is_a_clear_error(self) -> None:
        with pytest.raises(StudentError, match="no training examples are left"):
            fine_tune(with_adapter(make_model()), [], [], config())


class TestCheckpoints:
    SAMPLES = make_samples(30, 20)
    VAL = make_samples(30, 5, seed=3)
    SETTINGS = config(epochs=4, validations=4, early_stop_patience=9, checkpoint_seconds=EVERY_STEP)

    def run(self, scratch: Path | None, progress: Callable[[Progress], None] | None = None) -> Any:
        options = {"dropout": 0.1, "seed": 3, "scratch": scratch, "progress": progress}
        return weights_after(self.SETTINGS, self.SAMPLES, self.VAL, **options)

    @pytest.fixture(scope="class")
    def uninterrupted(self) -> tuple[dict[str, torch.Tensor], TrainingOutcome]:
        result: tuple[dict[str, torch.Tensor], TrainingOutcome] = self.run(None)
        return result

    def test_kills_at_any_moment_change_no_bit_of_the_adapter(
        self, tmp_path: Path, uninterrupted: Any
    ) -> None:
        rng = random.Random(0)
        context = multiprocessing.get_context("fork")
        kills, steps = 0, []
        for _ in range(40):
            child = context.Process(target=self.run, args=(tmp_path,))
            child.start()
            # Killed some time after it began to write, be it in the middle of a checkpoint.
            before, waited = _changed(tmp_path), time.monotonic()
            while child.is_alive() and _changed(tmp_path) == before and time.monotonic() - waited < 20:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
            if child.exitcode is not None:
                break
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join()
            kills += 1
            found = load_checkpoint(tmp_path)
            steps.append(found[1]["step"] if found else 0)
        assert kills >= 2
        assert steps == sorted(steps), "a killed training lost a checkpoint"
        weights, outcome = self.run(tmp_path)
        expected, plain = uninterrupted
        assert outcome.resumed_from_step and outcome.steps_run < plain.settings.steps
        assert_same(weights, expected)
        assert outcome.state.losses == plain.state.losses
        assert outcome.state.val_losses == plain.state.val_losses
        assert outcome.state.samples == plain.state.samples

    def test_sigterm_ends_the_job_after_a_checkpoint(
        self, tmp_path: Path, uninterrupted: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Told of every step, so that the signal comes after the first one on a machine of any speed.
        monkeypatch.setattr("flywheel.students.trainer._PROGRESS_SECONDS", 0.0)
        asked: list[int] = []

        def ask(progress: Progress) -> None:
            asked.append(progress.step)
            os.kill(os.getpid(), signal.SIGTERM)

        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(JobError, match="stopped by SIGTERM after step"):
            self.run(tmp_path, ask)
        assert signal.getsignal(signal.SIGTERM) is handler
        weights, outcome = self.run(tmp_path)
        assert outcome.resumed_from_step and outcome.resumed_from_step > asked[0]
        assert_same(weights, uninterrupted[0])

    def test_a_damaged_checkpoint_is_passed_over(
        self, tmp_path: Path, uninterrupted: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / FILE).write_bytes(b"\x10\0\0\0\0\0\0\0{not json")
        with caplog.at_level(logging.WARNING):
            weights, outcome = self.run(tmp_path)
        assert "starts from the beginning" in caplog.text
        assert outcome.resumed_from_step is None
        assert_same(weights, uninterrupted[0])

    def test_a_checkpoint_holds_numbers_exactly(self, tmp_path: Path) -> None:
        state = {"a": 0.1 + 0.2, "b": float("inf"), "c": [1e-300, 3]}
        tensors = {"x": torch.randn(3, 4), "y": torch.tensor(2.0)}
        save_checkpoint(tmp_path, tensors, state)
        found = load_checkpoint(tmp_path)
        assert found is not None
        assert found[1] == state
        assert all(torch.equal(found[0][name], tensor) for name, tensor in tensors.items())
        assert os.listdir(tmp_path) == [FILE]


def _changed(folder: Path) -> int:
    """When something was last written here."""
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
