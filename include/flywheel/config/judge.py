"""Section `llm_judge_config`, as in the blueprint's files: the LLM that rates students' answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from flywheel.config.endpoint import KEY_HEADER, REQUEST, Header, HeaderName, check_headers, check_request
from flywheel.config.nemo import Address
from flywheel.config.section import BlueprintSection


class JudgeConfig(BlueprintSection):
    """The LLM that rates free texts, and tool calls where tool_eval_type says so; absent: none."""

    type: Literal["remote", "local"] = Field(
        "remote",
        validation_alias=AliasChoices("type", "deployment_type"),
        description="remote: at `url`. local: the model `model_name` behind nmp_config.nim_base_url, which "
        "must run there. Also spelled deployment_type.",
    )
    url: Address | None = Field(
        None, description="Of an OpenAI-compatible endpoint: its base, or its chat-completions URL."
    )
    model_name: str | None = Field(
        None,
        min_length=1,
        validation_alias=AliasChoices("model_name", "model_id"),
        description="The model to ask for. Also spelled model_id.",
    )
    api_key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable with the endpoint's key; null: none is sent.",
    )
    key_header: HeaderName = Field("Authorization", description=KEY_HEADER)
    headers: tuple[Header, ...] = ()
    request: dict[str, Any] = Field(
        default_factory=dict, description=f"{REQUEST}; other values of these two are taken as well."
    )
    context_length: int | None = None
    gpus: int | None = None
    pvc_size: str | None = None
    tag: str | None = None
    registry_base: str | None = None
    # flywheel's own
    parallel_requests: int = Field(16, ge=1, description="Ratings asked for at once, at most.")
    timeout_seconds: float = Field(120.0, gt=0, description="Of one call.")
    askings: int = Field(
        3, ge=1, description="How often one rating is asked for before the pair counts as not rated."
    )

    @field_validator("request")
    @classmethod
    def _fields_of_the_request(cls, request: dict[str, Any]) -> dict[str, Any]:
        return check_request(request, {"model": "model_name says it"})

    @model_validator(mode="after")
    def _headers_fit(self) -> JudgeConfig:
        check_headers(self.headers, self.key_header)
        return self

    @model_validator(mode="before")
    @classmethod
    def _both_spellings_may_name_one_model(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("model_id") == data.get("model_name") is not None:
            return {name: value for name, value in data.items() if name != "model_id"}
        return data

    @model_validator(mode="after")
    def _a_judge_can_be_found(self) -> JudgeConfig:
        if self.model_name is None:
            raise ValueError("model_name (or model_id): the model that judges")
        if self.type == "remote" and self.url is None:
            raise ValueError("url, as type is remote: the address of the judge's endpoint")
        return self
