"""Promotion and rollback on the results page, in headless Chromium, by users of different roles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.integration.browser import Watched, axe_faults, log_in, open_browser
from tests.integration.web_server import WebServer

pytestmark = pytest.mark.slow

PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with open_browser() as opened:
        yield opened


@contextmanager
def champion_view(web: WebServer, browser: Browser, user: str, theme: str = "light") -> Iterator[Page]:
    """Give the champion's view to a user; nothing may have gone wrong in it at the end."""
    context = log_in(browser, web.url, web.token(user), theme=theme)
    context.set_default_timeout(PATIENCE_MS)
    watched = Watched(context.new_page())
    watched.page.goto(f"{web.url}/plugin/flywheel?view=champion")
    expect(watched.page.get_by_role("table", name="Champions, the latest first")).to_be_visible()
    yield watched.page
    context.close()
    assert not watched.complaints


def promote_button(page: Page) -> Locator:
    return page.get_by_role("button", name="Promote a candidate")


def roll_back_button(page: Page) -> Locator:
    return page.get_by_role("button", name="Roll back")


def in_production(page: Page) -> Locator:
    return page.locator(".champion b").first


def test_who_may_not_promote_is_told_why(web: WebServer, browser: Browser) -> None:
    with champion_view(web, browser, "vera") as page:
        expect(promote_button(page)).to_be_disabled()
        expect(roll_back_button(page)).to_be_disabled()
        expect(promote_button(page)).to_have_accessible_description(
            "You may look at the champions, but not change them: Airflow asks for the right to edit the DAG "
            "and to create asset events."
        )
        expect(page.get_by_text("You may look at the champions")).to_be_visible()


def test_a_candidate_is_promoted_and_the_champion_before_put_back(web: WebServer, browser: Browser) -> None:
    before = web.client("otto").get("/champion").json()
    name = f"{before['student']} @ {before['size']}"
    with champion_view(web, browser, "otto") as page:
        expect(in_production(page)).to_have_text(name)
        promote_button(page).click()
        dialog = page.get_by_role("dialog", name="Promote a candidate")
        confirm = dialog.get_by_role("button", name="Promote")
        expect(confirm).to_be_disabled()
        dialog.get_by_label("Run").select_option("night-1")
        candidate = dialog.get_by_label("Candidate")
        expect(candidate.get_by_role("option")).to_have_count(10)
        candidate.select_option("3b@25")
        expect(dialog).to_contain_text(
            f"3b @ 25 then answers in place of {name}, for news_classifier · desk."
        )
        dialog.get_by_label("Comment").fill("a trial on the desk")
        confirm.click()

        expect(dialog).to_have_count(0)
        expect(
            page.get_by_role("status").filter(has_text="3b @ 25 of run night-1 is in production now")
        ).to_be_visible()
        expect(in_production(page)).to_have_text("3b @ 25")
        latest = page.get_by_role("table", name="Champions, the latest first").get_by_role("row").nth(1)
        expect(latest).to_contain_text("Promoted by otto. a trial on the desk")

        roll_back_button(page).click()
        dialog = page.get_by_role("dialog", name=f"Roll back to {name}?")
        expect(dialog).to_contain_text(f"{name} of run {before['run_id']}")
        expect(dialog).to_contain_text("then answers in place of 3b @ 25")
        dialog.get_by_role("button", name="Roll back").click()
        expect(in_production(page)).to_have_text(name)
        expect(latest).to_contain_text("Rolled back by otto")
    after = web.client("otto").get("/champion").json()
    assert after["adapter"] == before["adapter"]


def test_a_roll_back_is_in_the_timeline_and_its_hold_is_lifted(web: WebServer, browser: Browser) -> None:
    asked = {"run_id": "night-1", "student": "8b", "size": 25}
    otto = web.client("otto")
    otto.post("/champion", json=asked).raise_for_status()
    otto.post("/champion/rollback", json={"comment": "it misses the strikes"}).raise_for_status()
    with champion_view(web, browser, "vera") as page:
        hold = page.get_by_role("region", name="A person's word holds")
        expect(hold).to_contain_text("otto rolled a champion back")
        expect(hold).to_contain_text("it misses the strikes")
        expect(hold.get_by_role("button", name="Lift the hold")).to_be_disabled()
        rows = page.get_by_role("table", name="Decisions, the latest first").get_by_role("row")
        expect(rows.nth(1)).to_contain_text("by otto")
        expect(rows.nth(1)).to_contain_text("rolled back")
        expect(rows.nth(2)).to_contain_text("8b @ 25")
        expect(rows.last).to_contain_text("night-0")
        stretches = page.get_by_role("table", name="Champions in force, the latest first").get_by_role("row")
        expect(stretches.nth(1)).to_contain_text("now")
        expect(stretches.last).to_contain_text("the teacher")
        expect(stretches.last).to_contain_text("No night had decided anything")
    # A person promotes another one: the hold ends, and what was turned down stays so.
    otto.post("/champion", json={**asked, "student": "3b"}).raise_for_status()
    with champion_view(web, browser, "vera") as page:
        word = page.get_by_role("region", name="Turned down by a person")
        expect(word).to_contain_text("it misses the strikes")
        expect(page.get_by_role("region", name="A person's word holds")).to_have_count(0)
        assert axe_faults(page, ".flywheel") == []
    assert otto.post("/champion/rollback", json={"comment": "no"}).is_success
    with champion_view(web, browser, "otto") as page:
        page.get_by_role("button", name="Lift the hold").click()
        dialog = page.get_by_role("dialog", name="Lift the hold?")
        dialog.get_by_role("button", name="Lift the hold").click()
        expect(page.get_by_role("region", name="A person's word holds")).to_have_count(0)
        expect(dialog).to_have_count(0)
    assert otto.get("/champion/hold").json()["hold"] is None


def test_a_dialog_is_used_with_the_keyboard_alone(web: WebServer, browser: Browser) -> None:
    with champion_view(web, browser, "otto") as page:
        expect(promote_button(page)).to_be_enabled()
        promote_button(page).focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Promote a candidate")
        expect(dialog.get_by_label("Run")).to_be_focused()
        for expected in ("Candidate", "Comment"):
            page.keyboard.press("Tab")
            expect(dialog.get_by_label(expected)).to_be_focused()
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        expect(promote_button(page)).to_be_focused()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_dialog_has_no_serious_fault_of_accessibility(web: WebServer, browser: Browser, theme: str) -> None:
    with champion_view(web, browser, "otto", theme) as page:
        promote_button(page).click()
        expect(page.get_by_role("dialog").get_by_label("Run").get_by_role("option").nth(1)).to_be_attached()
        assert axe_faults(page, ".flywheel") == []
