"""An endpoint that is told to end answers what is on its way, and takes nothing new."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.serving_load import start_endpoint
from tests.unit.teacher_servers import body_of, completion, served


class SlowTeacher:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.answer = threading.Event(), threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await body_of(receive)
        self.asked.set()
        await asyncio.to_thread(self.answer.wait, 60)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": completion("late, but here")})


def listens(url: str) -> bool:
    try:
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def endpoint(folder: Path, **sections: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Give an endpoint that listens, and its address."""
    config = folder / "config.yaml"
    student = {"model_name": "flywheel/demo-small", "context_length": 2048, "gpus": 0}
    config.write_text(
        json.dumps({"nims": [student], "artifacts": {"root": str(folder / "artifacts")}, **sections})
    )
    process, url = start_endpoint(config)
    try:
        while not listens(url):
            assert process.poll() is None
            time.sleep(0.05)
        yield process, url
    finally:
        process.kill()


def end(process: subprocess.Popen[str], url: str) -> None:
    """Tell an endpoint to end, and wait until it takes nothing new."""
    process.send_signal(signal.SIGTERM)
    while listens(url):
        assert process.poll() is None
        time.sleep(0.01)


def test_what_is_on_its_way_is_answered_and_nothing_new_is_taken(tmp_path: Path) -> None:
    teacher = SlowTeacher()
    asked = {"model": "teacher", "messages": [{"role": "user", "content": "Acme raises its dividend"}]}
    with (
        served(teacher) as address,
        ThreadPoolExecutor(1) as pool,
        endpoint(tmp_path, teacher={"base_url": f"{address}/v1", "model": "m"}) as (process, url),
    ):
        try:
            call = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=asked, timeout=60)
            while not teacher.asked.wait(1):
                assert not call.done(), call.result().text
            end(process, url)
            with pytest.raises(TimeoutError):  # longer than a server waits that does not wait for its answers
                call.result(1)
            teacher.answer.set()
            response = call.result(60)
            assert response.status_code == 200
            assert response.json()["choices"][0]["message"]["content"] == "late, but here"
            assert process.wait(60) in (0, -signal.SIGTERM)
        finally:
            teacher.answer.set()


def test_a_connection_that_is_kept_open_is_answered_once_more_and_closed_by_that_answer(
    tmp_path: Path,
) -> None:
    """Who asks one request after the other would else find it broken in the moment in which it asks."""
    with endpoint(tmp_path) as (process, url):
        kept = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        kept.connect()
        kept.auto_open = 0  # the first connection, or none
        for told in (False, True):
            kept.request("GET", "/health/live")
            response = kept.getresponse()
            assert json.loads(response.read()) == {"live": True}
            assert response.will_close is told
            if not told:
                end(process, url)
        assert process.wait(60) in (0, -signal.SIGTERM)
