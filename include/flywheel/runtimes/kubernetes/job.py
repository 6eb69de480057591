"""A job as its task hands it to the triggerer. Cheap to import, for every worker does."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from flywheel.common.errors import JobError
from flywheel.config import Student
from flywheel.runtimes.base import JobKind, RefusedJobError
from flywheel.runtimes.job_command import SPEC_SUFFIX

# By this label flywheel's pods are told from others in the namespace.
MANAGED_BY = {"app.kubernetes.io/managed-by": "flywheel"}
SELECTOR = ",".join(f"{name}={value}" for name, value in MANAGED_BY.items())
# Annotation: the run as Airflow calls it, which a label cannot hold.
RUN_ID = "flywheel/run-id"

Stage = Literal["base_eval", "icl_eval", "champion_eval", "customize", "evaluate"]


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

    def dump(self) -> dict[str, Any]:
        """Return the job as JSON."""
        fields: dict[str, Any] = _JSON.dump_python(self, mode="json")
        return fields

    @classmethod
    def load(cls, fields: dict[str, Any]) -> PodJob:
        """Return the job that was dumped."""
        return _JSON.validate_python(fields)


_JSON: TypeAdapter[PodJob] = TypeAdapter(PodJob)


def root_label(root: str) -> str:
    """Return the value of the label that all pods of an artifact root have."""
    return hashlib.sha256(root.encode()).hexdigest()[:16]


def check(event: dict[str, Any]) -> None:
    """Raise where a pod did not do its job.

    Raises:
        RefusedJobError: the job said that what it was given is wrong.
        JobError: it ended in another way than well.
    """
    if event["refused"]:
        raise RefusedJobError(event["sentence"])
    if not event["good"]:
        raise JobError(event["sentence"])
