"""Which requests are of this machine, and may do without a token where the configuration says so."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from airflow.configuration import conf
from fastapi import FastAPI, Request

from flywheel.web import local
from flywheel.web.access import LocalUser, is_allowed
from flywheel.web.local import is_local, listens_on_loopback_alone


@pytest.fixture
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server listens on loopback addresses alone."""
    monkeypatch.setattr(local, "listens_on_loopback_alone", lambda port: True)


def request(
    client: str | None = "127.0.0.1", server: str = "127.0.0.1", host: str = "localhost:8080", **headers: str
) -> Request:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/api/jobs",
        "client": (client, 40000) if client else None,
        "server": (server, 8080),
        "headers": [
            (name.replace("_", "-").encode(), value.encode())
            for name, value in {"host": host, **headers}.items()
        ],
    }
    return Request(scope)


@pytest.mark.parametrize(
    "made",
    [
        request(),
        request("127.8.8.8"),
        request("::1", "::1", "[::1]:8080"),
        request(host="127.0.0.1:8080"),
        request(host="localhost"),
        request(origin="http://localhost:8080", sec_fetch_site="same-origin"),
    ],
)
def test_a_request_of_this_machine(on_loopback: None, made: Request) -> None:
    assert is_local(made)


@pytest.mark.parametrize(
    "made",
    [
        request("10.0.0.7"),
        request("192.168.1.2", "192.168.1.1"),
        request(None),
        request(server="10.0.0.1"),
        request(host="evil.test"),  # a name that an attacker has pointed at 127.0.0.1
        request(host="localhost.evil.test"),
        request(host=""),
        request(x_forwarded_for="127.0.0.1"),
        request(forwarded="for=127.0.0.1"),
        request(x_real_ip="127.0.0.1"),
        request(via="1.1 proxy"),
        request(origin="https://evil.test"),
        request(origin="null"),
        request(sec_fetch_site="cross-site"),
        request("127.0.0.1.evil.test"),
    ],
)
def test_a_request_from_elsewhere_or_through_another(on_loopback: None, made: Request) -> None:
    assert not is_local(made)


@contextmanager
def serving(host: str) -> Iterator[str]:
    """Serve whether each request counts as one of this machine; give the address on loopback."""
    app = FastAPI()

    @app.get("/")
    def here(request: Request) -> bool:
        return is_local(request)

    with socket.socket() as listening:
        listening.bind((host, 0))
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.should_exit = True
            thread.join()


def test_a_server_on_all_addresses_is_never_open() -> None:
    """What a proxy on this machine passes on, with its usual settings, is this very request."""
    listens_on_loopback_alone.cache_clear()
    with serving("127.0.0.1") as address:
        assert httpx.get(address, trust_env=False).json() is True
    listens_on_loopback_alone.cache_clear()
    with serving("0.0.0.0") as address:
        assert httpx.get(address, trust_env=False).json() is False
    listens_on_loopback_alone.cache_clear()
    assert not listens_on_loopback_alone(1)  # nothing listens there: nothing is known


def test_a_server_that_is_published_is_never_open(on_loopback: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_local(request())
    monkeypatch.setattr(conf, "get", lambda *_, **__: "https://airflow.example.com/")
    assert not is_local(request())


def test_without_a_token_nothing_is_decided() -> None:
    allowed = {"read": True, "trigger": True, "delete": False, "review": False, "promote": False}
    assert {name: is_allowed(LocalUser(), name) for name in allowed} == allowed  # type: ignore[arg-type]
