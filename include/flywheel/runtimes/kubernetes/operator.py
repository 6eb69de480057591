"""PodOperator: Airflow's KubernetesPodOperator for one job of a student, always deferred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

from flywheel.config import Config
from flywheel.runs.run import Run
from flywheel.runs.waits import wait_path
from flywheel.runtimes.context import run_of
from flywheel.runtimes.job_operator import JobOperator
from flywheel.runtimes.kubernetes.described import DescribedPod
from flywheel.runtimes.kubernetes.job import PodJob


class PodOperator(JobOperator, DescribedPod):
    """Runs a job in a pod. Takes all arguments of Airflow's KubernetesPodOperator."""

    template_fields: Sequence[str] = ("student", "size", "pod_spec", *KubernetesPodOperator.template_fields)
    own_fields = ("student", "size")

    def begin(self, context: Any, run: Run, spec: str) -> NoReturn:
        """Defer: this task holds no slot until its pod has ended, and mostly none then either."""
        config = run.plan.config
        run.root.discard(self.result_path(run))  # an earlier try's, of which nothing else is left
        if self.manifest is None:
            self.describe(self._job(run), config, context)
        ti = context["ti"]
        waits = wait_path(run, ti.task_id, ti.map_index)
        result = {"root": run.root.url, "path": self.result_path(run), "waits": waits}
        self.defer(trigger=self.trigger(context, config.runtime.kubernetes, result), method_name="resume")
        raise AssertionError("defer does not return")

    def pod_job(self, context: Any) -> tuple[PodJob, Config]:
        """Return the job of the pod, and the config that describes it."""
        run = run_of(context)
        return self._job(run), run.plan.config

    def _job(self, run: Run) -> PodJob:
        student, spec = self.student_of(run), self.spec_url(run)
        return PodJob(self.kind, self.stage, student, self.size, run.run_id, run.path, spec, run.root.url)
