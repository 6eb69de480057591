"""Who may do what: the table of docs/api.md, cell by cell, at a real API server with users of every role.

A route that the table does not have fails, and so does a row without a route.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi.routing import APIRoute

from flywheel.web.app import create_app
from tests.integration.web_server import WebServer

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
ROLES = {"nobody": None, "viewer": "vera", "user": "uma", "op": "otto", "admin": "admin"}
# A request of this machine without a token, where `api.token_required` is false.
HERE = "here"
COLUMNS = (*ROLES, HERE)
# The results page's files come from another application than the API.
PAGE_ROUTES = {"GET /flywheel-results/", "GET /flywheel-results/page.js"}


def table() -> dict[str, dict[str, str]]:
    """Return the table by route and role: `yes` or `no`."""
    lines = PAGE.read_text().split("## Who may do what", 1)[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, _, *body = rows
    assert head == ["route", *COLUMNS], head
    found: dict[str, dict[str, str]] = {}
    for routes, *cells in body:
        for route in re.findall(r"`([A-Z]+ [^`]+)`", routes):
            assert route not in found, f"{route} is there twice"
            found[route] = dict(zip(COLUMNS, cells, strict=True))
    return found


def routes() -> set[str]:
    """Return the routes of the API, as `GET /flywheel/api/jobs`."""
    return {
        f"{method} /flywheel{route.path}"
        for route in create_app().routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }


TABLE = table()


def test_the_table_has_every_route_and_no_other() -> None:
    assert set(TABLE) == routes() | PAGE_ROUTES


@pytest.fixture(scope="module")
def clients(web: WebServer) -> dict[str, httpx.Client]:
    return {role: web.client(user) for role, user in ROLES.items()}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("route", TABLE)
def test_a_cell_is_so(web: WebServer, clients: dict[str, httpx.Client], route: str, role: str) -> None:
    answer = ask(web, clients[role], route)
    cell = TABLE[route][role]
    assert cell in ("yes", "no")
    if cell == "yes":
        # What is asked for is not there, or no sense: past the door nothing is to be changed by this test.
        assert answer.status_code in (200, 404, 409, 415, 422), answer.text[:300]
    elif role == "nobody":
        assert answer.status_code == 401, answer.text[:300]
    else:
        assert answer.status_code == 403, answer.text[:300]
        assert "You have no permission to" in answer.json()["detail"]


def ask(web: WebServer, client: httpx.Client, route: str) -> httpx.Response:
    """Ask for a route what it cannot give, nor do."""
    method, path = route.split(" ", 1)
    path = re.sub(r"\{[^}]+\}", "no-such-run", path)
    given: dict[str, Any] = {"json": {"no": "such key"}} if method == "POST" else {}
    asks_whose = "champion" in path and (method != "POST" or "rollback" in path)
    params = {"workload_id": "nowhere"} if asks_whose else {}
    return client.request(method, web.url + path, params=params, **given)


def test_without_a_token_nothing_is_decided_where_none_is_required(
    web: WebServer, clients: dict[str, httpx.Client]
) -> None:
    file = web.folder / "config.yaml"
    before = file.read_text()
    changed = yaml.safe_load(before)
    changed["api"]["token_required"] = False
    try:
        file.write_text(yaml.safe_dump(changed))
        given = {route: ask(web, clients["nobody"], route) for route in TABLE}
    finally:
        file.write_text(before)
    cells = {route: "no" if answer.status_code == 401 else "yes" for route, answer in given.items()}
    assert cells == {route: row[HERE] for route, row in TABLE.items()}
    assert {answer.status_code for answer in given.values()} <= {200, 401, 404, 409, 415, 422}
