"""What a student is made of, before it is loaded: a champion in force, one of the timeline, a candidate."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, FlywheelError
from flywheel.config.serving import CascadeConfig
from flywheel.config.student import Student
from flywheel.evaluation.cascade import Cascade, cascade_of
from flywheel.jobs.result import Calibration, CustomizeResult, EvaluateResult
from flywheel.jobs.spec import RESULT
from flywheel.jobs.weights import check_weights
from flywheel.promotion.champion import Champion
from flywheel.promotion.whole import LoadedChampion, load_champion, load_whole
from flywheel.runs.run import Run
from flywheel.serving.student import Source
from flywheel.workloads.workload import Workload

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """Finds what students are made of in an artifact root; nothing is loaded, all files are verified.

    Attributes:
        students: those of the config, which know how long a prompt may be.
        cascade: that answers are given by; None: there is none.
        weights: folder or Hub id of a champion's base weights on this machine; empty: as it was trained.
            Others than it was trained on are refused.
    """

    root: ArtifactRoot
    students: Sequence[Student] = ()
    cascade: CascadeConfig | None = None
    weights: str = ""

    def in_force(self, champion: Champion) -> Source:
        """Return what the champion in force is made of, from its own copy.

        Raises:
            ArtifactError: it is damaged, its base weights here are others, or it is no longer in force.
        """
        loaded = load_champion(self.root, champion.workload_id, champion.client_id)
        if loaded is None or loaded.champion.adapter != champion.adapter:
            raise ArtifactError(f"{champion.name}: another decision came meanwhile")
        return self._whole(loaded)

    def _whole(self, loaded: LoadedChampion) -> Source:
        return self._source(
            loaded.champion,
            loaded.adapter,
            loaded.workload,
            asked_text=loaded.whole.student_prompt == "text",
            trained_on=loaded.whole.base_revision,
        )

    def then(self, champion: Champion) -> Source:
        """Return what a champion of the timeline is made of: of one that never was in force, from its run.

        Raises:
            ArtifactError: its adapter or its run's plan is damaged or gone, or its base weights here are
                others.
        """
        if champion.whole is not None:
            return self._whole(load_whole(self.root, champion))
        run = Run(self.root, champion.run_id)
        if not run.is_planned:
            raise ArtifactError(
                f"{self.root.url}/{run.path}/plan.json: no such file, and so the prompt of {champion.name}, "
                f"the champion of then, is gone; backfill its night {champion.run_id} anew"
            )
        folder = self.root.fetch("adapters", champion.adapter)
        made = CustomizeResult.model_validate_json((folder / RESULT).read_bytes())
        return self._source(
            champion,
            folder,
            run.plan.workload,
            asked_text=made.short_prompt is not None,
            trained_on=made.base_revision or made.base_sha256 or "",
        )

    def candidate(self, run: Run, student: str, size: str, metric: str) -> Source:
        """Return what a candidate of a run is made of.

        Args:
            metric: that the run's candidates are judged by.

        Raises:
            ArtifactError: it is damaged.
        """
        made = run.load(f"jobs/{student}@{size}/customize", CustomizeResult)
        evaluation = run.load(f"jobs/{student}@{size}/evaluate", EvaluateResult).key
        plan = run.plan
        return Source(
            name=f"{student} @ {size}",
            student=plan.config.student(student),
            adapter=made.adapter,
            folder=self.root.fetch("adapters", made.adapter),
            workload=plan.workload,
            asked_text=made.short_prompt is not None,
            temperature=self.temperature(evaluation),
            classifies=classifies(metric, plan.workload),
        )

    def temperature(self, evaluation: str | None) -> float | None:
        """Return the temperature that an evaluation found; None where it is gone or found none."""
        found = self._calibration(evaluation)
        return found.temperature if found else None

    def _source(
        self, champion: Champion, folder: Path, workload: Workload, *, asked_text: bool, trained_on: str
    ) -> Source:
        weights = self.weights or champion.weights
        mend = "put those back, or promote a candidate anew"
        check_weights(weights, trained_on, champion.name, mend)
        return Source(
            name=champion.name,
            student=self._student(champion, weights),
            adapter=champion.adapter,
            folder=folder,
            workload=workload,
            asked_text=asked_text,
            temperature=self.temperature(champion.evaluation),
            classifies=classifies(champion.metric, workload),
            cascade=self._cascade(champion),
        )

    def _student(self, champion: Champion, weights: str) -> Student:
        """Return a champion's student, with the context that the config, else its run, gives it."""
        known = next((one for one in self._students(champion) if one.model_name == champion.model_name), None)
        if known is None or known.family != champion.family:
            known = champion.as_student
        changes: dict[str, Any] = {"name": champion.student, "weights": weights}
        return known.model_copy(update=changes)

    def _students(self, champion: Champion) -> Iterable[Student]:
        yield from self.students
        run = Run(self.root, champion.run_id)
        try:
            if run.is_planned:
                yield from run.plan.config.nims
        except FlywheelError as error:
            log.warning(
                "%s: asked with the default context, as its run cannot be read: %s", champion.name, error
            )

    def _calibration(self, evaluation: str | None) -> Calibration | None:
        folder = self.root.lookup("evaluations", evaluation) if evaluation else None
        if folder is None:
            return None
        return EvaluateResult.model_validate_json((folder / RESULT).read_bytes()).calibration

    def _cascade(self, champion: Champion) -> Cascade | None:
        """Return a champion's threshold: as fixed at its promotion, else on the slice of its evaluation."""
        if self.cascade is None:
            return None
        found = champion.cascade
        if found is None or found.target != self.cascade.agreement:
            found = cascade_of(self._calibration(champion.evaluation), self.cascade.agreement)
        log.info("%s: cascade: %s", champion.name, found.reason)
        return found


def classifies(metric: str, workload: Workload) -> bool:
    """Return whether a student that is judged by a metric chooses among the classes of a workload."""
    return bool(workload.classes) and metric in ("f1_weighted", "f1_macro", "accuracy")
