"""A job as its pod needs it described."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import cast

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import JobError
from flywheel.config import Student
from flywheel.runtimes.base import Job, JobKind, Stage
from flywheel.runtimes.job_command import SPEC_SUFFIX

# By this label flywheel's pods are told from others in the namespace.
MANAGED_BY = {"app.kubernetes.io/managed-by": "flywheel"}
SELECTOR = ",".join(f"{name}={value}" for name, value in MANAGED_BY.items())
# Annotation: the run as Airflow calls it, which a label cannot hold.
RUN_ID = "flywheel/run-id"


@dataclass(frozen=True)
class PodJob:
    """What is to run in a pod.

    Attributes:
        size: of the candidate; None for the student itself.
        run_id: the run.
        run_path: its folder, relative to the artifact root.
        spec: URL of the job's spec, as this process sees it.
        root: URL of the artifact root, as this process sees it.
    """

    kind: JobKind
    stage: Stage
    student: Student
    size: int | None
    run_id: str
    run_path: str
    spec: str
    root: str

    @property
    def name(self) -> str:
        """The pod's name: readable, and the same for the same job of the same run."""
        size = f"-{self.size}" if self.size is not None else ""
        readable = re.sub(r"[^a-z0-9]+", "-", f"fw-{self.stage}-{self.student.name}{size}".lower())
        return f"{readable[:52].strip('-')}-{hashlib.sha256(self.spec.encode()).hexdigest()[:8]}"

    @property
    def result(self) -> str:
        """Path of the job's result, relative to the artifact root."""
        return self.spec.removeprefix(f"{self.root}/").removesuffix(SPEC_SUFFIX) + ".json"

    @classmethod
    def of(cls, job: Job) -> PodJob:
        """Return the job of a written spec: `ROOT/runs/RUN/jobs/STUDENT[@SIZE]/STAGE.spec.json`.

        Raises:
            JobError: it is no such spec.
        """
        if job.kind == "annotate-shard":
            return cls._of_shard(job)
        found = re.fullmatch(r"(.+)/(runs/[^/]+)/jobs/([^/@]+)(?:@(\d+))?/([a-z_]+)\.spec\.json", job.spec)
        if not found:
            raise JobError(f"{job.spec}: no spec of a run's job: ROOT/runs/RUN/jobs/STUDENT/STAGE.spec.json")
        root, run_path, _, size, stage = found.groups()
        artifacts = ArtifactRoot(root)
        asked = artifacts.read_json(f"{job.spec.removeprefix(f'{root}/')}")
        plan = artifacts.read_json(f"{run_path}/plan.json")
        return cls(
            kind=job.kind,
            stage=cast(Stage, stage),
            student=Student.model_validate(asked["student"]),
            size=int(size) if size else None,
            run_id=plan["run_id"],
            run_path=run_path,
            spec=job.spec,
            root=root,
        )

    @classmethod
    def _of_shard(cls, job: Job) -> PodJob:
        """Return the job of a shard, `ROOT/annotations/work/KEY/SHARD.spec.json`, in the largest pod."""
        found = re.fullmatch(r"(.+)/(annotations/work/[^/]+)/([^/]+)\.spec\.json", job.spec)
        if not found:
            raise JobError(f"{job.spec}: no spec of a shard: ROOT/annotations/work/KEY/SHARD.spec.json")
        root, path, shard = found.groups()
        asked = ArtifactRoot(root).read_json(job.spec.removeprefix(f"{root}/"))
        students = [Student.model_validate(student) for student in asked["students"]]
        return cls(
            kind=job.kind,
            stage="annotate",
            student=max(students, key=lambda student: student.gpus),
            size=None,
            run_id=f"annotate {shard}",
            run_path=path,
            spec=job.spec,
            root=root,
        )


def root_label(root: str) -> str:
    """Return the value of the label that all pods of an artifact root have."""
    return hashlib.sha256(root.encode()).hexdigest()[:16]
