"""The section `api` of the configuration: the orchestrator API inside Airflow's API server."""

from __future__ import annotations

from pydantic import Field

from flywheel.config.section import Section


class ApiConfig(Section):
    """The orchestrator API, at /flywheel/api of Airflow's API server."""

    token_required: bool = Field(
        True,
        description="false: while the server listens on loopback addresses alone, requests from this machine "
        "need no token to read, to start and cancel runs and to send records. To decide (promote, roll back, "
        "approve, delete) always takes one.",
    )
    max_body_kb: int = Field(1024, ge=1, description="Largest request body, but for records.")
    max_records_mb: int = Field(1024, ge=1, description="Largest body of POST /api/records.")
    reads_per_minute: int = Field(2400, ge=1, description="GET requests of one user; more get a 429.")
    writes_per_minute: int = Field(240, ge=1, description="Other requests of one user; more get a 429.")
