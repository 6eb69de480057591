"""The teacher as a model of the endpoint: requests are passed on to it, answers come back as it gave them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import orjson

from flywheel.common.errors import TeacherError
from flywheel.config.teacher import TeacherConfig
from flywheel.serving.answered import TEACHER, Completion
from flywheel.serving.openai import ApiError
from flywheel.teacher.endpoint import Endpoint, resolve_endpoint


class Teacher:
    """Passes requests on.

    Args:
        config: section `teacher`; its endpoint and key are looked up at each request, for they may change.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self._config = config
        self._client: httpx.AsyncClient | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """By which it is asked: `teacher`, and its model's own name."""
        return (TEACHER, self._config.model)

    async def close(self) -> None:
        """End its connections."""
        if self._client is not None:
            await self._client.aclose()

    async def complete(self, asked: Completion, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the teacher's whole completion, also where a stream was asked for: it is kept before it is
        sent.

        Args:
            asked: the request; its model's name is replaced by the teacher's.
            headers: passed on with it, such as a trace's.

        Raises:
            ApiError: it has no address, cannot be reached, or gives no completion; what it says itself is
                passed on.
        """
        try:
            endpoint = resolve_endpoint(self._config)
        except TeacherError as error:
            raise ApiError(503, str(error), kind="server_error", code="no_teacher") from None
        self._client = self._client or httpx.AsyncClient(timeout=self._config.timeout_seconds)
        body = asked.model_dump(exclude_unset=True, exclude={"stream", "stream_options"})
        content = orjson.dumps({**body, "model": self._config.model})
        own = {**(headers or {}), **endpoint.own_headers(), "content-type": "application/json"}
        try:
            answer = await self._client.post(endpoint.url, content=content, headers=own)
        except httpx.HTTPError as error:
            said = endpoint.without_secrets(
                f"the teacher cannot be reached: {str(error) or type(error).__name__}"
            )
            raise ApiError(502, said, kind="server_error", code="teacher_unreachable") from None
        if answer.status_code >= 400:
            raise _passed_on(answer, endpoint)
        try:
            completion = answer.json()
            message = completion["choices"][0]["message"]
        except (ValueError, LookupError, TypeError):
            message = None
        if not isinstance(message, dict):
            said = "the teacher's answer is no chat completion"
            raise ApiError(502, said, kind="server_error", code="teacher_unreadable")
        return dict(completion)


def _passed_on(answer: httpx.Response, endpoint: Endpoint) -> ApiError:
    """Return what the teacher says about a request, in its own words and form where it has OpenAI's."""
    text = endpoint.without_secrets(answer.text)
    try:
        error = orjson.loads(text)["error"]
        message, known = str(error["message"]), {key: error.get(key) for key in ("type", "param", "code")}
    except (ValueError, LookupError, TypeError, AttributeError):
        message, known = text[:2000] or f"the teacher says {answer.status_code}", {}
    after = answer.headers.get("retry-after", "")
    return ApiError(
        answer.status_code,
        message,
        kind=str(known.get("type") or "server_error"),
        param=known.get("param"),
        code=known.get("code") or "teacher_refused",
        retry_after=int(after) if after.isdigit() else None,
    )
