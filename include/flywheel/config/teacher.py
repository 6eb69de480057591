"""The section `teacher`: the endpoints that label, how fast they are asked, and what may be spent."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from flywheel.config.section import Section

# Fields of a request that have a key of their own, or that the reader of answers relies on.
_NOT_IN_REQUEST = {
    "model": "teacher.model says it",
    "messages": "they are the workload's",
    "logprobs": "teacher.logprobs says it",
    "stream": "answers are read whole",
    "n": "one answer is read",
}
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
# What each request has, unless teacher.request leaves it out.
DEFAULT_FIELDS = ("temperature", "max_tokens")


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


# A header's name: a token of RFC 9110, 5.6.2.
HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,80}$")]
# These say how a call is sent, which is not for a config to say.
_NO_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host"}
    | {"keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_SECRET = re.compile(r"auth|cookie|credential|key|passw|secret|signature|token", re.IGNORECASE)


class Header(Section):
    """A header of each call. A secret one comes from a variable or the connection, never from the file."""

    name: HeaderName = Field(description="Such as OpenAI-Organization.")
    value: str | None = Field(None, min_length=1, description="What it says, where that is no secret.")
    variable: str | None = Field(
        None, pattern=_VARIABLE, description="Or the environment variable that holds it."
    )
    extra: str | None = Field(
        None,
        min_length=1,
        description="Or the field of the connection's extra that holds it; for an address that comes from "
        "the connection.",
    )

    @model_validator(mode="after")
    def _one_value(self) -> Header:
        if [self.value, self.variable, self.extra].count(None) != 2:
            raise ValueError(f"one of value, variable and extra for {self.name}")
        if self.name.lower() in _NO_HEADERS:
            raise ValueError(f"another name than {self.name}, which each call has by itself")
        if self.value is not None and _SECRET.search(self.name):
            raise ValueError(f"variable or extra for {self.name}: a secret has no place in this file")
        if self.value is not None and not (self.value.isascii() and self.value.isprintable()):
            raise ValueError(f"a value of printable ASCII characters for {self.name}")
        return self


_KEY_HEADER = "The header with the key: Authorization has `Bearer` before it, any other the key alone."


def _check_headers(headers: tuple[Header, ...], key_header: str) -> None:
    names = [header.name.lower() for header in headers]
    if key_header.lower() in _NO_HEADERS:
        raise ValueError(f"another key_header than {key_header}, which each call has by itself")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"headers that differ: {name} is there more than once")
        if name == key_header.lower():
            raise ValueError(f"headers without {name}, which is the key's (key_header)")


class FurtherEndpoint(Section):
    """Another endpoint with the same model: calls go where there is room, and past one that is down."""

    connection: str | None = Field(None, min_length=1, description="Airflow connection with address and key.")
    base_url: str | None = Field(None, min_length=1, description="Or the address itself.")
    key_variable: str | None = Field(
        None,
        pattern=_VARIABLE,
        description="Environment variable with the key for base_url; null: none is sent.",
    )
    key_header: HeaderName = Field("Authorization", description=_KEY_HEADER)
    headers: tuple[Header, ...] = ()

    @model_validator(mode="after")
    def _one_address(self) -> FurtherEndpoint:
        if (self.connection is None) == (self.base_url is None):
            raise ValueError("either connection or base_url")
        if self.connection is not None and self.key_variable is not None:
            raise ValueError("key_variable with base_url only: a connection has its own key")
        _check_headers(self.headers, self.key_header)
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
    key_header: HeaderName = Field("Authorization", description=_KEY_HEADER)
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
        description="Further fields of each request, as the endpoint names them: max_completion_tokens, "
        "reasoning_effort, chat_template_kwargs. null leaves temperature or max_tokens out "
        "(docs/teachers.md).",
    )
    logprobs: bool = Field(
        False, description="Ask for logprobs, and keep with each record how probable its answer was."
    )
    rate_limits: RateLimits = RateLimits()
    prices: Prices = Prices()
    budget: Budget = Budget()
    confirm_above: ConfirmAbove = ConfirmAbove()
    gate: Gate = Gate()

    @field_validator("request")
    @classmethod
    def _fields_of_the_request(cls, request: dict[str, Any]) -> dict[str, Any]:
        for name, value in request.items():
            if name in _NOT_IN_REQUEST:
                raise ValueError(f"no field {name!r}, for {_NOT_IN_REQUEST[name]}")
            if name in DEFAULT_FIELDS and value is not None:
                raise ValueError(f"null alone for {name!r}: its value is set with teacher.{name}")
            if name not in DEFAULT_FIELDS and value is None:
                raise ValueError(
                    f"null for {' or '.join(DEFAULT_FIELDS)} alone: {name!r} is not sent without it"
                )
        return request

    @model_validator(mode="after")
    def _headers_fit(self) -> TeacherConfig:
        _check_headers(self.headers, self.key_header)
        return self

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> TeacherConfig:
        if not (self.prices.prompt or self.prices.completion):
            for name, section in (("budget", self.budget), ("confirm_above", self.confirm_above)):
                if section.cost is not None:
                    raise ValueError(
                        f"teacher.prices, as teacher.{name}.cost is set: what a million tokens cost"
                    )
        return self
