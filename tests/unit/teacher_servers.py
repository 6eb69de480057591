"""Real HTTP servers for tests of the teacher's client: the stand-in in a thread, and one that reads a script."""

import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import uvicorn

from flywheel_stand_ins.teacher import StandIn, TeacherBehaviour


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an ASGI application on a free port; gives its address."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(5)


@contextmanager
def stand_in(labels: Mapping[str, str], **behaviour: Any) -> Iterator[tuple[str, StandIn]]:
    """Serve a stand-in teacher; gives its address and itself."""
    teacher = StandIn(labels, TeacherBehaviour(**behaviour))
    with served(teacher.app) as url:
        yield url, teacher


async def body_of(receive: Any) -> bytes:
    """Return the whole body of an ASGI request."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def completion(content: Any) -> bytes:
    return orjson.dumps({"model": "m", "choices": [{"message": {"role": "assistant", "content": content}}]})


class Script:
    """Answers calls from a list of (status, headers, body); the last one repeats.

    A status of 0 closes the connection without an answer, one of -1 never answers.
    """

    def __init__(self, steps: Sequence[tuple[int, dict[str, str], bytes]]) -> None:
        self.steps = list(steps)
        self.calls: list[dict[str, Any]] = []
        self.times: list[float] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = await body_of(receive)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.calls.append(
            {"path": scope["path"], "headers": headers, "body": body, "client": scope["client"]}
        )
        self.times.append(time.monotonic())
        status, answer_headers, data = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if status == -1:
            await receive()  # until the client goes away
            return
        if status == 0:
            raise ConnectionAbortedError  # uvicorn closes the connection
        encoded = [(name.encode(), value.encode()) for name, value in answer_headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": data})
