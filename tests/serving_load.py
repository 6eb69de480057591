"""Callers of a chat completions endpoint, as light as Python allows: each sends its next when it has an answer.

    python -m tests.serving_load URL BODIES.jsonl --callers 64 --seconds 10

Prints one line of JSON. HTTP/1.1 with keep-alive, one connection a caller, in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx


@dataclass(frozen=True)
class Call:
    """One answer: which body it was for, when it came and after how many seconds, and what it said."""

    place: int
    at: float
    seconds: float
    status: int
    head: bytes
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """Its headers, their names in small letters."""
        pairs = (line.partition(":") for line in self.head.decode("latin-1").split("\r\n")[1:] if line)
        return {name.lower(): value.strip() for name, _, value in pairs}


_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class _Caller(asyncio.Protocol):
    """One connection: hands on each answer, status line and headers apart from the body; empty: it broke."""

    def __init__(self, answered: Callable[[bytes, bytes], None]) -> None:
        self._answered, self._came = answered, b""

    def data_received(self, data: bytes) -> None:
        self._came += data
        head, _, body = self._came.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is not None and len(body) >= int(length[1]):
            self._came = b""
            self._answered(head, body)

    def connection_lost(self, _: Exception | None) -> None:
        self._answered(b"", b"")


async def call_for(
    url: str,
    bodies: Sequence[bytes],
    callers: int,
    goes_on: Callable[[], bool],
    heard: Callable[[Call], None],
) -> None:
    """Have callers ask until told to stop; a connection that breaks is an answer of status 0."""
    where = urlsplit(url)
    host, port = where.hostname, where.port
    assert host and port
    loop = asyncio.get_running_loop()
    head = f"POST {where.path}/v1/chat/completions HTTP/1.1\r\nhost: {where.netloc}\r\n"
    head += "content-type: application/json\r\ncontent-length: "
    requests = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]

    async def caller(number: int) -> None:
        place, began, is_open = number, 0.0, False
        transport: asyncio.Transport | None = None
        over = loop.create_future()

        def send() -> None:
            nonlocal place, began, is_open
            assert transport is not None
            place, began, is_open = (place + callers) % len(requests), time.perf_counter(), True
            transport.write(requests[place])

        def answered(head: bytes, body: bytes) -> None:
            nonlocal is_open
            if not is_open:  # the connection ends, and nothing was asked
                return
            now, is_open = time.perf_counter(), False
            heard(Call(place, now, now - began, int(head.split(b" ", 2)[1]) if head else 0, head, body))
            if head and not _CLOSE.search(head) and goes_on():
                send()
            else:
                over.set_result(None)

        while goes_on():
            over, began = loop.create_future(), time.perf_counter()
            try:
                made = loop.create_connection(lambda: _Caller(answered), host, port)
                transport, _ = await made
            except OSError:
                now = time.perf_counter()
                heard(Call(place, now, now - began, 0, b"", b""))
                await asyncio.sleep(0.01)
                continue
            send()
            await over
            transport.close()

    await asyncio.gather(*(caller(number) for number in range(callers)))


def is_ready(url: str) -> bool:
    """Whether an endpoint answers with a champion."""
    try:
        return httpx.get(f"{url}/health/ready", timeout=5).status_code == 200
    except httpx.HTTPError:  # it does not listen yet
        return False


def start_endpoint(config: Path, **variables: str) -> tuple[subprocess.Popen[str], str]:
    """Start `flywheel serve` in a process of its own; return it, and the address where it will listen."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from flywheel.cli.main import main; main()", "serve", "--port", "0"],
        env={**os.environ, "FLYWHEEL_CONFIG": str(config), **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().split()[-1].removesuffix("/v1")


@contextmanager
def endpoint_process(config: Path, **variables: str) -> Iterator[str]:
    """Run `flywheel serve` in a process of its own; gives its address. It ends by SIGTERM, and must end well."""
    process, url = start_endpoint(config, **variables)
    try:
        while not is_ready(url):
            assert process.poll() is None
            time.sleep(0.1)
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()


def measure(url: str, bodies: Path, callers: int, seconds: float) -> dict[str, Any]:
    """Return requests a second and seconds an answer, of callers in a process of their own."""
    command = [sys.executable, "-m", "tests.serving_load", url, str(bodies)]
    command += ["--callers", str(callers), "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Call, and print what came."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before those that count")
    arguments = parser.parse_args()
    bodies = arguments.bodies.read_bytes().splitlines()
    begin = time.perf_counter() + arguments.warm_up
    end = begin + arguments.seconds
    calls: list[tuple[float, int]] = []

    cpu = 0.0

    def heard(call: Call) -> None:
        nonlocal cpu
        cpu = cpu or (time.process_time() if call.at >= begin else 0.0)
        if begin <= call.at <= end:
            calls.append((call.seconds, call.status))

    import uvloop

    uvloop.run(call_for(arguments.url, bodies, arguments.callers, lambda: time.perf_counter() < end, heard))
    taken = sorted(seconds for seconds, _ in calls)
    report = {
        "requests_per_second": round(len(calls) / arguments.seconds, 1),
        "p50_ms": round(1000 * taken[len(taken) // 2], 2) if taken else None,
        "p99_ms": round(1000 * taken[min(len(taken) - 1, len(taken) * 99 // 100)], 2) if taken else None,
        "statuses": dict(Counter(status for _, status in calls)),
        # They share the cores with who answers them.
        "callers_cpu_ms": round(1000 * (time.process_time() - cpu) / max(1, len(calls)), 3),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
