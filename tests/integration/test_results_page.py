"""The results page in headless Chromium, in a real Airflow, on real runs of the demo at tiny sizes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.integration.airflow_stack import Stack, go_on, halted_jobs, wait_for
from tests.integration.browser import Watched, axe_faults, log_in, open_browser

# The first test waits for two runs.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

NAV = "/plugin/flywheel"
PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def runs(stack: Stack) -> list[str]:
    """Give two runs that have ended; the first one has put a champion into production."""
    for run_id, overrides in (("page-1", {}), ("page-2", {"training_config": {"learning_rate": 0.002}})):
        stack.trigger(run_id, overrides)
        assert stack.wait(run_id, 600) == "success", stack.explain(run_id)
    return ["page-1", "page-2"]


@pytest.fixture
def page(stack: Stack, browser: Browser, runs: list[str]) -> Iterator[Page]:
    yield from watched_page(stack, browser)


def watched_page(stack: Stack, browser: Browser, theme: str = "light", width: int = 1400) -> Iterator[Page]:
    """Give a page of a user who is logged in; nothing may have gone wrong in it at the end."""
    context = log_in(browser, stack.api.url, token_of(stack), theme=theme, width=width)
    context.set_default_timeout(PATIENCE_MS)
    watched = Watched(context.new_page())
    yield watched.page
    context.close()
    assert not watched.complaints


def token_of(stack: Stack) -> str:
    return str(stack.http.headers["Authorization"]).removeprefix("Bearer ")


def visit(stack: Stack, page: Page, query: str = "", path: str = NAV) -> None:
    page.goto(f"{stack.api.url}{path}{query}")
    expect(page.locator(".flywheel h1")).to_be_visible()


def query_of(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


def wait_for_query(page: Page, **expected: list[str]) -> None:
    """Wait until the address has these values: Airflow's router writes it some time after a click."""
    page.wait_for_url(lambda url: query_of(url).items() >= expected.items())


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")


# -- the list of runs --------------------------------------------------------------------------------------


def test_the_navigation_leads_to_the_list_of_runs(stack: Stack, page: Page) -> None:
    page.goto(stack.api.url)
    page.get_by_role("link", name="Flywheel").first.click()
    table = page.get_by_role("table", name="Runs, the latest first")
    row = table.get_by_role("row").filter(has_text="page-1")
    expect(row).to_contain_text("success")
    expect(row).to_contain_text("small @")
    expect(row).to_contain_text("2 of 4")


def test_the_champion_is_above_the_list_and_leads_to_its_run(stack: Stack, page: Page) -> None:
    visit(stack, page)
    card = page.locator(".champion")
    expect(card).to_contain_text("small @")
    card.get_by_role("link", name=re.compile("page-")).click()
    expect(page.locator(".flywheel h1")).to_contain_text("page-")


def test_filters_are_in_the_address_and_an_address_can_be_shared(stack: Stack, page: Page) -> None:
    visit(stack, page)
    listed = page.get_by_role("table").get_by_role("link", name="page-1")
    expect(listed).to_be_visible()
    page.get_by_label("State").select_option("failed")
    expect(listed).to_have_count(0)
    page.wait_for_url(lambda url: query_of(url) == {"state": ["failed"]})
    visit(stack, page, "?state=success")
    expect(page.get_by_role("link", name="page-1").first).to_be_visible()
    page.get_by_label("Workload").fill("no such workload")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No run is like that")).to_be_visible()


def test_the_back_button_leads_back_to_the_list(stack: Stack, page: Page) -> None:
    visit(stack, page)
    page.get_by_role("table").get_by_role("link", name="page-2").click()
    expect(page.locator(".flywheel h1")).to_have_text("page-2")
    wait_for_query(page, run=["page-2"])
    page.go_back()
    expect(page.locator(".flywheel h1")).to_have_text("Results")


# -- one run -----------------------------------------------------------------------------------------------


def test_the_table_shows_each_candidate_and_why_one_has_no_result(stack: Stack, page: Page) -> None:
    visit(stack, page, "?run=page-1")
    table = page.get_by_role("table", name="Weighted F1 by student and number of training records")
    small = table.get_by_role("row").filter(has_text="small")
    expect(small.get_by_role("link")).to_have_count(2)
    expect(small.locator(".sub").filter(has_text=" to ")).to_have_count(3)  # 95 % intervals, the base's too
    broken = table.get_by_role("row").filter(has_text="broken")
    broken.get_by_text("failed").nth(1).click()
    expect(broken.get_by_text("no/such/weights").nth(0)).to_be_visible()
    expect(page.get_by_role("region", name="Verdict")).to_contain_text("small @")


def test_the_learning_curve_is_read_with_the_arrow_keys_and_as_a_table(stack: Stack, page: Page) -> None:
    visit(stack, page, "?run=page-1")
    chart = page.get_by_role("application", name=re.compile("F1 by number of training records"))
    chart.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".frame [role=status]").first).to_contain_text("small @ 40: F1")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".frame [role=status]").first).to_contain_text("small @ 120: F1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Classes")).to_have_attribute("aria-selected", "true")
    wait_for_query(page, candidate=["small@120"])
    page.go_back()
    page.get_by_text("As a table").first.click()
    expect(page.get_by_role("region", name=re.compile("as a table"))).to_contain_text("small")


def test_tabs_are_walked_with_the_arrow_keys(stack: Stack, page: Page) -> None:
    visit(stack, page, "?run=page-1")
    page.get_by_role("tab", name="Results").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Cost and latency")).to_be_focused()
    expect(page.get_by_role("tabpanel")).to_contain_text("Quality against cost")
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Logs and files")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Results")).to_be_focused()


def test_quality_is_shown_against_cost_and_latency_with_the_front(stack: Stack, page: Page) -> None:
    visit(stack, page, "?run=page-1")
    open_tab(page, "Cost and latency")
    expect(page.get_by_role("application", name=re.compile("F1 against parameters"))).to_be_visible()
    expect(page.get_by_role("application", name=re.compile("F1 against the latency"))).to_be_visible()
    expect(page.get_by_text("Pareto front, ringed").first).to_contain_text("small @")
    page.get_by_label("Cost", exact=True).select_option("training")
    expect(page.get_by_role("application", name=re.compile("F1 against seconds of training"))).to_be_visible()
    wait_for_query(page, cost=["training"])
    figures = page.get_by_role("table", name="Candidates with their quality, cost and latency")
    expect(figures.get_by_role("row").filter(has_text="small @ 120")).to_contain_text("ms")


def test_a_cell_of_the_confusion_matrix_leads_to_its_headlines(stack: Stack, page: Page) -> None:
    visit(stack, page, "?run=page-1&tab=classes&candidate=small%4040")
    per_class = page.get_by_role("table", name="Precision, recall and F1 of each class")
    expect(per_class.get_by_role("row").nth(10)).to_be_visible()
    cell = page.get_by_role("link", name=re.compile(r"^\d+ of .* taken for ")).first
    expect(cell).to_be_visible()
    number = int(cell.inner_text())
    cell.click()
    expect(page.get_by_role("tab", name="Disagreements")).to_have_attribute("aria-selected", "true")
    expect(page.locator(".readings li")).to_have_count(min(number, 25))


def test_disagreements_are_read_through_and_filtered(stack: Stack, page: Page) -> None:
    visit(stack, page, "?run=page-1&candidate=small%40120")
    open_tab(page, "Disagreements")
    # The list of the other candidate is gone when the answer is there.
    with page.expect_response(re.compile("disagreements.*size=40")):
        page.get_by_label("Candidate").select_option("small@40")
    first = page.locator(".readings li").first
    expect(first.locator(".text")).not_to_be_empty()
    teacher = first.locator(".labels b").first.inner_text()
    page.get_by_label("The teacher says").select_option(teacher)
    wait_for_query(page, teacher=[teacher])
    others = page.locator(".readings li .labels span:not(.other) b").filter(has_not_text=teacher)
    expect(others).to_have_count(0)
    expect(page.locator(".readings li").first).to_be_visible()


def test_loss_curves_and_links_to_logs(stack: Stack, page: Page) -> None:
    visit(stack, page, "?run=page-1")
    open_tab(page, "Training")
    expect(
        page.get_by_role("application", name=re.compile("Training loss by optimizer step"))
    ).to_be_visible()
    jobs = page.get_by_role("table", name="Jobs of the run with their progress and logs")
    expect(jobs.get_by_role("row").filter(has_text="small @ 120").first).to_contain_text("done")
    expect(jobs.get_by_text("no/such/weights").first).to_be_visible()
    page.get_by_role("link", name="Log of training small @ 120").click()
    page.wait_for_url(re.compile(r"/dags/flywheel/runs/page-1/tasks/candidate\.customize/mapped/\d+"))
    expect(page.get_by_text("small @ 120").first).to_be_visible()


def test_files_and_the_report_are_there_to_fetch(stack: Stack, page: Page) -> None:
    visit(stack, page, "?run=page-1")
    open_tab(page, "Logs and files")
    report = page.get_by_role("link", name="The report as a page of its own").get_attribute("href")
    answer = httpx.get(str(report), cookies={"_token": token_of(stack)}, trust_env=False)
    assert answer.status_code == 200
    assert "small @" in answer.text
    expect(page.get_by_text("mlflow ui --backend-store-uri")).to_be_visible()
    expect(page.get_by_role("table", name="Stages of the run with their logs")).to_contain_text("curate")
    files = page.get_by_role("table", name="Files of the run")
    with page.expect_download() as download:
        files.get_by_role("link", name="report.json").click()
    assert '"page-1"' in Path(download.value.path()).read_text()


def test_the_choice_and_how_it_was_approved(stack: Stack, page: Page) -> None:
    visit(stack, page, "?run=page-1&tab=review")
    expect(page.get_by_role("region", name="The choice")).to_contain_text("small @")
    expect(page.get_by_role("region", name="Review")).to_contain_text("approved automatically")


# -- other views -------------------------------------------------------------------------------------------


def test_two_runs_are_put_side_by_side(stack: Stack, page: Page) -> None:
    visit(stack, page)
    for run_id in ("page-1", "page-2"):
        page.get_by_label(f"Mark {run_id} for comparison").check()
    page.get_by_role("button", name="Compare two runs").click()
    table = page.get_by_role("table", name="Score of each candidate in both runs")
    expect(table.get_by_role("row").filter(has_text="small @ 120")).to_contain_text("chance")
    expect(page.get_by_text("same held-out records")).to_be_visible()
    before = ["page-1", "page-2"]
    wait_for_query(page, compare=before)
    page.get_by_role("button", name="Swap").click()
    wait_for_query(page, compare=before[::-1])
    expect(table.get_by_role("columnheader")).to_contain_text(["Candidate", *before[::-1], "Change"])


def test_the_champions_over_the_nights(stack: Stack, page: Page) -> None:
    visit(stack, page)
    page.get_by_role("navigation", name="Results").get_by_role("link", name="Champion").click()
    expect(page.get_by_role("application", name=re.compile("Score of the champion"))).to_be_visible()
    history = page.get_by_role("table", name="Champions, the latest first")
    expect(history).to_contain_text("page-1")


def test_the_page_is_on_the_dags_own_page_and_on_each_run(stack: Stack, page: Page) -> None:
    page.goto(f"{stack.api.url}/dags/flywheel")
    page.locator('a[href$="/dags/flywheel/plugin/flywheel-results"]').click()
    expect(page.get_by_role("table", name="Runs, the latest first")).to_be_visible()
    page.goto(f"{stack.api.url}/dags/flywheel/runs/page-1/plugin/flywheel-run")
    expect(page.locator(".flywheel h1")).to_have_text("page-1")


def test_a_run_that_is_not_there_is_said_so(stack: Stack, browser: Browser, runs: list[str]) -> None:
    context = log_in(browser, stack.api.url, token_of(stack))
    page = context.new_page()
    visit(stack, page, "?run=no-such-run")
    expect(page.get_by_role("alert")).to_have_text("There is no such run.")
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
def test_no_serious_fault_of_accessibility(
    stack: Stack, browser: Browser, runs: list[str], theme: str, width: int
) -> None:
    for page in watched_page(stack, browser, theme, width):
        faults = {}
        views = ["", "?view=champion", "?compare=page-1&compare=page-2"]
        tabs = ("results", "tradeoffs", "classes", "disagreements", "training", "review", "files")
        for query in [*views, *(f"?run=page-1&tab={tab}" for tab in tabs)]:
            visit(stack, page, query)
            page.wait_for_load_state("networkidle")
            found = axe_faults(page, ".flywheel")
            if found:
                faults[query] = found
        assert not faults


# -- while a run goes on -----------------------------------------------------------------------------------


def has_losses(stack: Stack) -> bool:
    """Return whether the training of page-live has told of its first steps, and has not ended."""
    told = stack.folder / "artifacts/runs/page-live/jobs/small@100/customize.progress.json"
    try:
        return 1 < json.loads(told.read_text())["step"] < 400
    except (FileNotFoundError, ValueError):
        return False


def test_a_run_is_followed_live_and_reviewed(stack: Stack, page: Page) -> None:
    # More steps than any other run here, and another client, which has no champion.
    overrides = {"client_id": "live", "training_config": {"min_steps": 400}}
    stack.trigger("page-live", overrides, students=["small"], sizes=[100], client_id="live", approval="human")
    training = wait_for(lambda: halted_jobs(stack.folder, lambda: has_losses(stack)), 180)
    visit(stack, page, "?run=page-live&tab=training")
    expect(page.locator(".title .badge")).to_have_text("running")
    expect(page.get_by_role("progressbar", name="Progress of the run")).to_be_visible()
    row = page.get_by_role("row").filter(has_text="small @ 100").filter(has_text="training")
    expect(row.get_by_role("progressbar")).to_be_visible()
    expect(row).to_contain_text(re.compile(r"\d+ of 400"))
    expect(
        page.get_by_role("application", name=re.compile("Training loss by optimizer step"))
    ).to_be_visible()
    go_on(training)

    expect(page.get_by_text("Promote small @ 100 for news_classifier?")).to_be_visible(timeout=180_000)
    expect(page.locator(".title .badge")).to_have_text("waits for review")
    page.get_by_role("button", name="Review").click()
    page.get_by_label("Comment").fill("Too few records for us.")
    page.get_by_role("button", name="Reject").click()
    expect(page.get_by_role("region", name="Review")).to_contain_text("rejected")
    expect(page.locator("blockquote")).to_have_text("Too few records for us.")
    assert stack.wait("page-live") == "success", stack.explain("page-live")
    expect(page.locator(".title .badge")).to_have_text("success")
    expect(page.get_by_role("region", name="The choice")).to_contain_text("rejected")
