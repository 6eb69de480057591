"""The task of the DAG `flywheel_prune`."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import task

from flywheel.config.everywhere import configs


@task(max_active_tis_per_dag=1, execution_timeout=timedelta(hours=6))
def prune() -> list[str]:
    """Remove what no run, champion or hold needs, by `retention` of config.yaml and of each experiment that
    keeps its data elsewhere."""
    from flywheel.forgetting.prune import prune as remove

    return [remove(config, remove=True).summary() for config in configs(leave_out_wrong=True)]
