"""What `flywheel annotate-shard SPEC` does."""

from __future__ import annotations

from typing import Any

from flywheel.annotation.shard import annotate_shard
from flywheel.annotation.spec import ShardResult, ShardSpec
from flywheel.annotation.work import opener
from flywheel.common.collecting import rare_collections
from flywheel.common.freed_memory import keep_freed_memory
from flywheel.jobs.progress import ProgressFile


def annotate(asked: dict[str, Any], progress: ProgressFile) -> ShardResult:
    """Label the shard of a spec.

    Args:
        asked: the spec, as JSON.

    Raises:
        JobError: see `annotate_shard`.
    """
    spec = ShardSpec.model_validate(asked)
    keep_freed_memory()
    with rare_collections():
        return annotate_shard(spec, opener(spec), progress)
