"""Section `serving`: the endpoint that answers with the champion."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from flywheel.config.clock import ClockSection
from flywheel.config.section import Section


class ServingKey(Section):
    """Who may ask the endpoint: the hash of a key stands here, the key itself nowhere."""

    name: str = Field(min_length=1, max_length=64, description="Whose key it is; kept with each request.")
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="Of the key: `flywheel serve --new-key NAME`."
    )
    connection: str | None = Field(
        None, description="In place of sha256: the Airflow connection whose password is the key."
    )
    models: tuple[str, ...] = Field(
        (), description="Names that it may ask for, with `*` for any characters; none: all."
    )
    per_minute: int | None = Field(None, ge=1, description="Requests a minute; null: any number.")
    at_once: int | None = Field(None, ge=1, description="Requests on their way at once; null: any number.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.sha256 is None) == (self.connection is None):
            raise ValueError("expected sha256 or connection, one of them")
        return self


class CascadeConfig(Section):
    """Unsure answers are the teacher's to give, so that all together agree with it often enough."""

    agreement: float = Field(
        gt=0.5,
        lt=1,
        description="What the student answers by itself agrees with the teacher at least so often, at 95 % "
        "(docs/production.md). The threshold is fixed when a student is promoted.",
    )


class VllmServer(Section):
    """A vLLM that has a student's base weights; adapters are loaded into it by its API."""

    student: str = Field(min_length=1, description="Whose base weights it has: a name of `nims`.")
    url: str = Field(pattern=r"^https?://", description="Its address, without `/v1`.")
    connection: str | None = Field(
        None, description="Airflow connection whose password is its key; null: it asks for none."
    )
    folder: str | None = Field(
        None,
        description="A folder that it and the endpoint share by the same path, where adapters are put for "
        "it; null: it reads them where the endpoint does, on the same machine.",
    )


class WatchConfig(ClockSection):
    """When a night of production is looked at: the audit labelled, drift looked for (docs/production.md)."""

    cron: str | None = Field(
        None,
        description="When the DAG flywheel_watch runs, such as '30 1 * * *': once a day; null: only "
        "`flywheel watch` does.",
    )


class ServingConfig(Section):
    """How `flywheel serve` answers; without keys it listens on this machine alone."""

    port: int = Field(8700, ge=0, le=65535, description="Where it listens; 0: any free port.")
    url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where the DAG asks the endpoint whether it answers with the new champion (task "
        "`serve`); of several replicas a headless Service. null: nobody waits for it.",
    )
    switch_seconds: float = Field(300.0, gt=0, description="How long that task waits.")
    keys: tuple[ServingKey, ...] = Field((), description="Keys that may ask; none: nobody is asked for one.")
    batch_size: int = Field(64, ge=1, description="Requests answered in one pass at most.")
    wait_ms: float = Field(
        2.0, ge=0, le=1000, description="Milliseconds that a request waits for others to share its pass."
    )
    most_waiting: int = Field(
        1024, ge=1, description="Requests in the queue; beyond that they are told to come again (429)."
    )
    engine: Literal["auto", "own", "vllm"] = Field(
        "auto",
        description="What answers for students that have a vLLM: own, vllm, or own for classifications and "
        "vllm for all else (auto).",
    )
    vllm: tuple[VllmServer, ...] = Field((), description="vLLM servers, one for a student.")
    timeout_seconds: float = Field(
        30.0, gt=0, description="Until a body must have come, and until a student must have answered."
    )
    follow_seconds: float = Field(2.0, gt=0, description="Seconds between looks for a new champion.")
    cascade: CascadeConfig | None = Field(
        None,
        description="null: the student answers all. Needs evaluation_config.decoding: labels, and "
        "data_split_config.calibration_ratio.",
    )
    log: Literal["all", "labels_only", "none"] = Field(
        "none",
        description="What is kept of each request before it is answered (docs/production.md). all: texts and "
        "answers, so that the teacher's answers train. labels_only: no text. none: nothing.",
    )
    log_folder: str = Field(
        "state/traffic", description="Where requests are until they are in the store: on a disk that stays."
    )
    audit: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Share of the students' answers, drawn at random, that the teacher is asked at night: "
        "what agreement in production is known by. Needs log: all.",
    )
    watch: WatchConfig = WatchConfig()

    def server_for(self, student: str, *, classifies: bool) -> VllmServer | None:
        """Return the vLLM that answers for a student; None: our own engine does."""
        if self.engine == "own" or (self.engine == "auto" and classifies):
            return None
        return next((server for server in self.vllm if server.student == student), None)
