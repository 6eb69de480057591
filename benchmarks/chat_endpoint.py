"""An OpenAI-compatible endpoint for load: as light as Python allows, with latency, a capacity, and faults.

    python -m benchmarks.chat_endpoint --port 0 [--capacity 64] [--median-ms 300] [--sigma 0.5] ...

    POST /…/chat/completions   a class that the headline's hash chooses, after the latency; its usage counts a
                               token for 4.3 characters
    GET  /stats                counts, and the CPU seconds that the endpoint took

With a capacity, so many calls are served at once and the others wait their turn in a queue, as in a batching
inference server; with `--refuse` the others get 429 instead. Latencies are log-normal. Faults come by shares:
status 500, status 429, calls that never get an answer, answers that name no class. It speaks HTTP/1.1 with
keep-alive and Content-Length bodies, which is what clients of such endpoints send.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import time
import zlib
from collections import Counter, deque
from typing import cast

import uvloop

CLASSES = (
    b"analyst rating",
    b"price targets",
    b"earnings",
    b"labour issues",
    b"mergers and acquisitions",
    b"dividends",
    b"regulatory",
    b"stock price movement",
    b"credit ratings",
    b"products-services",
    b"product approval",
    b"guidance",
    b"other",
)
_GARBAGE = b"I would rather not say."
_CONTENT_LENGTH = b"content-length:"


def text_of(body: bytes) -> bytes:
    """Return the headline in a request's body, as it is escaped there."""
    start = body.rfind(b"Headline: ")
    return body[start + 10 : body.find(b"\\n", start)]


def label_of(text: bytes) -> bytes:
    """Return the class that a headline gets."""
    return CLASSES[zlib.crc32(text) % len(CLASSES)]


class Endpoint:
    """What all connections share: the slots, the queue, the dice and the counts."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.counts: Counter[str] = Counter()
        self.waiting: deque[tuple[Connection, bytes]] = deque()
        self.busy = 0
        dice = random.Random(options.seed)
        median = options.median_ms / 1000
        # Drawn beforehand: a draw costs as much as the rest of a call.
        self.latencies = [dice.lognormvariate(0, options.sigma) * median for _ in range(1 << 16)]
        self.drawn = 0
        self.dice = random.Random(options.seed + 1)
        self.shares = (options.fail, options.refusals, options.hang, options.garbage)
        self.faulty = any(self.shares)
        # Appended at once, so that a killed endpoint leaves what it did.
        self.log = os.open(options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if options.log else None

    def call(self, connection: Connection, body: bytes) -> None:
        """Take a call: serve it, queue it or refuse it."""
        self.counts["calls"] += 1
        self.note(b"call", body)
        capacity = self.options.capacity
        if capacity and self.busy >= capacity:
            if self.options.refuse:
                self.refuse(connection, b"capacity reached")
                return
            self.waiting.append((connection, body))
            self.counts["longest queue"] = max(self.counts["longest queue"], len(self.waiting))
            return
        self.serve(connection, body)

    def serve(self, connection: Connection, body: bytes) -> None:
        """Answer a call after its latency."""
        if not self.options.median_ms:
            self.answer(connection, body)
            return
        self.busy += 1
        self.drawn = (self.drawn + 1) & 0xFFFF
        self.loop.call_later(self.latencies[self.drawn], self.done, connection, body)

    def done(self, connection: Connection, body: bytes) -> None:
        """Answer a call, and serve the next of the queue."""
        self.busy -= 1
        while self.waiting:
            following, its_body = self.waiting.popleft()
            if following.transport.is_closing():
                self.counts["left the queue"] += 1
                continue
            self.serve(following, its_body)
            break
        self.answer(connection, body)

    def answer(self, connection: Connection, body: bytes) -> None:
        """Send an answer, or a fault."""
        answer = b""
        if self.faulty:
            chance = self.dice.random()
            for kind, share in zip(("failed", "refused", "hung", "garbage"), self.shares, strict=True):
                if 0 <= chance < share:
                    self.counts[kind] += 1
                    self.note(b"fault", body)
                    if kind == "failed":
                        connection.send(b"500 Internal Server Error", b'{"error":{"message":"as asked"}}')
                        return
                    if kind == "refused":
                        self.refuse(connection, b"as asked", counted=True)
                        return
                    if kind == "hung":
                        return
                    answer = _GARBAGE
                chance -= share
        text = text_of(body)
        if not answer:
            answer = b"[[[" + label_of(text) + b"]]]"
            self.counts["answered"] += 1
            self.note(b"answer", body)
        prompt, completion = len(body) * 10 // 43, 6
        connection.send(
            b"200 OK",
            b'{"id":"c","object":"chat.completion","created":1760000000,"model":"load","choices":[{"index":0,'
            b'"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}],"usage":{"prompt_tokens"'
            b':%d,"completion_tokens":%d,"total_tokens":%d}}'
            % (answer, prompt, completion, prompt + completion),
        )

    def refuse(self, connection: Connection, message: bytes, *, counted: bool = False) -> None:
        """Send status 429."""
        if not counted:
            self.counts["refused"] += 1
        wait = self.options.retry_after
        headers = b"Retry-After: %g\r\n" % wait if wait else b""
        connection.send(b"429 Too Many Requests", b'{"error":{"message":"%b"}}' % message, headers)

    def note(self, what: bytes, body: bytes) -> None:
        """Append what became of a call to the log, where there is one."""
        if self.log:
            os.write(self.log, b"%b %b\n" % (what, text_of(body)))

    def stats(self) -> bytes:
        """Return the counts as JSON."""
        used = time.process_time()
        return json.dumps({**self.counts, "busy": self.busy, "cpu_seconds": round(used, 2)}).encode()


class Connection(asyncio.Protocol):
    """One connection; its calls come one after another."""

    __slots__ = ("_buffer", "_endpoint", "transport")

    transport: asyncio.Transport

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are of another class
        self._endpoint.counts["connections"] += 1

    def data_received(self, data: bytes) -> None:
        """Take whole calls out of the bytes that came."""
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            if head.startswith(b"get "):
                self._buffer = self._buffer[end + 4 :]
                self.send(b"200 OK", self._endpoint.stats())
                continue
            at = head.find(_CONTENT_LENGTH)
            if at < 0:
                self.send(b"411 Length Required", b"{}")
                self.transport.close()
                return
            at += len(_CONTENT_LENGTH)
            stop = head.find(b"\r", at)
            whole = end + 4 + int(head[at:] if stop < 0 else head[at:stop])
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            self._endpoint.call(self, body)

    def send(self, status: bytes, body: bytes, headers: bytes = b"") -> None:
        """Send a response, if the client is still there."""
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
                % (status, headers, len(body), body)
            )


async def serve(options: argparse.Namespace) -> None:
    """Serve until a signal ends it; says its address once it answers."""
    endpoint = Endpoint(options)
    server = await endpoint.loop.create_server(
        lambda: Connection(endpoint), "127.0.0.1", options.port, backlog=4096
    )
    port = server.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}/v1", flush=True)
    stop = asyncio.Event()
    endpoint.loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


def main() -> None:
    """Serve as the options say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--capacity", type=int, default=0, help="calls served at once; 0: any number")
    parser.add_argument("--refuse", action="store_true", help="429 beyond the capacity, instead of a queue")
    parser.add_argument("--retry-after", type=float, default=0.0, help="seconds that a 429 asks for; 0: none")
    parser.add_argument("--median-ms", type=float, default=0.0, help="median latency; 0: none")
    parser.add_argument("--sigma", type=float, default=0.5, help="of the logarithm of the latency")
    for share in ("fail", "refusals", "hang", "garbage"):
        parser.add_argument(f"--{share}", type=float, default=0.0, help="share of calls")
    parser.add_argument("--log", help="append each call and answer to this file")
    parser.add_argument("--seed", type=int, default=0)
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
