"""# A labelled history

Labels texts of an experiment's sources, each by the champion of its time, into Parquet files; see
docs/annotation.md. It is there for each experiment with a section `annotation`: config.yaml's is
`flywheel_annotate`, others are `flywheel_annotate_NAME`. By `annotation.cron` it takes in the last days. By
hand: `flywheel annotate --from 2019-01-01 --to 2020-01-01`.

    plan_shards -> annotate [one for each shard of time] -> write_manifest
"""

from __future__ import annotations

from airflow.sdk import dag

from flywheel.config import Config
from flywheel.orchestration import beside, clock_schedule
from flywheel.orchestration.annotating import (
    annotate_params,
    annotating,
    plan_shards,
    shards,
    write_manifest,
)


def history(name: str, config: Config) -> None:
    """Make the DAG of an experiment's history."""

    @dag(
        dag_id=f"flywheel_annotate_{name}" if name else "flywheel_annotate",
        dag_display_name=f"flywheel annotate {name}".strip(),
        schedule=clock_schedule(config.annotation),
        params=annotate_params(),
        doc_md=__doc__,
        **beside(),
    )
    def flywheel_annotate() -> None:
        """Label a span of texts."""
        shards(config).expand(spec=plan_shards()) >> write_manifest()

    flywheel_annotate()


for name, config in annotating().items():
    history(name, config)
