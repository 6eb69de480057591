"""`tuning: {trials: N}`: rate, epochs, rank and batch by successive halving on the validation slice.

All N settings are trained for a share of their steps, each with a whole schedule of that length; the best
third goes on with three times the share, and so on, until one is left, which the job then trains in full
(Jamieson and Talwalkar, AISTATS 2016; shares by three as in Li et al., Hyperband, JMLR 18, 2018, of which
this is one bracket). Nine settings cost two trainings more. What the config says, or what is found where it
says nothing, is the first of them and goes through all rounds, so that nothing is taken which it beats.

They are compared by the F1 of the classes that are chosen, not by the loss, which rises again where a
student grows sure of itself while its choices still get better. The student is loaded once and kernels are
compiled once. Finished trials, and the checkpoint of one that was stopped, are in the job's scratch folder:
a job that was killed goes on from there. The calibration slice and the eval set are not looked at.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.evaluation.statistics import f1_with_interval
from flywheel.jobs.settings import settle
from flywheel.jobs.spec import CustomizeSpec
from flywheel.jobs.tuning import Trial, Tuning
from flywheel.stages.agreement import chosen_answers, teachers_answer
from flywheel.workloads.short_prompts import ShortPrompt

log = logging.getLogger(__name__)

TRIALS = "trials.jsonl"
# Of the settings in a round, one in so many goes on.
THINNING = 3
# The farthest that a setting lies from the config's: factors.
_RATE, _EPOCHS, _BATCH, _RANK = 4.0, (0.5, 1.0, 2.0), (0.5, 1.0, 2.0), (0.5, 1.0, 2.0, 4.0)
_AT_ONCE = 100


@dataclass(frozen=True)
class Material:
    """What trials work with.

    Attributes:
        student: loaded, without an adapter.
        train, val: samples.
        val_records: of the validation slice, those that are examined by their answers.
        short: what prompts leave out.
        saved: called when something that outlives a kill was written.
    """

    student: Any
    train: Sequence[Any]
    val: Sequence[Any]
    val_records: Sequence[dict[str, Any]]
    short: ShortPrompt | None
    scratch: Path
    saved: Callable[[], None]


def tune(spec: CustomizeSpec, material: Material) -> tuple[TrainingConfig, LoraConfig, Tuning]:
    """Search the settings of a training; return them with what was tried.

    Raises:
        JobError: SIGTERM stopped it; the same job goes on from there.
        StudentError: the settings of the config diverge.
    """
    settings = candidates(spec, len(material.train), material.student)
    rounds = max(1, math.floor(math.log(len(settings), THINNING) + 1e-9))
    done = _Done(material)
    left = list(range(len(settings)))
    for step in range(rounds):
        share = THINNING ** -(rounds - step)
        trials = {number: done.trial(number, share, *settings[number], spec) for number in left}
        ranked = sorted(left, key=lambda number: (-trials[number].score, trials[number].loss))
        left = ranked[: max(1, len(ranked) // THINNING)]
        if step < rounds - 1 and 0 not in left:
            left.append(0)
    by_classes = bool(spec.answers) and bool(material.val_records)
    tuning = Tuning(
        by="F1" if by_classes else "loss",
        records=len(material.val_records),
        trials=tuple(done.trials),
        chosen=left[0],
    )
    log.info("%s", tuning.sentence())
    return *settings[left[0]], tuning


def candidates(spec: CustomizeSpec, records: int, student: Any) -> list[tuple[TrainingConfig, LoraConfig]]:
    """Return the settings that are tried: first the config's, or what is found where it is silent."""
    from flywheel.students.loading import width_of

    found = settle(spec.training, records, width_of(student.model))
    first = spec.training.model_copy(update={"learning_rate": found.learning_rate, "epochs": found.epochs})
    settings = [(first, spec.lora)]
    for number in range(1, spec.tuning.trials):
        draw = np.random.default_rng([spec.seed, number])
        changes = {
            "learning_rate": float(f"{found.learning_rate * _RATE ** draw.uniform(-1, 1):.2g}"),
            "epochs": max(1, round(found.epochs * draw.choice(_EPOCHS))),
            "batch_size": max(1, round(first.batch_size * draw.choice(_BATCH))),
        }
        rank = max(1, round(spec.lora.adapter_dim * draw.choice(_RANK)))
        settings.append(
            (first.model_copy(update=changes), spec.lora.model_copy(update={"adapter_dim": rank}))
        )
    return settings


class _Done:
    """Makes trials, and finds those that were made before a kill."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self.trials: list[Trial] = []
        self._path = material.scratch / TRIALS
        self._found: dict[tuple[int, float], Trial] = {}
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                if line.endswith("}"):  # the last one may be cut short
                    trial = Trial.model_validate_json(line)
                    self._found[trial.number, trial.share] = trial

    def trial(
        self, number: int, share: float, training: TrainingConfig, lora: LoraConfig, spec: CustomizeSpec
    ) -> Trial:
        """Return a trial: found, or made and kept."""
        made = self._found.get((number, share))
        if made is None:
            made = self._make(number, share, training, lora, spec)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(made.model_dump_json() + "\n")
            self.material.saved()
        self.trials.append(made)
        log.info("trial %d with %.0f %% of its steps: %s", number, 100 * share, made.model_dump_json())
        return made

    def _make(
        self, number: int, share: float, training: TrainingConfig, lora: LoraConfig, spec: CustomizeSpec
    ) -> Trial:
        from flywheel.common.errors import StudentError
        from flywheel.students.adapter import add_adapter
        from flywheel.students.training import fine_tune

        here = self.material
        by_classes = bool(spec.answers) and bool(here.val_records)
        folder = here.scratch / f"trial-{number}-{share:.4f}"
        folder.mkdir(exist_ok=True)
        changes = {"validations": 0 if by_classes else 1, "early_stop_patience": 0}
        model = add_adapter(here.student.model, lora, here.student.base_name, spec.seed)
        started = time.monotonic()
        try:
            outcome = fine_tune(
                model,
                here.train,
                [] if by_classes else here.val,
                training.model_copy(update=changes),
                dropout=lora.adapter_dropout,
                seed=spec.seed,
                scratch=folder,
                after_checkpoint=here.saved,
                share=share,
            )
            score = self._score(model, spec) if by_classes else -(outcome.val_loss or math.inf)
            loss, tokens, before = outcome.train_loss, outcome.state.tokens, outcome.state.seconds
        except StudentError as error:  # a rate at which it diverges
            if number == 0:
                raise
            log.warning("trial %d: %s", number, error)
            score, loss, tokens, before = -1e9, 1e9, 0, 0.0
        finally:
            model.unload()
        shutil.rmtree(folder, ignore_errors=True)
        seconds = max(before, time.monotonic() - started)
        assert training.learning_rate is not None and training.epochs is not None
        return Trial(
            number=number,
            learning_rate=training.learning_rate,
            epochs=training.epochs,
            batch_size=training.batch_size,
            adapter_dim=lora.adapter_dim,
            share=share,
            score=score,
            loss=loss,
            seconds=round(seconds, 2),
            tokens=tokens,
        )

    def _score(self, model: Any, spec: CustomizeSpec) -> float:
        here = self.material
        assert spec.answers is not None
        given = chosen_answers(
            model,
            here.student.chat,
            spec.student,
            here.val_records,
            spec.answers,
            here.short,
            _AT_ONCE,
        )
        return f1_with_interval([teachers_answer(record) for record in here.val_records], given)[0]
