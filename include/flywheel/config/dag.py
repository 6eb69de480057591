"""The section `dag`: how Airflow shows and runs an experiment's DAG."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from flywheel.config.section import Section


class DagConfig(Section):
    """How Airflow shows and runs the experiment's DAG. Its id is `flywheel` or `flywheel_NAME`."""

    owner: str = Field("flywheel", min_length=1, max_length=500, description="Of all its tasks.")
    tags: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        (), description="To find it by, beside `flywheel` and `distillation`."
    )
    label_pool: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="Airflow's pool of the task `label`, of one slot: for experiments that share a store of "
        "Elasticsearch and have workers on several machines, so that no headline is asked for twice.",
    )
