"""Requests made from the API's own document, good and bad, by Schemathesis: none is a server error.

A short pass by default, 10,000 cases among the drills (`make drills`), or FLYWHEEL_FUZZ_CASES. The cases are spread evenly over the routes,
half of them as the document allows, half against it, and every other one with the ids of runs that are there.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.integration.web_server import WebServer

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("FLYWHEEL_FUZZ_CASES", "400"))
DRILL_CASES = 10_000
RUNS = ("night-0", "night-1", "night-2", "broken", "going", "waiting", "nobody")
# A run that is there stays there: the other tests look at it.
KEEPS_RUNS = ("DELETE /api/jobs/{job_id}", "POST /api/jobs/{job_id}/cancel")
_QUIET = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@schemathesis.serializer("application/x-ndjson")
def as_lines(context: Any, value: Any) -> bytes:
    """Send records as they are made: text of any kind, or any JSON value as a line."""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def session(web: WebServer) -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    made.headers["Authorization"] = f"Bearer {web.token('admin')}"
    return made


@pytest.fixture(scope="module")
def operations(web: WebServer, session: requests.Session) -> list[Any]:
    document = session.get(f"{web.url}/flywheel/openapi.json", timeout=60).json()
    schema = schemathesis.openapi.from_dict(document)
    return [result.ok() for result in schema.get_all_operations()]


def send(case: Any, web: WebServer, session: requests.Session, run: str | None) -> Any:
    """Send a case; with the id of a run that is there where the route takes one."""
    if run and case.path_parameters and case.operation.label not in KEEPS_RUNS:
        for name in ("run_id", "job_id"):
            if name in case.path_parameters:
                case.path_parameters[name] = run
    case.headers = {
        name: value for name, value in (case.headers or {}).items() if name.lower() != "authorization"
    }
    return case.call(base_url=f"{web.url}/flywheel", session=session, timeout=60)


@pytest.mark.parametrize("count", [CASES, pytest.param(DRILL_CASES, marks=pytest.mark.drill)])
def test_no_request_is_a_server_error(
    count: int,
    web: WebServer,
    session: requests.Session,
    operations: list[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    statuses: Counter[int] = Counter()
    faults: list[str] = []
    each = -(-count // (2 * len(operations)))
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            cases = operation.as_strategy(generation_mode=mode)
            runs = st.one_of(st.none(), st.sampled_from(RUNS))

            @settings(_QUIET, max_examples=each)
            @given(case=cases, run=runs)
            def check(case: Any, run: str | None) -> None:
                answer = send(case, web, session, run)
                statuses[answer.status_code] += 1
                if answer.status_code >= 500 or "Traceback" in answer.text:
                    faults.append(
                        f"{case.method} {answer.request.url} -> {answer.status_code} {answer.text[:200]}"
                    )

            try:
                check()
            except schemathesis.errors.SchemathesisError as error:
                # A route without parameters and body has nothing that could be against its document.
                assert "Unsatisfiable" in type(error).__name__ or "negative" in str(error).lower(), error
            except BaseException as error:
                if "Unsatisfiable" not in type(error).__name__ and "SkipTest" not in type(error).__name__:
                    raise
    with capsys.disabled():
        print(
            f"\n{sum(statuses.values())} cases on {len(operations)} routes: {dict(sorted(statuses.items()))}"
        )
    assert not faults, "\n".join(faults[:10])
    assert sum(statuses.values()) >= count * 0.8
