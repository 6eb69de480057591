"""The section `teacher`: the endpoints that label, how fast they are asked, and what may be spent."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from flywheel.config.endpoint import (
    DEFAULT_FIELDS,
    KEY_HEADER,
    REQUEST,
    VARIABLE,
    Header,
    HeaderName,
    check_headers,
    check_request,
)
from flywheel.config.section import Section


class Gate(Section):
    """The teacher must reach this against the human labels, else the run stops before it spends more."""

    min_f1_weighted: float = Field(0.0, ge=0, le=1, description="0: no gate.")
    min_f1_macro: float = Field(0.0, ge=0, le=1, description="Mean over the classes that occur; 0: no gate.")
    min_records: int = Field(50, ge=1, description="Below so many human labels the gate is not judged.")
    judge: Literal["value", "interval"] = Field(
        "value",
        description="value: the F1 itself must reach the gate. interval: the lower end of its 95 % interval.",
    )


class RateLimits(Section):
    """What an endpoint allows in a minute; calls are spaced out so that it need not refuse any."""

    requests_per_minute: float | None = Field(None, gt=0, description="null: no limit.")
    tokens_per_minute: float | None = Field(
        None, gt=0, description="Of prompt and answer together; null: no limit."
    )


class FurtherEndpoint(Section):
    """Another endpoint with the same model: calls go where there is room, and past one that is down."""

    connection: str | None = Field(None, min_length=1, description="Airflow connection with address and key.")
    base_url: str | None = Field(None, min_length=1, description="Or the address itself.")
    key_variable: str | None = Field(
        None,
        pattern=VARIABLE,
        description="Environment variable with the key for base_url; null: none is sent.",
    )
    key_header: HeaderName = Field("Authorization", description=KEY_HEADER)
    headers: tuple[Header, ...] = ()

    @model_validator(mode="after")
    def _one_address(self) -> FurtherEndpoint:
        if (self.connection is None) == (self.base_url is None):
            raise ValueError("either connection or base_url")
        if self.connection is not None and self.key_variable is not None:
            raise ValueError("key_variable with base_url only: a connection has its own key")
        check_headers(self.headers, self.key_header)
        return self


class Prices(Section):
    """What the teacher costs, for a million tokens."""

    prompt: float = Field(0.0, ge=0, description="Tokens of the prompt.")
    cached_prompt: float | None = Field(
        None, ge=0, description="Tokens found in the endpoint's prefix cache; null: as the others."
    )
    completion: float = Field(0.0, ge=0, description="Tokens of the answer.")
    currency: str = Field("USD", min_length=1, max_length=8, description="For messages and the report.")


class Budget(Section):
    """What labelling may spend in a run; then it stops, with all that was answered kept."""

    calls: int | None = Field(None, ge=0, description="Requests sent, failed ones too; null: any number.")
    tokens: int | None = Field(None, ge=0, description="Of prompts and answers together; null: any number.")
    cost: float | None = Field(None, ge=0, description="In the currency of teacher.prices; null: any sum.")
    when_spent: Literal["stop", "go_on"] = Field(
        "stop",
        description="stop: the run fails, and goes on when it is run again. go_on: the run goes on with the "
        "headlines that are labelled.",
    )


class MonthBudget(Section):
    """What runs into the store and the endpoint may spend in a calendar month, in the zone of `schedule`."""

    calls: int | None = Field(None, ge=0, description="Requests sent, failed ones too; null: any number.")
    tokens: int | None = Field(None, ge=0, description="Of prompts and answers together; null: any number.")
    cost: float | None = Field(None, ge=0, description="In the currency of teacher.prices; null: any sum.")


class ConfirmAbove(Section):
    """A run that will ask more of the teacher than this asks a person first, once for a whole backfill."""

    answers: int | None = Field(None, ge=0, description="Answers to be asked; null: any number.")
    cost: float | None = Field(
        None, ge=0, description="What they cost, in the currency of teacher.prices; null: any sum."
    )

    @property
    def is_set(self) -> bool:
        """Whether anybody is ever asked."""
        return self.answers is not None or self.cost is not None


class TeacherConfig(Section):
    """The OpenAI-compatible endpoint that labels. URL and key come from the connection or environment."""

    model: str = Field("meta/llama-3.3-70b-instruct", min_length=1, description="Sent with each call.")
    connection: str = Field(
        "flywheel_teacher",
        description="Airflow connection with address and key, used where neither FLYWHEEL_TEACHER_BASE_URL "
        "nor base_url names an address.",
    )
    base_url: str | None = Field(
        None,
        description="The address where FLYWHEEL_TEACHER_BASE_URL is not set; the key then comes from "
        "FLYWHEEL_TEACHER_API_KEY alone.",
    )
    key_header: HeaderName = Field("Authorization", description=KEY_HEADER)
    headers: tuple[Header, ...] = ()
    further_endpoints: tuple[FurtherEndpoint, ...] = ()
    concurrency: int = Field(256, ge=1, description="Most calls in flight at once, at each endpoint.")
    adaptive: bool = Field(
        True,
        description="Find out how many calls at once each endpoint carries. false: always `concurrency`.",
    )
    timeout_seconds: float = Field(60.0, gt=0, description="Of one call.")
    max_attempts: int = Field(6, ge=1, description="Tries of one call, with backoff between them.")
    outage_seconds: float = Field(
        120.0,
        gt=0,
        description="The run stops when no endpoint has answered for so long; after 20 s if none ever did.",
    )
    ask_again: int = Field(1, ge=0, description="How often an answer that names no class is asked for anew.")
    temperature: float = Field(0.0, ge=0, description="0: the likeliest answer.")
    max_tokens: int = Field(32, ge=1, description="Longest answer, in tokens.")
    request: dict[str, Any] = Field(
        default_factory=dict,
        description=f"{REQUEST} (docs/teachers.md).",
    )
    logprobs: bool = Field(
        False, description="Ask for logprobs, and keep with each record how probable its answer was."
    )
    rate_limits: RateLimits = RateLimits()
    prices: Prices = Prices()
    budget: Budget = Budget()
    month_budget: MonthBudget = MonthBudget()
    confirm_above: ConfirmAbove = ConfirmAbove()
    gate: Gate = Gate()

    @field_validator("request")
    @classmethod
    def _fields_of_the_request(cls, request: dict[str, Any]) -> dict[str, Any]:
        taken = {"model": "teacher.model says it", "logprobs": "teacher.logprobs says it"}
        for name in DEFAULT_FIELDS:
            if request.get(name) is not None:
                raise ValueError(f"null alone for {name!r}: its value is set with teacher.{name}")
        return check_request(request, taken)

    @model_validator(mode="after")
    def _headers_fit(self) -> TeacherConfig:
        check_headers(self.headers, self.key_header)
        return self

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> TeacherConfig:
        if not (self.prices.prompt or self.prices.completion):
            for name, section in (
                ("budget", self.budget),
                ("month_budget", self.month_budget),
                ("confirm_above", self.confirm_above),
            ):
                if section.cost is not None:
                    raise ValueError(
                        f"teacher.prices, as teacher.{name}.cost is set: what a million tokens cost"
                    )
        return self
