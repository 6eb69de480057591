"""The teacher as a model of the endpoint: requests are passed on to it, answers come back as it gave them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import orjson
from starlette.responses import Response, StreamingResponse

from flywheel.config.teacher import TeacherConfig
from flywheel.errors import TeacherError
from flywheel.serving.openai import ApiError, Completion
from flywheel.teacher.endpoint import resolve_endpoint

NAME = "teacher"


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
        return (NAME, self._config.model)

    async def close(self) -> None:
        """End its connections."""
        if self._client is not None:
            await self._client.aclose()

    async def complete(self, asked: Completion) -> Response:
        """Return the teacher's answer to a request, as it comes.

        Raises:
            ApiError: it has no address, or cannot be reached; what it says itself is passed on.
        """
        try:
            endpoint = resolve_endpoint(self._config)
        except TeacherError as error:
            raise ApiError(503, str(error), kind="server_error", code="no_teacher") from None
        self._client = self._client or httpx.AsyncClient(timeout=self._config.timeout_seconds)
        body = {**asked.model_dump(exclude_unset=True), "model": self._config.model}
        headers = {**endpoint.own_headers(), "content-type": "application/json"}
        content = orjson.dumps(body)
        request = self._client.build_request("POST", endpoint.url, content=content, headers=headers)
        try:
            answer = await self._client.send(request, stream=True)
            if answer.status_code >= 400 or not asked.stream:
                data = await answer.aread()
                await answer.aclose()
                if answer.status_code >= 400:
                    data = endpoint.without_secrets(data.decode("utf-8", "replace")).encode()
                kind = answer.headers.get("content-type", "application/json")
                return Response(data, answer.status_code, media_type=kind)
        except httpx.HTTPError as error:
            said = endpoint.without_secrets(f"the teacher cannot be reached: {error or type(error).__name__}")
            raise ApiError(502, said, kind="server_error", code="teacher_unreachable") from None

        async def passed_on() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_raw():
                    yield chunk
            finally:
                await answer.aclose()

        kind = answer.headers.get("content-type")
        return StreamingResponse(passed_on(), answer.status_code, media_type=kind)
