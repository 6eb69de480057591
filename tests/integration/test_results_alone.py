"""The results page at an address of its own, without Airflow's UI around it, in headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.integration.browser import Watched, axe_faults, log_in, open_browser
from tests.integration.web_server import WebServer

pytestmark = pytest.mark.slow

PATIENCE_MS = 30_000
ALONE = "/flywheel-results/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_works_without_airflows_ui(web: WebServer, browser: Browser, theme: str) -> None:
    context = log_in(browser, web.url, web.token("vera"), theme=theme)
    context.set_default_timeout(PATIENCE_MS)
    watched = Watched(context.new_page())
    page = watched.page
    page.goto(f"{web.url}{ALONE}")
    expect(page.locator("html")).to_have_class("dark" if theme == "dark" else "")
    table = page.get_by_role("table", name="Runs, the latest first")
    link = table.get_by_role("link", name="night-2", exact=True)
    expect(link).to_be_visible()
    assert axe_faults(page, "body") == []
    # What a click in a new tab would open.
    assert link.evaluate("link => link.href") == f"{web.url}{ALONE}?run=night-2"

    link.click()
    expect(page.locator(".flywheel h1")).to_have_text("night-2")
    page.get_by_role("tab", name="Cost and latency").click()
    expect(page.get_by_role("application", name=re.compile("F1 against the latency"))).to_be_visible()
    expect(page).to_have_url(f"{web.url}{ALONE}?run=night-2&tab=tradeoffs")
    assert axe_faults(page, "body") == []
    page.reload()
    expect(page.get_by_role("tab", name="Cost and latency")).to_have_attribute("aria-selected", "true")
    page.go_back()
    expect(page.locator(".flywheel h1")).to_have_text("Results")
    assert (
        page.get_by_role("link", name="Airflow").evaluate("link => link.href") == f"{web.url}/dags/flywheel"
    )
    context.close()
    assert not watched.complaints


def test_who_is_not_logged_in_is_led_to_the_login(web: WebServer, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"{web.url}{ALONE}?view=champion")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Your session has ended: log in again.")
    address = str(alert.get_by_role("link", name="Log in").evaluate("link => link.href"))
    assert address.startswith(f"{web.url}/api/v2/auth/login?next=")
    assert httpx.get(address, trust_env=False).status_code == 307
    page.close()


def test_airflows_frame_leads_to_the_page_and_back(web: WebServer, browser: Browser) -> None:
    context = log_in(browser, web.url, web.token("vera"))
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(f"{web.url}/plugin/flywheel?run=night-1&tab=classes")
    page.get_by_role("link", name="Without Airflow's frame").click()
    expect(page).to_have_url(f"{web.url}{ALONE}?run=night-1&tab=classes")
    expect(page.locator(".flywheel h1")).to_have_text("night-1")
    page.get_by_role("link", name="Airflow").click()
    page.wait_for_url(re.compile(r"/dags/flywheel"))
    context.close()


def test_a_file_is_kept_by_browsers_only_under_the_address_that_names_its_content(web: WebServer) -> None:
    document = httpx.get(f"{web.url}{ALONE}", trust_env=False)
    assert document.headers["cache-control"] == "no-cache"
    (address,) = re.findall(r'src="(flywheel-results/page\.js\?v=[0-9a-f]{8})"', document.text)
    named = httpx.get(f"{web.url}/{address}", trust_env=False)
    assert named.headers["cache-control"] == "public, max-age=31536000, immutable"
    other = httpx.get(f"{web.url}/{address[:-8]}00000000", trust_env=False)
    assert "cache-control" not in other.headers


def test_a_run_shows_what_was_tested_and_how_sure_it_is(web: WebServer, browser: Browser) -> None:
    context = log_in(browser, web.url, web.token("vera"), theme="light")
    context.set_default_timeout(PATIENCE_MS)
    watched = Watched(context.new_page())
    page = watched.page
    page.goto(f"{web.url}{ALONE}?run=night-2")
    expect(page.get_by_role("heading", name="What was tested")).to_be_visible()
    expect(page.get_by_text(re.compile("^9 candidates were tested, from the largest size"))).to_be_visible()
    rows = page.get_by_role("table", name=re.compile("the bound of its score")).get_by_role("row")
    expect(rows).to_have_count(1 + 9)
    expect(rows.nth(1)).to_contain_text("8b @ 25")
    expect(rows.nth(1)).to_contain_text("1.2 %")
    expect(rows.nth(1)).to_contain_text("yes")
    assert axe_faults(page, "body") == []
    page.get_by_role("tab", name="Review").click()
    expect(page.get_by_text(re.compile("^9 candidates were tested, from the largest size"))).to_be_visible()
    context.close()
    assert not watched.complaints
