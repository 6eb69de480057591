"""How the API refuses: in the right words, telling nothing; and who asks it."""

from __future__ import annotations

import httpx
import pytest

from tests.integration.web_server import WebServer

JOB = {"workload_id": "news_classifier", "client_id": "desk"}
# Words that would tell how the server is built, or what it keeps.
LEAKS = (
    "Traceback",
    'File "',
    "site-packages",
    "sqlalchemy",
    "sqlite",
    "/models/secret-place",
    "airflow.db",
    "jwt_secret",
    "passwords.json",
)


def refused(web: WebServer, answer: httpx.Response, *statuses: int) -> None:
    """Check that an answer refuses, in the right words, and tells nothing."""
    assert answer.status_code in statuses, f"{answer.status_code} {answer.text[:300]}"
    for word in (*LEAKS, str(web.folder)):
        assert word not in answer.text
    kind = answer.headers["content-type"]
    if answer.status_code == 422 and kind.startswith("application/json"):
        assert set(answer.json()) == {"detail"}
    else:
        assert kind == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
        assert answer.json()["title"]


@pytest.fixture(scope="module")
def nobody(web: WebServer) -> httpx.Client:
    return web.client(None)


@pytest.fixture(scope="module")
def clients(web: WebServer) -> dict[str, httpx.Client]:
    return {name: web.client(name) for name in ("vera", "uma", "otto", "admin")}
