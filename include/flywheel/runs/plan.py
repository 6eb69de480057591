"""The plan of a run: configuration, parameters, cutoff and candidates, frozen when the run starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ConfigError, StudentError
from flywheel.config import Config
from flywheel.config.loading import project_home
from flywheel.config.overrides import override_config
from flywheel.config.sides import WORDS
from flywheel.jobs.families import FAMILIES
from flywheel.jobs.weights import pinned
from flywheel.workloads.records import TRAFFIC
from flywheel.workloads.versions import resolve_held
from flywheel.workloads.workload import Workload

log = logging.getLogger(__name__)

PROJECT_VARIABLE = "FLYWHEEL_PROJECT"


class Candidate(BaseModel):
    """A student fine-tuned on a number of training records."""

    model_config = ConfigDict(frozen=True)

    student: str
    size: int = Field(ge=1)

    @property
    def name(self) -> str:
        """The name in tables and in the grid: `1b @ 5000`."""
        return f"{self.student} @ {self.size}"

    @property
    def folder(self) -> str:
        """The name as part of a path."""
        return f"{self.student}@{self.size}"


class Plan(BaseModel):
    """All that a run needs to know; every later task reads this copy, never the config file again.

    Attributes:
        dag_id: the DAG that the run is one of; empty: it was planned by hand.
        project: whose run it is, as `project_name` says; empty in plans of flywheel 0.1.0.
        cutoff: unix seconds; the run sees records with known_at < cutoff.
        workload: the prompt and classes as they were when the run started.
        candidates: as asked for, biggest work first, so that the longest job does not start last; curate says
            which of them the data allows (`Run.candidates`).
        experiment: name of the operator's file that the run named; empty: none.
        exam_changes: keys that decide how candidates are examined and that the run's params set otherwise
            than the operator's files. Such a run never promotes by itself: it is another examination.
        is_backfill: the run is one of a backfill: it shows what would have been, and never changes what is
            in production.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    dag_id: str = ""
    project: str = ""
    workload_id: str
    client_id: str
    cutoff: int
    created_at: str
    config: Config
    workload: Workload
    students: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    approval: Literal["automatic", "human"]
    experiment: str = ""
    exam_changes: tuple[str, ...] = ()
    is_backfill: bool = False

    @property
    def needs_a_person(self) -> str:
        """Why nothing of this run is promoted unless a person says so; empty where it may be."""
        if not self.exam_changes or self.approval == "human":
            return ""
        return (
            "The one who started the run changed how its candidates are examined "
            f"({', '.join(self.exam_changes)}), so it does not promote by itself."
        )

    @property
    def untrained(self) -> tuple[str, ...]:
        """The students that are measured as they are, before any training."""
        families = {name: FAMILIES[self.config.student(name).family] for name in self.students}
        return tuple(name for name, family in families.items() if family.answers_untrained)

    @property
    def owns_sources(self) -> bool:
        """Whether the config's sources belong to this run's client: another's are not touched."""
        return self.client_id == self.config.client_id

    @property
    def student_names(self) -> frozenset[str]:
        """The names by which an answer says that a student of the config gave it, and not the teacher."""
        return self.config.student_names


def make_plan(
    config: Config,
    *,
    run_id: str,
    dag_id: str = "",
    cutoff: datetime,
    workload_id: str | None = None,
    client_id: str | None = None,
    students: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    overrides: dict[str, Any] | None = None,
    approval: Literal["automatic", "human"] | None = None,
    experiment: str = "",
    is_backfill: bool = False,
) -> Plan:
    """Freeze a run's plan.

    Args:
        cutoff: with a time zone.
        workload_id: whose records, default those of the config's workload.
        students: short names, default all; order of the config is kept.
        sizes: training records, default the config's.
        overrides: sections of the config with the keys to change, such as
            `{"training_config": {"epochs": 2}}`; what a run may not set is refused
            (flywheel.config.overrides).
        approval: default the config's, which may be made stricter only.
        experiment: name of the operator's file that the config came from.
        is_backfill: never change what is in production.

    Raises:
        ConfigError: a student that the config does not have, a wrong size or override, or one that is not
            for a run to set.
        WorkloadError: the workload file is wrong.
    """
    if cutoff.tzinfo is None:
        raise ConfigError(f"cutoff {cutoff}: expected a time with its zone")
    if workload_id is not None and workload_id.startswith(TRAFFIC):
        raise ConfigError(f"workload_id {workload_id!r}: what students answered in production never trains")
    given = {**(overrides or {}), **({"sizes": list(sizes)} if sizes else {})}
    config, exam_changes = override_config(config, given) if given else (config, ())
    words = WORDS["promotion.approval"]
    if approval and words.index(approval) < words.index(config.promotion.approval):
        raise ConfigError(f"approval: {config.promotion.approval}, as promotion.approval is; got {approval}")
    workload = Workload.load(config.workload)
    workload = resolve_held(ArtifactRoot(config.artifacts.root), workload, config.workload)
    _check_type(config, workload)
    names = [student.name for student in config.students]
    chosen = list(dict.fromkeys(students)) if students else names
    for name in chosen:
        if name not in names:
            raise ConfigError(f"students: no student {name!r} in the config; there are {', '.join(names)}")
    candidates = [
        Candidate(student=student.name, size=size)
        for student in reversed(config.students)
        for size in reversed(config.sizes)
        if student.name in chosen and student.customization_enabled
    ]
    return Plan(
        run_id=run_id,
        dag_id=dag_id,
        project=project_name(),
        workload_id=workload_id or workload.id,
        client_id=client_id or config.client_id,
        cutoff=int(cutoff.timestamp()),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        config=config,
        workload=workload,
        students=tuple(name for name in names if name in chosen),
        candidates=tuple(candidates),
        approval=approval or config.promotion.approval,
        experiment=experiment,
        exam_changes=exam_changes,
        is_backfill=is_backfill,
    )


def project_name() -> str:
    """Return what tells this project from others with its artifact root: FLYWHEEL_PROJECT, else its path.

    The variable tells projects apart that lie at the same path of different machines, as in images.
    """
    return os.environ.get(PROJECT_VARIABLE) or str(project_home())


def _check_type(config: Config, workload: Workload) -> None:
    """Refuse a workload without classes where classes are needed."""
    if workload.classes:
        return
    for student in config.students:
        if student.family != "causal_lm":
            raise ConfigError(
                f"nims: {student.name} is of family {student.family}, which classifies, but "
                f"{config.workload} has no classes; expected family causal_lm"
            )
    if config.evaluation_config.workload_type == "classification":
        raise ConfigError(
            f"evaluation_config.workload_type: classification needs classes, but {config.workload} has none"
        )
    for index, source in enumerate(config.source):
        if source.kind == "headlines":
            raise ConfigError(
                f"source.{index}.kind: headlines are labelled with the workload's prompt, but "
                f"{config.workload} has none; expected log_records"
            )


def with_pinned_weights(plan: Plan) -> Plan:
    """Return a plan whose students' weights of the Hub name the commit that they are at now.

    Where the Hub cannot be asked from here, each job takes the commit that it finds, and says which.
    """
    students = []
    for student in plan.config.nims:
        try:
            student = student.model_copy(update={"weights": pinned(student.weights)})
        except StudentError as error:
            log.warning("%s: its weights are not pinned: %s", student.name, error)
        students.append(student)
    return plan.model_copy(update={"config": plan.config.model_copy(update={"nims": tuple(students)})})
