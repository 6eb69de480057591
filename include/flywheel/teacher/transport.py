"""HTTP/1.1 for httpx on asyncio's own transports and the parser llhttp, because a call then costs less.

An `httpx.AsyncClient` takes any transport. Its own goes through httpcore, anyio and h11, and looks through
its whole pool for each request (encode/httpcore#1035): with 32 connections and requests of 5 KB one client
sends 430 requests/s, and a client for each connection 1,500 per second of processor time. This one sends
3,900; aiohttp 5,600. It does what a JSON API needs: requests and answers that fit in memory, kept-alive
connections, TLS. It has no time-outs, since its caller gives the whole call one, and no proxies: httpx's own
transport serves those.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
from httptools import HttpParserError, HttpResponseParser

if TYPE_CHECKING:
    Origin = tuple[bytes, bytes, int | None]

# A longer answer, headers included, is no answer to a chat completion.
MAX_RESPONSE_BYTES = 16 * 1024 * 1024


class Transport(httpx.AsyncBaseTransport):
    """Sends requests, each on a connection that no other uses meanwhile; the last one used is used next.

    Args:
        certificates: whom to trust, for https.
    """

    def __init__(self, certificates: ssl.SSLContext) -> None:
        self._certificates = certificates
        self._idle: dict[Origin, list[_Connection]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read its whole answer.

        Raises:
            httpx.TransportError: no connection, a broken one, or an answer that is not HTTP.
        """
        body = await request.aread()
        url = request.url
        origin = (url.raw_scheme, url.raw_host, url.port)
        idle = self._idle.setdefault(origin, [])
        while idle:
            connection = idle.pop()
            if connection.is_open:
                break
        else:
            connection = await self._connect(url)
        try:
            response = await connection.exchange(_head(request) + body)
        except BaseException:  # cancelled, too: what is left of the answer must not meet the next request
            connection.close()
            raise
        if connection.is_open:
            idle.append(connection)
        return response

    async def aclose(self) -> None:
        """Close the connections that are idle."""
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()

    async def _connect(self, url: httpx.URL) -> _Connection:
        secure = url.scheme == "https"
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection,
                url.host,
                url.port or (443 if secure else 80),
                ssl=self._certificates if secure else None,
                happy_eyeballs_delay=0.25,  # RFC 8305
            )
        except OSError as error:  # of name, network and TLS alike
            raise httpx.ConnectError(f"cannot connect: {error}") from error
        return connection


def _head(request: httpx.Request) -> bytes:
    """Return the request line and the headers."""
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw]
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1:
        raise httpx.LocalProtocolError("a header holds a line end")
    return head + b"\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One connection with at most one exchange at a time, and the parser's callbacks."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[httpx.Response] | None = None
        self._parser: HttpResponseParser = HttpResponseParser(self)
        self._received = 0
        self._start()

    def _start(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._headers_complete = False

    async def exchange(self, data: bytes) -> httpx.Response:
        """Send a request and wait for its answer."""
        assert self._transport is not None
        self._received = 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return await self._answer

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # an answer to no request
            return
        self._received += len(data)
        if self._received > MAX_RESPONSE_BYTES:
            self._fail(httpx.RemoteProtocolError, f"an answer of more than {MAX_RESPONSE_BYTES} bytes")
            return
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._fail(httpx.RemoteProtocolError, f"not an HTTP answer: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        names = {name.lower() for name, _ in self._headers}
        if error is None and self._headers_complete and not names & {b"content-length", b"transfer-encoding"}:
            self._complete()  # an answer whose end is the connection's end
            return
        what = "before the end of an answer" if self._received else "without an answer"
        self._fail(httpx.RemoteProtocolError, f"the server closed the connection {what}")

    # -- the parser ------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._headers_complete = True

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # such as 103 Early Hints: the answer is still to come
            self._start()
            return
        self.is_open = self.is_open and self._parser.should_keep_alive()
        self._complete()
        if not self.is_open:
            self.close()

    def _complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            stream = httpx.ByteStream(b"".join(self._body))
            response = httpx.Response(self._parser.get_status_code(), headers=self._headers, stream=stream)
            self._answer.set_result(response)
        self._start()

    def _fail(self, kind: Callable[[str], httpx.TransportError], message: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(kind(message))
        self.close()
