"""A night's cost, by the teacher's own count: one figure in report, page, API, command line and MLflow."""

from __future__ import annotations

import re

import httpx
import mlflow
import pytest
from playwright.sync_api import expect

from flywheel.artifacts.root import ArtifactRoot
from flywheel.report.files import read_report
from flywheel.report.parts import CostPart
from tests.integration.airflow_stack import Stack
from tests.integration.browser import log_in, open_browser

pytestmark = pytest.mark.slow

PROMPT, COMPLETION, HOUR = 2.0, 8.0, 0.36
PATIENCE = 30_000
TRACKING = "sqlite:///{}/costs.db"


def teachers_count(stack: Stack) -> dict[str, int]:
    """Return what the teacher's own log has counted."""
    found = httpx.get(f"http://127.0.0.1:{stack.teacher_port}/stats", trust_env=False).json()
    return {name: found.get(name, 0) for name in ("prompt_tokens", "completion_tokens")}


def test_a_nights_cost_is_the_teachers_count_times_its_prices_and_the_jobs_hours(stack: Stack) -> None:
    before = teachers_count(stack)
    overrides = {
        "client_id": "costs",
        "store": {"path": str(stack.folder / "costs.sqlite")},  # no answer is there already
        "mlflow_config": {"tracking_uri": TRACKING.format(stack.folder)},
        "teacher": {"prices": {"prompt": PROMPT, "completion": COMPLETION}},
        "prices": {"cpu_hour": HOUR},
    }
    assert stack.turn("costs", overrides, client_id="costs", students=["small"], sizes=[40]) == "success"
    after = teachers_count(stack)
    asked, given = (after[name] - before[name] for name in ("prompt_tokens", "completion_tokens"))
    assert asked > given > 0
    teacher = (asked * PROMPT + given * COMPLETION) / 1e6

    report = read_report(ArtifactRoot(str(stack.folder / "artifacts")), "costs")
    cost = report.cost
    assert cost is not None
    assert cost.tokens == asked + given
    assert cost.teacher == pytest.approx(teacher, abs=1e-6)
    assert cost.machines == pytest.approx(cost.cpu_hours * HOUR, abs=1e-6)
    assert cost.machines > 0
    total = cost.total

    run = stack.http.get("/flywheel/api/runs/costs").json()
    assert run["report"]["cost"]["total"] == total
    so_far = stack.http.get("/flywheel/api/costs", params={"client_id": "costs"}).json()
    assert (
        so_far["last"]["total"] == so_far["total"]["total"] == so_far["months"][-1]["cost"]["total"] == total
    )
    assert_shown_by_the_page(stack, cost)
    assert report.tracking is not None
    mlflow.set_tracking_uri(TRACKING.format(stack.folder))
    assert mlflow.get_run(report.tracking.run_id).data.metrics["cost"] == pytest.approx(total)
    for command in (["report", "costs"], ["costs", "--client", "costs"]):
        said = stack.flywheel(*command)
        assert said.returncode == 0, said.stderr
        assert " ".join(cost.words.split()) in " ".join(said.stdout.split())


def assert_shown_by_the_page(stack: Stack, cost: CostPart) -> None:
    """Look at the run, its candidates and the champion's costs, at a laptop's width, nothing of them cut off."""
    token = stack.http.headers["Authorization"].removeprefix("Bearer ")
    total = f"{cost.total:.2f} USD"
    with open_browser() as browser:
        context = log_in(browser, stack.api.url, token, width=1440)
        page = context.new_page()
        page.goto(f"{stack.api.url}/plugin/flywheel?run=costs")
        said = page.get_by_role("region", name="Verdict")
        expect(said).to_contain_text(
            f"This run cost {total}: the teacher {cost.teacher:.2f} USD", timeout=PATIENCE
        )
        expect(said).to_contain_text(f"({cost.tokens:,} tokens)")
        page.get_by_role("tab", name="Cost and latency").click()
        expect(page.get_by_role("columnheader", name="A million answers")).to_be_visible(timeout=PATIENCE)
        expect(
            page.get_by_text(re.compile(r"A million answers of the teacher cost [\d,.]+ USD"))
        ).to_be_visible()
        table = page.get_by_role("region", name="All figures of the candidates")
        assert table.evaluate("one => one.scrollWidth <= one.clientWidth")
        page.goto(f"{stack.api.url}/plugin/flywheel?view=champion&of=news_classifier%2Fcosts")
        costs = page.get_by_role("region", name="Costs", exact=True)
        expect(costs.locator("dd").nth(0)).to_have_text(total, timeout=PATIENCE)
        expect(costs.locator("dd").nth(1)).to_have_text(total)
        expect(costs.get_by_role("row").last.get_by_role("cell").last).to_have_text(total)
        context.close()
