"""The results page with 1,000 runs of 9 candidates each, in headless Chromium against a real API server.

    python -m benchmarks.results_page [--quick] [--runs N] [--folder FOLDER]

First content is timed from the navigation's start until the first row of the list of runs is on the page:
with an empty cache (all of Airflow's UI is loaded first, 7 MB of script), with a full one, and from a click
in Airflow's navigation; and, `alone`, at the page's own address, without Airflow's UI. The peer is Airflow's
own list of the same DAG's runs, timed the same way with a full cache. Interactions are real clicks and keys.
Each is timed twice: until the next paint, which the browser itself tells (Event Timing, in steps of 8 ms),
and until what was asked for is on the page, the answer of the API included. `ratio` is the peer's time by
ours, both with a full cache, the median of several loads.

Making the runs is not counted. Chromium, the API server and this script share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from playwright.sync_api import Browser, BrowserContext, Page

from tests.integration.browser import log_in, open_browser
from tests.integration.nights import make_nights
from tests.integration.web_server import WebServer, environment_of, make_project

LOADS = 5
REPEATS = 3
LISTS = 20
PATIENCE_MS = 120_000
ROW = "document.querySelector('.flywheel table tbody tr')"
PEER_ROW = "document.querySelector('table tbody tr a[href*=\"/runs/\"]')"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100 runs instead of 1,000, each load once")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--folder", type=Path, help="keep the runs here and use them again")
    arguments = parser.parse_args()
    runs = arguments.runs or (100 if arguments.quick else 1000)
    with tempfile.TemporaryDirectory(prefix="benchmark-page-") as temporary:
        folder = (arguments.folder or Path(temporary)) / f"{runs}-runs"
        print(json.dumps(_measure(folder, runs, loads=1 if arguments.quick else LOADS)))


def _measure(folder: Path, count: int, loads: int) -> dict[str, Any]:
    is_new = not folder.exists()
    if is_new:
        make_project(folder)
    server = WebServer(folder)
    try:
        run_ids = _made(server, count) if is_new else _read(server)
        token = server.token("admin")
        lists = _time_lists(server, token)
        print(f"{len(run_ids)} runs; a page of the list takes {lists:.0f} ms at the server", file=sys.stderr)
        with open_browser() as browser:
            found = _in_browser(browser, server.url, token, run_ids, loads)
        rss = psutil.Process(server.pid).memory_info().rss
    finally:
        server.stop()
    ours, peer = found.pop("full_cache_ms"), found.pop("peer_ms")
    return {
        "name": "results_page",
        "ours": round(ours),
        "peer": round(peer),
        "ratio": round(peer / ours, 2),
        "unit": "ms",
        "peak_rss_mb": round(rss / 1e6),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "runs": count,
        "candidates": 9 * count,
        **found,
        "api_list_ms": round(lists),
        "peer_name": "Airflow's own list of the DAG's runs",
    }


def _made(server: WebServer, count: int) -> list[str]:
    """Make the runs, and return their ids, the latest first."""
    folder = server.folder
    with environment_of(folder):
        nights = make_nights(str(folder / "artifacts"), f"sqlite:///{folder}/mlflow.db", count)
    seeds = folder / "runs.json"
    seeds.write_text(json.dumps([{**night, "root": None} for night in nights]))
    server.in_airflow("tests.integration.seed_runs", str(seeds))
    return _read(server)


def _read(server: WebServer) -> list[str]:
    return [night["run_id"] for night in json.loads((server.folder / "runs.json").read_text())]


def _time_lists(server: WebServer, token: str) -> float:
    """Return the median milliseconds of a page of the list, once the server knows the runs."""
    times = []
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=120) as client:
        for number in range(LISTS + 1):
            started = time.perf_counter()
            client.get(f"{server.api}/runs?limit=50&offset={50 * (number % 2)}").raise_for_status()
            times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times[1:])


def _in_browser(browser: Browser, url: str, token: str, run_ids: list[str], loads: int) -> dict[str, Any]:
    list_of_runs = f"{url}/plugin/flywheel"
    alone = f"{url}/flywheel-results/"
    cold = [_first_visit(browser, url, token, list_of_runs) for _ in range(loads)]
    cold_alone = [_first_visit(browser, url, token, alone) for _ in range(loads)]
    context = log_in(browser, url, token)
    context.set_default_timeout(PATIENCE_MS)
    try:
        page = context.new_page()
        _load(page, list_of_runs)
        full = [_load(page, list_of_runs) for _ in range(loads)]
        full_alone = [_load(page, alone) for _ in range(loads + 1)][1:]
        peer = [_load(page, f"{url}/dags/flywheel/runs", PEER_ROW) for _ in range(loads + 1)][1:]
        clicked = [_from_navigation(context, url) for _ in range(loads)]
        done, paints = _interactions(context, list_of_runs, run_ids, min(loads, REPEATS))
    finally:
        context.close()
    return {
        "empty_cache_ms": round(statistics.median(cold)),
        "full_cache_ms": statistics.median(full),
        "alone_empty_cache_ms": round(statistics.median(cold_alone)),
        "alone_full_cache_ms": round(statistics.median(full_alone)),
        "from_navigation_ms": round(statistics.median(clicked)),
        "peer_ms": statistics.median(peer),
        "slowest_paint_ms": max(paints.values()),
        "paint_ms": paints,
        "done_ms": done,
    }


def _first_visit(browser: Browser, url: str, token: str, address: str) -> float:
    """Return the milliseconds of a load with an empty cache."""
    context = log_in(browser, url, token)
    context.set_default_timeout(PATIENCE_MS)
    try:
        return _load(context.new_page(), address)
    finally:
        context.close()


def _load(page: Page, address: str, row: str = ROW) -> float:
    """Return the milliseconds from the start of a navigation until a row is painted."""
    page.goto(address, wait_until="commit")
    page.wait_for_function(row, polling="raf")
    return float(page.evaluate(_after_paint("performance.now()")))


def _after_paint(value: str) -> str:
    return f"new Promise(done => requestAnimationFrame(() => setTimeout(() => done({value}))))"


def _from_navigation(context: BrowserContext, url: str) -> float:
    """Return the milliseconds from a click in Airflow's navigation until the first row."""
    page = context.new_page()
    page.goto(f"{url}/dags")
    link = page.get_by_role("link", name="Flywheel").first
    link.wait_for()
    page.wait_for_load_state("networkidle")
    taken = _timed(page, link.click, ROW)
    page.close()
    return taken


def _timed(page: Page, act: Callable[[], Any], until: str) -> float:
    """Return the milliseconds from a click or key until something is so, and painted."""
    page.evaluate(
        f"""() => {{
          let start;
          const begin = event => {{ start ??= event.timeStamp; }};
          addEventListener('pointerdown', begin, {{capture: true, once: true}});
          addEventListener('keydown', begin, {{capture: true, once: true}});
          globalThis.taken = new Promise(done => {{
            const look = () => start !== undefined && ({until})
              ? setTimeout(() => done(performance.now() - start))
              : requestAnimationFrame(look);
            look();
          }});
        }}"""
    )
    act()
    return float(page.evaluate("globalThis.taken"))


def _interactions(
    context: BrowserContext, address: str, run_ids: list[str], repeats: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Return by interaction its milliseconds until done, and until the next paint: the slowest of each."""
    page = context.new_page()
    page.add_init_script(
        """globalThis.paints = [];
        new PerformanceObserver(list => paints.push(...list.getEntries().map(event => event.duration)))
          .observe({type: 'event', durationThreshold: 16, buffered: true});"""
    )
    done: dict[str, float] = {}
    paints: dict[str, float] = {}

    def take(name: str, act: Callable[[], Any], until: str) -> None:
        page.evaluate("() => { paints.length = 0; }")
        done[name] = max(done.get(name, 0), _timed(page, act, until))
        page.wait_for_timeout(150)
        paints[name] = max(paints.get(name, 0), page.evaluate("() => Math.max(0, ...paints)"))

    def shown(text: str) -> str:
        return f"document.querySelector('.flywheel main')?.textContent.includes({json.dumps(text)})"

    def tab(name: str, until: str) -> None:
        take(f"tab {name}", page.get_by_role("tab", name=name).click, until)

    for number in range(repeats):
        page.goto(address)
        page.wait_for_function(ROW)
        first = min(50, len(run_ids) // 2)
        take("next page", page.get_by_role("button", name="Next").click, shown(run_ids[first]))
        take("mark a run", page.get_by_role("checkbox").nth(number).click, shown("1 of 2 marked"))
        run = run_ids[first + number]
        link = page.get_by_role("table").get_by_role("link", name=run, exact=True)
        take("open a run", link.click, "document.querySelector('.flywheel .chart svg')")
        chart = page.get_by_role("application").first
        chart.focus()
        take(
            "read a point",
            lambda: page.keyboard.press("ArrowRight"),
            "document.querySelector('.flywheel .tip')",
        )
        tab("Cost and latency", "document.querySelectorAll('.flywheel .chart').length === 2")
        tab("Classes", "document.querySelector('.flywheel .matrix')")
        candidate = page.get_by_label("Candidate")
        candidate.focus()
        value = candidate.input_value()
        take(
            "another candidate",
            lambda: page.keyboard.press("ArrowUp"),
            f"document.querySelector('.flywheel select').value !== {json.dumps(value)}"
            " && document.querySelector('.flywheel .matrix')",
        )
        tab("Disagreements", "document.querySelector('.flywheel .readings li')")
        tab("Training", "document.querySelector('.flywheel .bar, .flywheel .chart')")
        take(
            "champions over the nights",
            page.get_by_role("navigation", name="Results").get_by_role("link", name="Champion").click,
            "document.querySelector('.flywheel .chart svg')",
        )
    page.close()
    return _rounded(done), _rounded(paints)


def _rounded(times: dict[str, float]) -> dict[str, int]:
    return {name: round(value) for name, value in times.items()}


if __name__ == "__main__":
    main()
