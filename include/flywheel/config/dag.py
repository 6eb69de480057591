"""The section `dag`: what Airflow shows of an experiment's DAG."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from flywheel.config.section import Section


class DagConfig(Section):
    """How the experiment's DAG is shown in Airflow. Its id is `flywheel`, or `flywheel_NAME` by its file."""

    owner: str = Field("flywheel", min_length=1, max_length=500, description="Of all its tasks.")
    tags: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        (), description="To find it by, beside `flywheel` and `distillation`."
    )
