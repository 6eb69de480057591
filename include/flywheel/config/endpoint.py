"""What teacher and judge have in common: how an OpenAI-compatible endpoint wants to be asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from flywheel.config.section import Section

# What each request has, unless `request` leaves it out.
DEFAULT_FIELDS = ("temperature", "max_tokens")
# Fields that the makers and readers of requests rely on.
_NOT_IN_REQUEST = {
    "messages": "they are the prompt's",
    "stream": "answers are read whole",
    "n": "one answer is read",
}
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
REQUEST = (
    "Further fields of each request, as the endpoint names them: max_completion_tokens, reasoning_effort, "
    "chat_template_kwargs. null leaves temperature or max_tokens out"
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
        None, pattern=VARIABLE, description="Or the environment variable that holds it."
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


KEY_HEADER = "The header with the key: Authorization has `Bearer` before it, any other the key alone."


def check_headers(headers: tuple[Header, ...], key_header: str) -> None:
    """Check that each header is there once, and none is the key's.

    Raises:
        ValueError: with what was expected.
    """
    names = [header.name.lower() for header in headers]
    if key_header.lower() in _NO_HEADERS:
        raise ValueError(f"another key_header than {key_header}, which each call has by itself")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"headers that differ: {name} is there more than once")
        if name == key_header.lower():
            raise ValueError(f"headers without {name}, which is the key's (key_header)")


def check_request(request: dict[str, Any], taken: Mapping[str, str]) -> dict[str, Any]:
    """Check the fields that a config adds to requests; returns them.

    Args:
        taken: fields that cannot be set so, each with the reason.

    Raises:
        ValueError: with what was expected.
    """
    for name, value in request.items():
        reason = taken.get(name) or _NOT_IN_REQUEST.get(name)
        if reason:
            raise ValueError(f"no field {name!r}, for {reason}")
        if name not in DEFAULT_FIELDS and value is None:
            raise ValueError(f"null for {' or '.join(DEFAULT_FIELDS)} alone: {name!r} is not sent without it")
    return request
