"""/api/jobs is the blueprint's orchestrator API: every path, status and field, in its document and its answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from tests.integration.airflow_stack import wait_for
from tests.integration.blueprint import Field, models, operations, schema_of
from tests.integration.web_server import WebServer

pytestmark = pytest.mark.slow

REQUEST = {"workload_id": "news_classifier", "client_id": "desk"}
_CHECKER = Draft202012Validator.FORMAT_CHECKER


@pytest.fixture(scope="module")
def client(web: WebServer) -> httpx.Client:
    return web.client()


@pytest.fixture(scope="module")
def document(web: WebServer, client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"{web.url}/flywheel/openapi.json").json()
    return found


def model_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a model of our document, under our name for it."""
    ours = {"HTTPValidationError": "InvalidRequest", "ValidationError": "Fault"}.get(name, name)
    found: dict[str, Any] = document["components"]["schemas"][ours]
    return found


def plain(schema: dict[str, Any]) -> Any:
    """Return a type as words, without what may be stricter in ours than in the contract."""
    if "anyOf" in schema:
        return {str(plain(part)) for part in schema["anyOf"]}
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[-1]
    if schema.get("type") == "array":
        return [str(plain(schema["items"]))]
    if isinstance(schema.get("additionalProperties"), dict):
        return {"*": plain(schema["additionalProperties"])}
    return schema.get("format") if schema.get("format") == "date-time" else schema["type"]


def expected(field: Field) -> Any:
    names = {"ValidationError": "Fault", "DeploymentStatus": "string", "NIMRunStatus": "string"}
    found = plain(field.schema)
    if isinstance(found, list):
        return [names.get(found[0], found[0])]
    return names.get(found, found) if isinstance(found, str) else found


@pytest.mark.parametrize(("path", "method", "asks", "answers"), operations())
def test_each_path_is_described_with_its_models(
    document: dict[str, Any], path: str, method: str, asks: str | None, answers: dict[int, str]
) -> None:
    operation = document["paths"][path][method]
    if asks:
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        assert body["$ref"].endswith(f"/{asks}")
    good = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert good["$ref"].endswith(f"/{answers[200]}")
    if 422 in answers:
        bad = operation["responses"]["422"]["content"]["application/json"]["schema"]
        assert bad["$ref"].endswith("/InvalidRequest")


@pytest.mark.parametrize(
    ("model", "name", "field"),
    [(model, name, field) for model, fields in models().items() for name, field in fields.items()],
)
def test_each_field_has_the_contracts_type(
    document: dict[str, Any], model: str, name: str, field: Field
) -> None:
    ours = model_of(document, model)
    schema = ours["properties"][name]
    assert plain(schema) == expected(field)
    assert (name in ours.get("required", [])) == field.required
    if field.default is not None:
        assert schema["default"] == json.loads(field.default)
    for bound in ("minimum", "maximum", "exclusiveMaximum"):
        if bound in field.schema:
            assert schema[bound] == field.schema[bound]
    if "enum" in field.schema:
        assert schema["enum"] == field.schema["enum"]


@pytest.mark.parametrize("name", ["DeploymentStatus", "NIMRunStatus"])
def test_each_status_of_the_contract_is_one_of_ours(document: dict[str, Any], name: str) -> None:
    field = {"DeploymentStatus": "deployment_status", "NIMRunStatus": "status"}[name]
    assert (
        model_of(document, "NIMResponse")["properties"][field]["enum"]
        == schema_of(name)["$defs"][name]["enum"]
    )


def check(answer: httpx.Response, model: str, status: int = 200) -> Any:
    """Check an answer against the contract: no field is missing, none is too much."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    Draft202012Validator(schema_of(model), format_checker=_CHECKER).validate(body)
    return body


@pytest.fixture(scope="module")
def job(client: httpx.Client) -> Iterator[str]:
    yield check(client.post("/jobs", json=REQUEST), "JobResponse")["id"]


def test_a_job_that_is_started_is_listed_and_shown(client: httpx.Client, job: str) -> None:
    jobs = check(client.get("/jobs"), "JobsListResponse")["jobs"]
    assert jobs[0]["id"] == job
    shown = check(client.get(f"/jobs/{job}"), "JobDetailResponse")
    assert (shown["status"], shown["workload_id"], shown["client_id"]) == ("queued", *REQUEST.values())


def test_a_job_that_has_ended_shows_each_student_with_its_scores(client: httpx.Client) -> None:
    shown = check(client.get("/jobs/night-2"), "JobDetailResponse")
    assert shown["status"] == "completed"
    assert shown["num_records"] == 60
    assert [nim["model_name"] for nim in shown["nims"]] == [
        f"meta/llama-{name}" for name in ("1b", "3b", "8b")
    ]
    nim = shown["nims"][0]
    assert (nim["status"], nim["deployment_status"]) == ("completed", "completed")
    assert [one["eval_type"] for one in nim["evaluations"]] == ["base-eval", *["customized-eval"] * 3]
    assert [one["scores"]["f1_weighted"] for one in nim["evaluations"]] == [0.08, 0.9, 0.78, 0.29]
    assert [one["scores"]["f1_score"] for one in nim["evaluations"]] == [0.08, 0.9, 0.78, 0.29]
    assert [one["steps_completed"] for one in nim["customizations"]] == [12, 12, 12]
    assert all(one["progress"] == 100 for one in nim["evaluations"] + nim["customizations"])
    assert shown["datasets"][0]["num_records"] == 60


def test_a_running_job_shows_how_far_it_is(client: httpx.Client) -> None:
    shown = check(client.get("/jobs/going"), "JobDetailResponse")
    assert shown["status"] == "running"
    assert shown["finished_at"] is None
    assert {nim["status"] for nim in shown["nims"]} <= {"running-evals", "pending"}


def test_a_failed_job_says_so(client: httpx.Client) -> None:
    shown = check(client.get("/jobs/broken"), "JobDetailResponse")
    assert shown["status"] == "failed"
    assert shown["error"]


def test_a_job_is_cancelled_once_and_then_deleted(client: httpx.Client, job: str) -> None:
    check(client.post(f"/jobs/{job}/cancel"), "JobCancelResponse")
    shown = check(client.get(f"/jobs/{job}"), "JobDetailResponse")
    assert shown["status"] == "cancelled"
    assert "admin" in shown["error"]
    assert "already" in check(client.post(f"/jobs/{job}/cancel"), "JobCancelResponse")["message"]
    check(client.delete(f"/jobs/{job}"), "JobDeleteResponse")
    wait_for(lambda: client.get(f"/jobs/{job}").status_code == 404)


def test_a_job_that_has_ended_is_not_cancelled_and_a_running_one_not_deleted(client: httpx.Client) -> None:
    assert client.post("/jobs/night-2/cancel").status_code == 400
    assert client.delete("/jobs/going").status_code == 400


@pytest.mark.parametrize("path", ["/jobs/nobody", "/jobs/nobody/cancel"])
def test_a_job_that_is_not_there_is_a_404(client: httpx.Client, path: str) -> None:
    answer = client.post(path) if path.endswith("cancel") else client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"workload_id": "w"},
        {"client_id": "c"},
        {"workload_id": 1, "client_id": "c"},
        {**REQUEST, "data_split_config": {"val_ratio": 1.0}},
        {**REQUEST, "data_split_config": {"eval_size": "many"}},
        {**REQUEST, "data_split_config": {"limit": None}},
        {**REQUEST, "data_split_config": []},
    ],
)
def test_what_does_not_validate_is_answered_as_the_contract_says(client: httpx.Client, body: Any) -> None:
    check(client.post("/jobs", json=body), "HTTPValidationError", 422)


def test_a_client_that_takes_problems_gets_one(client: httpx.Client) -> None:
    answer = client.post("/jobs", json={}, headers={"Accept": "application/problem+json"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 422


def test_keys_of_the_split_that_a_job_does_not_send_are_the_configs(
    web: WebServer, client: httpx.Client
) -> None:
    job = client.post("/jobs", json={**REQUEST, "data_split_config": {"eval_size": 30}}).json()["id"]
    run = client.get(f"{web.url}/api/v2/dags/flywheel/dagRuns/{job}").json()
    assert run["conf"]["overrides"]["data_split_config"] == {
        "eval_size": 30,
    }
    client.post(f"/jobs/{job}/cancel")


def test_the_same_key_starts_one_job(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "nightly-2026-03-01"}
    first = client.post("/jobs", json=REQUEST, headers=headers)
    again = client.post("/jobs", json=REQUEST, headers=headers)
    other = client.post("/jobs", json={**REQUEST, "client_id": "other"}, headers=headers)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert other.status_code == 422
    client.post(f"/jobs/{first.json()['id']}/cancel")
