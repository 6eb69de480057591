"""All shards of an annotation in this process, where commands and the DAG give each one of its own."""

from __future__ import annotations

from collections.abc import Callable

from flywheel.annotation.shard import TextLabeller, annotate_shard
from flywheel.annotation.spec import ShardSpec
from flywheel.annotation.stretches import Stretch
from flywheel.annotation.work import Work, opener, unfinished
from flywheel.artifacts.root import ArtifactRoot


def run_here(work: Work, opened: Callable[[Stretch], TextLabeller] | None = None) -> None:
    """Do all shards, one after another; those that are finished are found."""
    root = ArtifactRoot(work.config.artifacts.root)
    for shard in unfinished(work):
        spec = ShardSpec.model_validate(root.read_json(work.spec_path(shard)))
        result = annotate_shard(spec, opened or opener(spec))
        root.write_json(work.result_path(shard), {"result": result.model_dump(mode="json")})
