"""The page 'Production': what each night found out, in headless Chromium, light, dark and narrow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from flywheel.artifacts.root import ArtifactRoot
from flywheel.serving.nights import Night, Watched, nights_folder
from tests.integration.browser import Watched as WatchedPage
from tests.integration.browser import axe_faults, log_in, open_browser
from tests.integration.web_server import WebServer

pytestmark = pytest.mark.slow

DAY = 86_400
NIGHTS = 12


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=30_000)
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def with_nights(web: WebServer) -> WebServer:
    """Leave nights of production, the last one with an alarm."""
    api = web.client("vera")
    owner = api.get("/production").json()
    workload, client = owner["workload_id"], owner["client_id"]
    root = ArtifactRoot(str(web.folder / "artifacts"))
    for number in range(NIGHTS):
        value = 0.95 - 0.004 * number if number < NIGHTS - 1 else 0.71
        agreement = Watched(
            value=value, low=value - 0.05, high=min(1, value + 0.04), of=120, level=0.9, alarm=value < 0.8
        )
        at = 1_772_330_400 + number * DAY
        night = Night(
            workload_id=workload,
            client_id=client,
            since=at - DAY,
            at=at,
            champion="large @ 2500",
            adapter="a" * 20,
            requests=4000 + 37 * number,
            by_student=3100,
            by_teacher=900 + 37 * number,
            unsure=900,
            agreement=agreement,
            agreement_since=Watched(value=0.94, low=0.93, high=0.95, of=120 * (number + 1)),
            answered=Watched(value=0.78, low=0.77, high=0.79, of=4000, level=0.55),
            confidence=0.93,
            confidence_eval=0.94,
            classes={"Earnings": 0.4, "Dividends": 0.35, "OTHER": 0.25},
            classes_eval={"Earnings": 0.45, "Dividends": 0.35, "OTHER": 0.2},
            moved=0.05,
            asked=120,
            cost=1.84,
            saved=5.12,
            currency="USD",
            p50=3.2,
            p95=11.0,
            alarms=["large @ 2500: 71.0% agree with the teacher, which is below 90.0%"]
            if value < 0.8
            else [],
        )
        root.write_json(f"{nights_folder(workload, client)}/{at:012}.json", night.model_dump(mode="json"))
    return web


def test_the_api_gives_the_nights_the_latest_first(with_nights: WebServer) -> None:
    found = with_nights.client("vera").get("/production", params={"limit": 5}).json()
    assert found["total"] == NIGHTS
    assert [night["agreement"]["alarm"] for night in found["nights"]] == [True, *[False] * 4]
    assert with_nights.client("vera").get("/production?offset=11").json()["nights"][0]["at"] == (
        1_772_330_400
    )


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_the_page_shows_requests_agreement_latency_cost_and_drift(
    with_nights: WebServer, browser: Browser, theme: str, width: int
) -> None:
    context = log_in(browser, with_nights.url, with_nights.token("vera"), theme=theme)
    watched = WatchedPage(context.new_page())
    page = watched.page
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{with_nights.url}/flywheel-results/")
    page.get_by_role("link", name="Production", exact=True).click()
    expect(page.locator(".flywheel h1")).to_have_text("Production")
    expect(page.get_by_role("alert").first).to_contain_text("below 90.0%")
    facts = page.locator("dl.facts")
    for said in ("4,407", "71.0 %", "66.0 % to 75.0 %", "3.2 ms", "1.84 USD", "5.12 USD"):
        expect(facts).to_contain_text(said)
    rows = page.get_by_role("table", name="Nights of production, the latest first").locator("tbody tr")
    expect(rows).to_have_count(NIGHTS)
    assert axe_faults(page, "body") == []
    # Nothing is wider than the window but what scrolls by itself.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    _picture(page, f"{theme}-{width}")
    context.close()
    assert not watched.complaints


def test_who_may_promote_stops_the_champion_and_resumes_it_and_others_cannot(
    with_nights: WebServer, browser: Browser
) -> None:
    for name in ("vera", "otto"):
        context = log_in(browser, with_nights.url, with_nights.token(name))
        page = WatchedPage(context.new_page()).page
        page.goto(f"{with_nights.url}/flywheel-results/")
        page.get_by_role("link", name="Production", exact=True).click()
        stop = page.get_by_role("button", name="Stop the champion")
        if name == "vera":
            expect(stop).to_be_disabled()
            context.close()
            continue
        stop.click()
        dialog = page.get_by_role("dialog", name="Stop the champion?")
        dialog.get_by_label("Comment").fill("odd answers")
        _picture(page, "stop-asked")
        dialog.get_by_role("button", name="Stop", exact=True).click()
        expect(page.get_by_text("otto stopped the champion")).to_contain_text("odd answers")
        assert axe_faults(page, "body") == []
        _picture(page, "stopped")
        assert with_nights.client("vera").get("/production").json()["stop"]["comment"] == "odd answers"
        page.get_by_role("button", name="Resume").click()
        page.get_by_role("dialog", name="Resume the champion?").get_by_role("button", name="Resume").click()
        expect(stop).to_be_enabled()
        assert with_nights.client("vera").get("/production").json()["stop"] is None
        context.close()


def _picture(page: Page, name: str) -> None:
    if folder := os.environ.get("FLYWHEEL_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"production-{name}.png"), full_page=True)
