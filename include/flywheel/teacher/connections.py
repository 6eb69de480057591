"""Connections to an endpoint, used again and again: HTTP/1.1 with a call each, HTTP/2 with many on one.

The calls go through httpcore, the engine of httpx, one pool of one connection for each lane. What an
`httpx.AsyncClient` does above it (cookies, redirects, headers merged anew) these calls have no use for, and
with many connections in one pool that pool is searched for each call (encode/httpcore#1035). Calls for a CPU
second, 5 KB requests, 32 connections, on one loaded machine: one `httpx.AsyncClient` 270, one for each
connection 580, httpcore as here 1,600.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from flywheel.teacher.decoding import MAX_BYTES, EncodingError
from flywheel.teacher.endpoint import Endpoint

# Streams on one HTTP/2 connection; servers allow 100 or more (RFC 9113, 6.5.2).
STREAMS = 64
# Between two looks for a pending answer; the endpoint itself waits for it while it is asked.
PENDING_SECONDS = 0.5
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,80}")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A response: status, headers by their lower-case names, body."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Lane:
    """A connection and the calls on it."""

    def __init__(self, pool: httpcore.AsyncConnectionPool) -> None:
        self.pool = pool
        self.calls = 0
        self.is_free = True


class Connections:
    """Sends request bodies to one endpoint.

    Raises:
        ValueError: a proxy of the environment has no usable address.
    """

    def __init__(self, endpoint: Endpoint, certificates: ssl.SSLContext) -> None:
        self._url = httpcore.URL(endpoint.url)
        self._base = endpoint.url.partition("?")[0].removesuffix("/chat/completions")
        self._certificates = certificates
        self._proxy = None if endpoint.is_local else _proxy(endpoint.url)
        self._lanes: list[_Lane] = []
        self._free: list[_Lane] = []  # those with a place
        self._places = 1  # on a lane; more once the endpoint has answered in HTTP/2
        host = self._url.host if self._url.port is None else b"%b:%d" % (self._url.host, self._url.port)
        self._headers = [
            (b"Host", host),
            (b"Content-Type", b"application/json"),
            (b"Accept", b"application/json"),
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", b"flywheel"),
        ]
        own = {name.lower(): (name, value) for name, value in endpoint.own_headers().items()}
        self._headers = [header for header in self._headers if header[0].decode().lower() not in own]
        self._headers += [(name.encode(), value.encode()) for name, value in own.values()]

    async def post(self, body: bytes) -> HttpAnswer:
        """Send a body and read the whole answer.

        One that NVIDIA's endpoints call pending (202 with NVCF-REQID) is fetched when it is there.

        Raises:
            httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError: no answer came.
            httpcore.UnsupportedProtocol: an address of another protocol.
            EncodingError: the answer is longer than any answer is.
        """
        headers = [*self._headers, (b"Content-Length", b"%d" % len(body))]
        answer = await self._send(httpcore.Request("POST", self._url, headers=headers, content=body))
        pending = ""
        while answer.status == 202:
            pending = answer.headers.get("nvcf-reqid", pending)
            if not _REQUEST_ID.fullmatch(pending):
                break
            await asyncio.sleep(PENDING_SECONDS)
            url = f"{self._base}/status/{pending}"
            answer = await self._send(httpcore.Request("GET", url, headers=self._headers))
        return answer

    async def _send(self, request: httpcore.Request) -> HttpAnswer:
        async with self._lane() as lane:
            response = await lane.pool.handle_async_request(request)
            try:
                data = await _read(response)
            finally:
                await response.aclose()
            if response.extensions.get("http_version") == b"HTTP/2":
                self._places = STREAMS
        found: dict[str, str] = {}
        for raw, value in response.headers:
            name, text = raw.decode("ascii").lower(), value.decode("latin-1")
            found[name] = f"{found[name]}, {text}" if name in found else text  # RFC 9110, 5.3
        return HttpAnswer(response.status, found, data)

    @asynccontextmanager
    async def _lane(self) -> AsyncIterator[_Lane]:
        if not self._free:
            lane = _Lane(
                httpcore.AsyncConnectionPool(
                    ssl_context=self._certificates, proxy=self._proxy, max_connections=1, http2=True
                )
            )
            self._lanes.append(lane)
            self._free.append(lane)
        lane = self._free[-1]  # the one used last, so that the others may rest
        lane.calls += 1
        if lane.calls >= self._places:
            self._free.pop()
            lane.is_free = False
        try:
            yield lane
        finally:
            lane.calls -= 1
            if not lane.is_free and lane.calls < self._places:
                self._free.append(lane)
                lane.is_free = True

    async def close(self) -> None:
        """Close all connections."""
        for lane in self._lanes:
            await lane.pool.aclose()


async def _read(response: httpcore.Response) -> bytes:
    """Read an answer as far as one can be long."""
    parts, size = [], 0
    async for part in response.aiter_stream():
        size += len(part)
        if size > MAX_BYTES:
            raise EncodingError(f"an answer of more than {MAX_BYTES // 1024 // 1024} MiB")
        parts.append(part)
    return b"".join(parts)


def certificates() -> ssl.SSLContext:
    """Return the certificates that servers must show; SSL_CERT_FILE and SSL_CERT_DIR name others."""
    return httpx.create_ssl_context()  # made once for all connections: it takes 20 ms


def _proxy(url: str) -> httpcore.Proxy | None:
    """Return the proxy that the environment names for an address (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)."""
    parts = urlsplit(url)
    proxies = getproxies()
    address = proxies.get(parts.scheme) or proxies.get("all")
    if not address or proxy_bypass(parts.hostname or ""):
        return None
    found = httpx.Proxy(address if "://" in address else f"http://{address}")
    auth = found.raw_auth
    return httpcore.Proxy(
        url=httpcore.URL(
            scheme=found.url.raw_scheme,
            host=found.url.raw_host,
            port=found.url.port,
            target=found.url.raw_path,
        ),
        auth=auth,
        headers=found.headers.raw,
    )
