"""Which requests are of this machine, and may do without a token where the configuration says so."""

from typing import Any

import pytest
from fastapi import Request

from flywheel.web.access import is_local


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
def test_a_request_of_this_machine(made: Request) -> None:
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
def test_a_request_from_elsewhere_or_through_another(made: Request) -> None:
    assert not is_local(made)
