"""What browsers may do with our answers: headers on all of them, and pages that work under their policy."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.integration.browser import Watched, log_in, open_browser
from tests.integration.web_server import WebServer

pytestmark = pytest.mark.slow

RUN = "/flywheel/api/runs/night-2"
ANSWERS = {
    "/flywheel-results/": 200,
    "/flywheel-results/page.js": 200,
    "/flywheel-results/icon.svg": 200,
    "/flywheel-results/nothing": 404,
    "/flywheel/docs": 200,
    "/flywheel/openapi.json": 200,
    "/flywheel/api/runs": 200,
    RUN: 200,
    f"{RUN}/artifacts/report.html": 200,
    f"{RUN}/artifacts/report.json": 200,
    f"{RUN}/artifacts/adapters/1b@25.tar": 200,
    f"{RUN}/artifacts/nothing": 404,
    "/flywheel/api/runs/nobody": 404,
    "/flywheel/api/nothing": 404,
    "/flywheel/api/runs?limit=-1": 422,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=30_000)
    with open_browser() as opened:
        yield opened


def check(answer: httpx.Response) -> dict[str, str]:
    """Check an answer's headers; return its policy by directive."""
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] in ("same-origin", "no-referrer")
    (text,) = answer.headers.get_list("content-security-policy")
    policy = dict(part.strip().partition(" ")[::2] for part in text.split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'self'"
    assert "base-uri" in policy and policy["form-action"] == "'none'"
    assert "unsafe-eval" not in text
    # An attribute of a report says how long a bar is; no script and no sheet is let in by that.
    assert not [name for name, value in policy.items() if "unsafe" in value and name != "style-src-attr"]
    return policy


@pytest.mark.parametrize(("path", "status"), ANSWERS.items())
def test_all_answers_say_what_browsers_may_do_with_them(web: WebServer, path: str, status: int) -> None:
    given = web.client("vera").get(web.url + path)
    assert given.status_code == status, given.text[:300]
    policy = check(given)
    if path.endswith("report.html"):
        assert "sandbox" in policy and "script-src" not in policy
    else:
        assert "style-src-attr" not in policy


@pytest.mark.parametrize("path", ["/flywheel/api/runs", "/flywheel/docs", f"{RUN}/artifacts/report.html"])
def test_a_refusal_says_it_too(web: WebServer, path: str) -> None:
    refused = httpx.get(web.url + path, trust_env=False)
    assert refused.status_code == 401
    check(refused)


def test_no_script_but_the_pages_own_runs(web: WebServer, browser: Browser) -> None:
    context = log_in(browser, web.url, web.token("vera"))
    page = context.new_page()
    page.goto(f"{web.url}/flywheel-results/")
    expect(page.locator(".flywheel h1")).to_have_text("Results")
    planted = """async () => {
        const script = document.createElement("script");
        script.textContent = "window.planted = 'inline'";
        document.body.append(script);
        const picture = document.createElement("div");
        picture.innerHTML = '<img src="data:x" onerror="window.planted = 1">';
        document.body.append(picture);
        const style = document.createElement("style");
        style.textContent = "body {outline: 7px solid red}";
        document.head.append(style);
        await new Promise(done => picture.firstChild.addEventListener("error", done));
    }"""
    page.evaluate(planted)
    assert page.evaluate("() => window.planted ?? null") is None
    assert page.evaluate("() => getComputedStyle(document.body).outlineWidth") != "7px"
    # The page's own styles are there.
    assert page.evaluate("() => document.adoptedStyleSheets.length") == 1
    context.close()


@pytest.mark.parametrize("path", ["/flywheel/docs", f"{RUN}/artifacts/report.html"])
def test_documents_have_their_styles_and_nothing_to_complain(
    web: WebServer, browser: Browser, path: str
) -> None:
    context = log_in(browser, web.url, web.token("vera"))
    # A sandboxed document has no storage, which the session's own script asks for the theme.
    watched = Watched(context.new_page(), ("localStorage",))
    watched.page.goto(web.url + path)
    sheets = "() => [...document.styleSheets].map(sheet => sheet.ownerNode.nodeName)"
    assert watched.page.evaluate(sheets) == ["STYLE"]
    if path.endswith("report.html"):
        bar = watched.page.locator(".bar").first
        assert bar.evaluate("bar => bar.style.getPropertyValue('--share')").endswith("%")
    context.close()
    assert not watched.complaints
