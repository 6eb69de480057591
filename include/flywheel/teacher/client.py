"""Asks an OpenAI-compatible chat-completions endpoint, many questions at once, and does not give up easily.

A call is tried again after time-outs, broken connections, malformed answers and the statuses 408, 409, 425,
429 and 5xx, with exponential backoff and full jitter: a random wait between nothing and a bound that doubles
(AWS Architecture Blog, "Exponential Backoff And Jitter"). A server's Retry-After holds back all calls, not
only the one it came with.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import orjson

from flywheel.errors import TeacherError
from flywheel.teacher.endpoint import Endpoint
from flywheel.teacher.transport import Transport

log = logging.getLogger(__name__)

RETRIED_STATUSES = frozenset({408, 409, 425, 429})
# The request is at fault and another may not be: its headline is set aside, the others go on.
REFUSED_STATUSES = frozenset({400, 413, 422})
# In the texts of OpenSSL's errors: a certificate that is not trusted, and a server that does not speak TLS.
TLS_FAULTS = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER")
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 120.0


class CallError(Exception):
    """One call got no answer: refused for its text, or failed in all its attempts. Others may do better."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class _TryAgainError(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Reply:
    """What the teacher answered, the model that it says it is, and the tokens it counted."""

    content: str
    model: str
    usage: dict[str, Any] = field(default_factory=dict)


class TeacherClient:
    """A client of one endpoint; use it as an async context manager.

    Args:
        endpoint: or the error that is raised when there is something to ask, and nobody to ask it of.
        concurrency: connections at once.
        timeout_seconds: of one attempt.
        max_attempts: of one call.
        first_backoff: bound of the first wait, in seconds.
    """

    def __init__(
        self,
        endpoint: Endpoint | TeacherError,
        *,
        concurrency: int = 32,
        timeout_seconds: float = 60.0,
        max_attempts: int = 6,
        first_backoff: float = FIRST_BACKOFF_SECONDS,
    ) -> None:
        self._endpoint = endpoint
        self.retries = 0
        self._concurrency = concurrency
        self._timeout = timeout_seconds
        self._max_attempts = max_attempts
        self._first_backoff = first_backoff
        self._not_before = 0.0  # monotonic seconds, from Retry-After
        self._places = asyncio.Semaphore(concurrency)
        self._headers = httpx.Headers()
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        if isinstance(self._endpoint, TeacherError):
            return self
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "flywheel"}
        if self._endpoint.api_key:
            headers["Authorization"] = f"Bearer {self._endpoint.api_key}"
        self._headers = httpx.Headers(headers)
        self._client = httpx.AsyncClient(
            transport=_transport(self._endpoint, self._concurrency),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # takes none
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def ask(self, body: bytes) -> Reply:
        """Send one chat-completions request and return its answer.

        Args:
            body: the JSON of the request.

        Raises:
            TeacherError: no call can succeed: wrong key, wrong address, unknown model, wrong certificate.
            CallError: this call was refused, or all its attempts failed.
        """
        if isinstance(self._endpoint, TeacherError):
            raise self._endpoint
        for attempt in range(1, self._max_attempts + 1):
            await asyncio.sleep(self._not_before - time.monotonic())
            try:
                return await self._attempt(self._endpoint.url, body)
            except _TryAgainError as error:
                log.debug("attempt %d of %d: %s", attempt, self._max_attempts, error)
                if attempt == self._max_attempts:
                    raise CallError(f"{error} ({attempt} attempts)") from None
                self.retries += 1
                await asyncio.sleep(self._wait(attempt, error.retry_after))
        raise AssertionError  # not reached

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        """Return the seconds until the next attempt, and hold back the other calls as the server asks."""
        bound = min(MAX_BACKOFF_SECONDS, self._first_backoff * 2 ** (attempt - 1))
        jitter = random.uniform(0, bound)
        if retry_after is None:
            return jitter
        wait = min(retry_after, MAX_RETRY_AFTER_SECONDS)
        self._not_before = max(self._not_before, time.monotonic() + wait)
        # The jitter on top spreads the calls that waited together.
        return wait + min(jitter, 1.0)

    async def _attempt(self, url: str, body: bytes) -> Reply:
        assert self._client is not None, "use the client as a context manager"
        try:
            request = httpx.Request("POST", url, headers=self._headers, content=body)
            async with self._places, asyncio.timeout(self._timeout):
                response = await self._client.send(request)
        except TimeoutError:
            raise _TryAgainError(f"no answer within {self._timeout:g} s from {url}") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise TeacherError(f"{url}: {error}") from None
        except httpx.TransportError as error:
            if any(reason in str(error) for reason in TLS_FAULTS):
                raise TeacherError(f"{url}: {error}") from None
            raise _TryAgainError(f"{url}: {str(error) or type(error).__name__}") from None
        except httpx.DecodingError as error:
            raise _TryAgainError(f"{url}: {error}") from None
        data, status, headers = response.content, response.status_code, response.headers
        if status == 200:
            return _reply(data)
        message = f"the teacher at {url} said {status}: {_error_message(data)}"
        if status in RETRIED_STATUSES or status >= 500:
            raise _TryAgainError(message, _retry_after(headers.get("Retry-After"), time.time()))
        if status in REFUSED_STATUSES:
            raise CallError(message, refused=True)
        raise TeacherError(f"{message}; {_advice(status, headers.get('Location'))}")


def _transport(endpoint: Endpoint, connections: int) -> httpx.AsyncBaseTransport:
    """Return our transport, or httpx's own where the environment names a proxy for the address."""
    certificates = httpx.create_ssl_context()
    address = urlsplit(endpoint.url)
    proxies = {} if endpoint.is_local or proxy_bypass(address.hostname or "") else getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if proxy is None:
        return Transport(certificates)
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncHTTPTransport(verify=certificates, proxy=proxy, limits=limits)


def _reply(data: bytes) -> Reply:
    """Read a chat completion.

    Raises:
        _TryAgainError: it is none.
    """
    try:
        completion = orjson.loads(data)
        content = completion["choices"][0]["message"]["content"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        raise _TryAgainError(f"malformed answer: {data[:200].decode('utf-8', 'replace')!r}") from None
    if content is None:  # nothing but reasoning, or stopped by a filter
        content = ""
    if not isinstance(content, str):
        raise _TryAgainError(f"malformed answer: its content is no text but {type(content).__name__}")
    model, usage = completion.get("model"), completion.get("usage")
    return Reply(
        content, model if isinstance(model, str) else "", dict(usage) if isinstance(usage, dict) else {}
    )


def _error_message(data: bytes) -> str:
    """Return the message inside an error body, in the forms that servers use, else its beginning."""
    try:
        found = orjson.loads(data)
        for key in ("error", "message", "detail"):
            if isinstance(found, dict) and found.get(key):
                found = found[key]
        return str(found)[:500]
    except orjson.JSONDecodeError:
        return data[:200].decode("utf-8", "replace").strip() or "(no message)"


def _advice(status: int, location: str | None) -> str:
    if status in (401, 403):
        return "check the key: the connection's password or FLYWHEEL_TEACHER_API_KEY"
    if status == 404:
        return "check the address (it usually ends in /v1) and teacher.model"
    if location:
        return f"it points to {location}: set that as the address"
    return "check the address and the teacher section of the config"


def _retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds of a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3)."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None
