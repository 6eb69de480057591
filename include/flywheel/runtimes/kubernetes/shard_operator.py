"""PodShardOperator: Airflow's KubernetesPodOperator for a shard of a labelled history, always deferred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

from flywheel.annotation.work import Work
from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Config
from flywheel.runtimes.kubernetes.described import DescribedPod
from flywheel.runtimes.kubernetes.job import PodJob
from flywheel.runtimes.shard_operator import ShardOperator


class PodShardOperator(ShardOperator, DescribedPod):
    """Labels a shard in a pod. Takes all arguments of Airflow's KubernetesPodOperator."""

    template_fields: Sequence[str] = ("spec", "pod_spec", *KubernetesPodOperator.template_fields)
    own_fields = ("spec",)

    def begin(self, context: Any, work: Work) -> NoReturn:
        """Defer: this task holds no slot until its pod has ended, and mostly none then either."""
        root, path = ArtifactRoot(work.config.artifacts.root), work.result_path(self.shard)
        root.discard(path)  # an earlier try's, of which nothing else is left
        if self.manifest is None:
            self.describe(PodJob.of(self.job), work.config, context)
        result = {"root": root.url, "path": path}
        self.defer(
            trigger=self.trigger(context, work.config.runtime.kubernetes, result), method_name="resume"
        )
        raise AssertionError("defer does not return")

    def pod_job(self, context: Any) -> tuple[PodJob, Config]:
        """Return the job of the pod, and the config that describes it."""
        return PodJob.of(self.job), self.work().config
