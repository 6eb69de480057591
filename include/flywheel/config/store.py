"""The section `store`: where records and the teacher's answers live."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flywheel.config.section import Section


class ElasticsearchConfig(Section):
    """The store `elasticsearch`: its indexes. Address, user and password are the connection's."""

    connection: str = Field(
        "flywheel_elasticsearch",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
        description="Airflow connection of type elasticsearch, in Airflow or as an AIRFLOW_CONN_ variable.",
    )
    index: str = Field(
        "flywheel",
        max_length=100,
        pattern=r"^[a-z0-9][a-z0-9_.-]*$",
        description="What the names of indexes, aliases and templates begin with.",
    )
    shards: int = Field(1, ge=1, le=1024, description="Primary shards of an index that is made anew.")
    replicas: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Copies of each shard; null: one where there is a second node (0-1)."
    )
    wait_seconds: float = Field(
        300.0, gt=0, description="Longest wait for a server that restarts, or takes no more for now."
    )
    timeout_seconds: float = Field(60.0, gt=0, description="Of one call.")


class StoreConfig(Section):
    """Where records and the teacher's answers live."""

    type: Literal["sqlite", "elasticsearch"] = Field(
        "sqlite", description="sqlite: one file, no server. elasticsearch: a cluster, 8.x or 9.x."
    )
    path: str = Field("state/records.sqlite", description="The file of type sqlite.")
    elasticsearch: ElasticsearchConfig = ElasticsearchConfig()
