"""The API's lists at 1,000 runs of 9 candidates each, on Airflow's own API server.

    python -m benchmarks.api_lists [--quick] [--runs N] [--folder FOLDER]

`ours` is the slowest list's median, `peer` what was asked for: 100 ms. Times are those of the server alone,
as Airflow's access log has them, of 20 requests after the first; `cold_ms` is the first one after a start,
which reads each run's report. `client_ms` has the medians as a client on loopback sees them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.integration.web_server import NIGHTS, WebServer, clone_runs, furnish, make_project

LISTS = {
    "runs": "/runs?limit=50",
    "runs, all": "/runs?limit=1000",
    "runs, filtered": "/runs?state=success&workload=news_classifier&limit=50&offset=500",
    "candidates": "/candidates?min_score=0.8&sort=score&limit=50",
    "candidates, 1,000": "/candidates?limit=1000&offset=4000",
    "jobs": "/jobs",
    "history": "/champion/history",
}
ASKED_MS = 100.0
TIMES = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100 runs instead of 1,000")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--folder", type=Path, help="keep the project here and use it again")
    arguments = parser.parse_args()
    runs = arguments.runs or (100 if arguments.quick else 1000)
    with tempfile.TemporaryDirectory(prefix="benchmark-api-") as temporary:
        print(json.dumps(_measure(arguments.folder or Path(temporary), runs)))


def _measure(folder: Path, runs: int) -> dict[str, Any]:
    project = folder / "home"
    is_new = not project.exists()
    server = WebServer(make_project(project) if is_new else project)
    try:
        if is_new:
            furnish(server)
            clone_runs(server, NIGHTS[2], runs - 6)
            server.stop()
            server.start()
        client, cold, seen = server.client(), {}, {}
        for name, path in LISTS.items():
            began = time.perf_counter()
            answer = client.get(path)
            cold[name] = (time.perf_counter() - began) * 1e3
            assert answer.status_code == 200, answer.text
            times = []
            for _ in range(TIMES):
                began = time.perf_counter()
                client.get(path)
                times.append((time.perf_counter() - began) * 1e3)
            seen[name] = statistics.median(times)
        total = client.get("/runs?limit=1").json()["total"]
        rss = psutil.Process(server.pid).memory_info().rss / 1e6
    finally:
        server.stop()
    at_server = _at_server(server)
    slowest = max(at_server.values())
    return {
        "name": "api_lists",
        "ours": round(slowest, 1),
        "peer": ASKED_MS,
        "ratio": round(ASKED_MS / slowest, 2),
        "unit": "ms",
        "peak_rss_mb": round(rss),
        "runs": total,
        "server_ms": {name: round(value, 1) for name, value in at_server.items()},
        "client_ms": {name: round(value, 1) for name, value in seen.items()},
        "cold_ms": round(max(cold.values())),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }


def _at_server(server: WebServer) -> dict[str, float]:
    """Return the median of each list's last requests, from the access log."""
    text = server.log.read_text()
    found = {}
    for name, path in LISTS.items():
        route, _, query = path.partition("?")
        times = [
            int(line["us"]) / 1e3
            for line in re.finditer(
                r"duration_us=(?P<us>\d+).* path=(?P<path>\S+) query='?(?P<query>[^' ]*)'? status", text
            )
            if line["path"] == f"/flywheel/api{route}" and line["query"] == query
        ]
        found[name] = statistics.median(times[-TIMES:])
    return found


if __name__ == "__main__":
    main()
