"""A headless Chromium for tests of pages: Debian's, driven by Playwright; and the front end's tools.

What is missing is installed where that can be done; else the test is skipped with the reason, or fails in CI.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

UI = Path(__file__).parents[2] / "ui"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def chromium() -> str:
    """Return the path of Chromium; install Debian's where there is none and we may."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found:
        return found
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        unavailable("no Chromium: sudo apt-get install chromium")
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        done = subprocess.run([*apt, *command], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            unavailable(f"Chromium could not be installed: {done.stderr[-500:]}")
    return shutil.which("chromium") or unavailable("apt-get has installed no program `chromium`")


def node_modules() -> Path:
    """Return the front end's packages; install them, as locked, where they are not there."""
    folder, lock = UI / "node_modules", (UI / "package-lock.json").read_bytes()
    mark = folder / ".installed-lock.json"
    if mark.is_file() and mark.read_bytes() == lock:
        return folder
    if not shutil.which("npm"):
        unavailable("no npm: the tests of the front end need Node 20.19 or newer")
    done = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=UI, capture_output=True, text=True, check=False
    )
    if done.returncode:
        unavailable(f"`npm ci` failed in {UI}: {done.stderr[-500:]}")
    mark.write_bytes(lock)
    return folder


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Give a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS), headless=True)
        try:
            yield browser
        finally:
            browser.close()


def log_in(
    browser: Browser, url: str, token: str, *, theme: str = "light", width: int = 1400
) -> BrowserContext:
    """Return a browser's session of a user of Airflow's UI."""
    context = browser.new_context(viewport={"width": width, "height": 1000})
    context.add_cookies([{"name": "_token", "value": token, "url": url}])
    context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    return context


class Watched:
    """A page whose every complaint is kept: of its console, of its scripts and of what it asked for."""

    def __init__(self, page: Page, allowed: tuple[str, ...] = ()) -> None:
        self.page = page
        self.complaints: list[str] = []
        self._allowed = allowed
        page.on("console", lambda said: self._keep(said.type == "error", f"console: {said.text}"))
        page.on("pageerror", lambda error: self._keep(True, f"script: {error}"))
        page.on(
            "requestfailed", lambda request: self._keep(not _is_aborted(request), f"failed: {request.url}")
        )

    def _keep(self, counts: bool, text: str) -> None:
        if counts and not any(part in text for part in self._allowed):
            self.complaints.append(text)


def _is_aborted(request: Any) -> bool:
    """Return whether the page itself did without the answer, as it does when it is left."""
    return "ERR_ABORTED" in (request.failure or "")


def axe_faults(page: Page, selector: str) -> list[str]:
    """Return the serious and critical faults of accessibility that axe finds in a part of a page."""
    page.evaluate(
        (node_modules() / "axe-core" / "axe.min.js").read_text()
    )  # no tag: the page takes no other script
    found = page.evaluate("selector => axe.run(selector, {resultTypes: ['violations']})", selector)
    return [
        f"{fault['impact']}: {fault['help']}: {json.dumps([node['html'][:160] for node in fault['nodes'][:3]])}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
