"""How much a client may send, and how often."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from fastapi.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flywheel.web import settings
from flywheel.web.problems import Problem, problem_response

_MOST_CLIENTS = 10_000
RECORDS_PATH = "/api/records"


class Rates:
    """A bucket of tokens for each client: a minute's worth at first, and refilled steadily.

    Each process of the API server counts for itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, per_minute: int) -> float:
        """Take a token; return 0, or the seconds until there is one."""
        now = time.monotonic()
        with self._lock:
            tokens, since = self._buckets.pop(client, (float(per_minute), now))
            tokens = min(float(per_minute), tokens + (now - since) * per_minute / 60)
            allowed = tokens >= 1
            self._buckets[client] = (tokens - 1 if allowed else tokens, now)
            if len(self._buckets) > _MOST_CLIENTS:
                self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) * 60 / per_minute

    def check(self, client: str, per_minute: int) -> None:
        """Take a token.

        Raises:
            Problem: there is none left for now.
        """
        wait = self.take(client, per_minute)
        if wait > 0:
            seconds = max(1, round(wait + 0.5))
            raise Problem(
                429, f"Too many requests; try again in {seconds} s.", headers={"Retry-After": str(seconds)}
            )


class BodyLimit:
    """Refuses a body that is too large: by its stated length at once, else as soon as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = _limit_of(scope)
        stated = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not stated.isdigit():
            await problem_response(Problem(400, "Content-Length is no number."))(scope, receive, send)
            return
        if int(stated[:20]) > limit:
            await problem_response(_too_large(limit))(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > limit:
                    raise HTTPException(413, _too_large(limit).detail)
            return message

        await self.app(scope, counted, send)


def _limit_of(scope: Scope) -> int:
    limits = settings.limits()
    if scope["path"].rstrip("/").endswith(RECORDS_PATH):
        return limits.max_records_mb * 1_000_000
    return limits.max_body_kb * 1000


def _too_large(limit: int) -> Problem:
    return Problem(413, f"The body is larger than the {limit:,} bytes that are taken here.")
