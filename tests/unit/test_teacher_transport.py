"""Our HTTP transport against servers that say exactly what a test wants, byte by byte."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from flywheel.teacher import transport
from flywheel.teacher.transport import Transport
from tests.certificates import make_authority

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:"))
    return head + await reader.readexactly(length)


def saying(*answers: bytes, close: bool = False) -> tuple[Handler, list[bytes]]:
    """Return a handler that gives one answer after another on a connection, and what it was asked."""
    asked: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            asked.append(await read_request(reader))
            writer.write(answer)
            await writer.drain()
        if not close:
            await reader.read()  # until the client goes
        writer.close()

    return handle, asked


async def exchange(handler: Handler, times: int = 1, tls: ssl.SSLContext | None = None, **named: Any) -> Any:
    """Ask a server of that handler one time after another; return the answers or the first error."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    url = f"{'https' if tls else 'http'}://localhost:{port}/v1?a=b"
    certificates = named.pop("certificates", None) or ssl.create_default_context()
    async with server, httpx.AsyncClient(transport=Transport(certificates)) as client:
        try:
            return [await client.post(url, content=b"body", **named) for _ in range(times)]
        except httpx.TransportError as error:
            return error


def ask(handler: Handler, times: int = 1, **named: Any) -> Any:
    return asyncio.run(asyncio.wait_for(exchange(handler, times, **named), 10))


def test_a_request_is_written_with_its_headers_and_body() -> None:
    handler, asked = saying(OK)
    (answer,) = ask(handler, headers={"X-Key": "v"})
    assert (answer.status_code, answer.text) == (200, "ok")
    assert asked[0].startswith(b"POST /v1?a=b HTTP/1.1\r\n")
    assert b"\r\nX-Key: v\r\n" in asked[0]
    assert asked[0].endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nok",
    ],
)
def test_answers_of_any_form_are_read_however_they_arrive(answer: bytes) -> None:
    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await read_request(reader)
            for place in range(len(answer)):
                writer.write(answer[place : place + 1])
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    assert [found.text for found in ask(slowly, 2)] == ["ok", "ok"]


def test_an_answer_may_end_with_the_connection() -> None:
    handler, asked = saying(b"HTTP/1.0 200 OK\r\n\r\nok", close=True)
    assert [found.text for found in ask(handler, 2)] == ["ok", "ok"]
    assert len(asked) == 2


def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    handler, asked = saying(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
    assert len(ask(handler, 2)) == len(asked) == 2


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "before the end of an answer"),
        (OK[:-1], "before the end of an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2x\r\n\r\nok", "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not an HTTP answer"),
    ],
)
def test_what_is_no_answer_is_an_error(answer: bytes, problem: str) -> None:
    handler, _ = saying(answer, close=True)
    error = ask(handler)
    assert isinstance(error, httpx.RemoteProtocolError)
    assert problem in str(error)


def test_an_answer_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_RESPONSE_BYTES", 10_000)
    handler, _ = saying(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 20_000)
    assert "more than 10000 bytes" in str(ask(handler))


def test_a_header_cannot_smuggle_another_line() -> None:
    handler, asked = saying(OK)
    assert isinstance(ask(handler, headers={"X": "a\r\nY: b"}), httpx.LocalProtocolError)
    assert asked == []


def test_a_cancelled_request_leaves_no_answer_for_the_next() -> None:
    number = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        while True:
            await read_request(reader)
            number += 1
            await asyncio.sleep(0.2 if number == 1 else 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)

    async def run() -> list[str]:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        own = Transport(ssl.create_default_context())
        async with httpx.AsyncClient(transport=own) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.post(url, content=b"x")
            return [(await client.post(url, content=b"x")).text for _ in range(2)]

    assert asyncio.run(run()) == ["2", "3"]


def test_a_server_is_believed_by_its_certificate_only(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*authority.issue("localhost"))
    handler, _ = saying(OK)
    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    (answer,) = ask(handler, tls=tls, certificates=trusting)
    assert answer.text == "ok"
    error = ask(handler, tls=tls)
    assert isinstance(error, httpx.ConnectError)
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    tls.load_cert_chain(*authority.issue("elsewhere.test"))
    assert "CERTIFICATE_VERIFY_FAILED" in str(ask(handler, tls=tls, certificates=trusting))
