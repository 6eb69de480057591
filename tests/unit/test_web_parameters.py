"""A misspelt filter is refused, not passed over: it would have given everything."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi.testclient import TestClient

from flywheel.web.parameters import only_known_parameters
from flywheel.web.problems import install_handlers


def paging(limit: int = 10) -> int:
    return limit


def client() -> TestClient:
    api = APIRouter(dependencies=[Depends(only_known_parameters)])

    @api.get("/runs/{run}")
    def runs(
        run: str,
        limit: Annotated[int, Depends(paging)],
        score: Annotated[float | None, Query(alias="min_score")] = None,
    ) -> list[object]:
        return [run, limit, score]

    @api.get("/me")
    def me() -> str:
        return "ada"

    app = FastAPI()
    app.include_router(api)
    install_handlers(app)
    return TestClient(app)


def test_a_routes_own_parameters_and_those_of_its_parts_are_taken() -> None:
    assert client().get("/runs/a?limit=3&min_score=0.5").json() == ["a", 3, 0.5]


def test_one_that_no_route_has_is_named_with_those_that_it_has() -> None:
    answer = client().get("/runs/a?minscore=0.5")
    assert answer.status_code == 422
    said = "minscore: this route has no such parameter; it takes limit, min_score"
    assert answer.json()["detail"] == said
    assert client().get("/me?x=1").json()["detail"].endswith("it takes none")


def test_every_route_of_the_api_refuses_them() -> None:
    from flywheel.web.app import create_app

    routes = [route for route in create_app().routes if getattr(route, "path", "").startswith("/api")]
    assert len(routes) > 20
    for route in routes:
        calls = [each.call for each in route.dependant.dependencies]  # type: ignore[attr-defined]
        assert only_known_parameters in calls, route
