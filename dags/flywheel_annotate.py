"""# A labelled history

Labels texts of the config's sources, each by the champion of its time, into Parquet files; see
docs/annotation.md. It is there where the config has a section `annotation`, and by `annotation.cron` takes in
the last days. By hand: `flywheel annotate --from 2019-01-01 --to 2020-01-01`.

    plan_shards -> annotate [one for each shard of time] -> write_manifest
"""

from __future__ import annotations

from airflow.sdk import dag

from flywheel.orchestration import beside, clock_schedule, read_config
from flywheel.orchestration.annotating import (
    annotate_params,
    annotates,
    plan_shards,
    shards,
    write_manifest,
)

config = read_config()


@dag(
    dag_display_name="flywheel annotate",
    schedule=clock_schedule(config and config.annotation),
    params=annotate_params(),
    doc_md=__doc__,
    **beside(),
)
def flywheel_annotate() -> None:
    """Label a span of texts."""
    shards(config).expand(spec=plan_shards()) >> write_manifest()


if annotates(config):
    flywheel_annotate()
