"""The orchestrator API's own words: the models of /api/jobs, with the names and types that its clients know.

Field by field as the NVIDIA Data Flywheel Blueprint publishes it (its openapi.json). What flywheel has more
to say is said by the other routes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DeploymentStatus = Literal[
    "created", "pending", "running", "cancelled", "cancelling", "failed", "completed", "ready", "unknown"
]
NIMRunStatus = Literal["pending", "deploying-nim", "running-evals", "cancelled", "completed", "failed"]

_EXAMPLE_ID = "api__65f8a1b2c3d4e5f6a7b8c9d0"


class DataSplitConfig(BaseModel):
    """How the records are split, for this job alone.

    A field that is left out is as the configuration says. A job that changes the split does not promote by
    itself.
    """

    model_config = ConfigDict(extra="ignore")

    eval_size: int = Field(20, ge=1, le=10**9, description="Held-out records.")
    val_ratio: float = Field(0.1, ge=0, lt=1, description="Share of the rest that is validation data.")
    min_total_records: int = Field(50, ge=1, le=10**9, description="With fewer the job fails.")
    random_seed: int | None = Field(
        None, ge=0, le=2**32 - 1, description="Of the split and the training; null: the configuration's."
    )
    limit: int = Field(10000, ge=1, le=10**9, description="Use at most so many records.")
    parse_function_arguments: bool = Field(True, description="No effect here: there are no tools.")


class JobRequest(BaseModel):
    """A job to start."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [
                {"workload_id": "news_classifier", "client_id": "desk"},
                {
                    "workload_id": "news_classifier",
                    "client_id": "desk",
                    "data_split_config": {"eval_size": 400, "limit": 25000},
                },
            ]
        },
    )

    workload_id: str = Field(
        pattern=r"^[A-Za-z0-9_.-]{1,128}$",
        description="Whose prompts: the workload_id of the records.",
        examples=["news_classifier"],
    )
    client_id: str = Field(
        min_length=1,
        max_length=128,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Whose data: the client_id of the records.",
        examples=["desk"],
    )
    data_split_config: DataSplitConfig | None = Field(None, description="Changes to the data split.")


class JobResponse(BaseModel):
    """A job that was started."""

    id: str = Field(examples=[_EXAMPLE_ID])
    status: Literal["queued", "running", "completed", "failed"] = Field(examples=["queued"])
    message: str = Field(examples=["The job waits for its first task."])


class Dataset(BaseModel):
    """A dataset of a job."""

    name: str = Field(
        description="Key of the dataset in the artifact root.", examples=["819fc6623327b972d673"]
    )
    num_records: int = Field(ge=0, examples=[1000])
    nmp_uri: str | None = Field(None, description="null: it is in the artifact root.")


class JobListItem(BaseModel):
    """A job, in the list."""

    id: str = Field(examples=[_EXAMPLE_ID])
    workload_id: str = Field(examples=["news_classifier"])
    client_id: str | None = Field(None, examples=["desk"])
    status: str = Field(
        description="queued, running, completed, failed or cancelled.",
        examples=["running", "completed", "failed"],
    )
    started_at: datetime = Field(description="Before it has started: when it was asked for.")
    finished_at: datetime | None = None
    datasets: list[Dataset] = Field(default_factory=list)
    error: str | None = None


class JobsListResponse(BaseModel):
    """All jobs, the latest first."""

    jobs: list[JobListItem]


class LLMJudgeResponse(BaseModel):
    """A judge model; flywheel needs none."""

    model_name: str
    type: str = Field(examples=["remote", "local"])
    deployment_status: DeploymentStatus
    error: str | None = None


Seconds = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Evaluation(BaseModel):
    """An evaluation of a student: untrained (`base-eval`, with examples `icl-eval`) or fine-tuned."""

    eval_type: str = Field(examples=["base-eval", "icl-eval", "customized-eval"])
    scores: dict[str, float] = Field(
        default_factory=dict,
        description="Against the teacher, by metric: f1_score (f1_weighted under the blueprint's name), "
        "f1_weighted, f1_macro, accuracy; of tool calls function_name_accuracy, "
        "function_name_and_args_accuracy; of free texts similarity; training_records of a candidate.",
        examples=[{"f1_score": 0.95, "f1_weighted": 0.95, "f1_macro": 0.93, "training_records": 5000}],
    )
    started_at: datetime
    finished_at: datetime | None = None
    runtime_seconds: Seconds
    progress: Percent
    nmp_uri: str | None = None
    mlflow_uri: str | None = None
    error: str | None = None


class Customization(BaseModel):
    """A fine-tuning of a student."""

    started_at: datetime
    finished_at: datetime | None = None
    runtime_seconds: Seconds
    progress: Percent
    epochs_completed: int = Field(ge=0)
    steps_completed: int = Field(ge=0)
    nmp_uri: str | None = None
    customized_model: str | None = Field(
        None, description="The student and the key of its adapter.", examples=["meta/llama-3.2-1b@ccdb14be98"]
    )
    error: str | None = None


class NIMResponse(BaseModel):
    """A student of a job, with its evaluations and customizations."""

    model_name: str = Field(examples=["meta/llama-3.2-1b-instruct"])
    status: NIMRunStatus
    deployment_status: DeploymentStatus
    runtime_seconds: Seconds
    evaluations: list[Evaluation] = Field(default_factory=list)
    customizations: list[Customization] = Field(default_factory=list)
    error: str | None = None


class JobDetailResponse(BaseModel):
    """A job with all that is known of it now."""

    id: str = Field(examples=[_EXAMPLE_ID])
    workload_id: str
    client_id: str
    status: str = Field(
        description="queued, running, completed, failed or cancelled.",
        examples=["running", "completed", "failed"],
    )
    started_at: datetime
    finished_at: datetime | None = None
    num_records: int = Field(ge=0)
    llm_judge: LLMJudgeResponse | None = None
    nims: list[NIMResponse] = Field(default_factory=list)
    datasets: list[Dataset] = Field(default_factory=list)
    error: str | None = None


class JobCancelResponse(BaseModel):
    """A job that is being stopped."""

    id: str = Field(examples=[_EXAMPLE_ID])
    message: str = Field(examples=["The job is being stopped."])


class JobDeleteResponse(BaseModel):
    """A job that is being removed."""

    id: str = Field(examples=[_EXAMPLE_ID])
    message: str = Field(examples=["The job is being removed."])
