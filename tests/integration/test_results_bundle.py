"""The results page's source: its logic, its types, and that the committed bundle is built from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scripts.page_types import WRITTEN, types_of
from tests.integration.browser import UI, node_modules
from tests.integration.web_server import WebServer

COMMITTED = UI.parent / "plugins" / "results" / "page.js"


def run(*command: str) -> None:
    node_modules()
    done = subprocess.run(
        ["npx", "--no-install", *command], cwd=UI, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_committed_bundle_is_what_its_source_builds(tmp_path: Path) -> None:
    run("vite", "build", "--outDir", str(tmp_path), "--logLevel", "warn")
    built = (tmp_path / "page.js").read_bytes()
    assert built == COMMITTED.read_bytes(), "plugins/results/page.js is not up to date: run `make ui`"


def test_types_and_logic_of_the_page() -> None:
    run("tsc", "--noEmit")
    run("vitest", "run")


def test_the_types_of_the_page_are_those_of_the_running_api(web: WebServer) -> None:
    node_modules()
    document = web.client().get(f"{web.url}/flywheel/openapi.json").json()
    assert types_of(document) == WRITTEN.read_text(), "ui/src/schema.ts is not up to date: run `make ui`"


def test_the_lock_file_names_no_address() -> None:
    assert '"resolved"' not in (UI / "package-lock.json").read_text()
