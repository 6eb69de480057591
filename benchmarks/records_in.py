"""A million records through POST /api/records, beside the store's own ingest of the same file.

    python -m benchmarks.records_in [--quick] [--records N] [--folder FOLDER]

Ours is Airflow's own API server with the plugin, in a process of its own, and a client that streams the file
over loopback and reads an answer for each line. The peer is what the stage `ingest` does with such a file:
read it line by line, check each record, write it into the same kind of store. `ratio` is ours by the peer's,
in records a second. `rss_mb` says how far the server's memory moved meanwhile, after 20,000 other records,
`worker_rss_mb` how far that of the process it started did, once the first tenth of the records was taken.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from flywheel.workloads.workload import Workload
from tests.integration.web_server import WebServer, make_project
from tests.unit.finished_run import WORKLOAD

SYSTEM = "You are a financial news classifier. " + "Name the one class that fits the headline best. " * 12
WARM_UP = 20_000


def main() -> None:
    """Measure and print; with --part, be the peer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100,000 records instead of 1,000,000")
    parser.add_argument("--records", type=int)
    parser.add_argument(
        "--folder", type=Path, help="work here, and leave the server's project for another time"
    )
    parser.add_argument("--part", choices=["peer"], help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(_peer(arguments.file, arguments.folder)))
        return
    records = arguments.records or (100_000 if arguments.quick else 1_000_000)
    with tempfile.TemporaryDirectory(prefix="benchmark-records-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(_measure(folder, records)))


def _measure(folder: Path, records: int) -> dict[str, Any]:
    file, warm = folder / "records.jsonl", folder / "warm.jsonl"
    _write(warm, WARM_UP, "warm")
    _write(file, records, "cold")
    peer = _run_peer(file, folder)
    project = folder / "home"
    for old in project.glob("state/records.sqlite*"):
        old.unlink()
    server = WebServer(project if project.exists() else make_project(project))
    try:
        process, token = psutil.Process(server.pid), server.token("admin")
        _post(server, token, warm)
        watch = _Watch(process)
        before = sum(process.cpu_times())
        began = time.perf_counter()
        summary = _post(server, token, file)
        seconds = time.perf_counter() - began
        cpu = sum(process.cpu_times()) - before
        rss, worker = watch.stop()
    finally:
        server.stop()
    assert summary["written"] == records, summary
    ours = records / seconds
    return {
        "name": "records_in",
        "ours": round(ours),
        "peer": round(peer["rate"]),
        "ratio": round(ours / peer["rate"], 3),
        "unit": "records/s",
        "peak_rss_mb": max(rss) + max(worker, default=0),
        "rss_mb": rss,
        "worker_rss_mb": worker,
        "records": records,
        "file_mb": round(file.stat().st_size / 1e6),
        "store_ratio": round(summary["seconds"] / seconds, 3),
        "cpu_seconds": round(cpu, 1),
        "peer_cpu_seconds": round(peer["cpu"], 1),
        "cpu_ratio": round(peer["cpu"] / cpu, 3),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }


def _write(file: Path, records: int, kind: str) -> None:
    """Write log records of about 1 KB, no two alike."""
    rng, classes = random.Random(records), Workload.load(WORKLOAD).classes
    with file.open("w") as out:
        for number in range(records):
            messages = [
                {"role": "system", "content": SYSTEM},
                {
                    "role": "user",
                    "content": f"{kind} {number}: Acme {rng.getrandbits(64):x} raises its outlook",
                },
            ]
            answer = {"role": "assistant", "content": f"[[[{rng.choice(classes).lower()}]]]"}
            record = {
                "request": {"model": "teacher", "messages": messages},
                "response": {"choices": [{"message": answer}]},
                "workload_id": "news_classifier",
                "client_id": "desk",
                "timestamp": 1_700_000_000 + number,
            }
            out.write(json.dumps(record) + "\n")


def _post(server: WebServer, token: str, file: Path) -> dict[str, Any]:
    """Stream a file to the server, read all answers and return the summary."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=600, blocksize=1 << 18)
    with file.open("rb") as body:
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/x-ndjson",
            "Content-Length": str(file.stat().st_size),
        }
        connection.request("POST", "/flywheel/api/records", body, headers)
        answer = connection.getresponse()
    assert answer.status == 200, answer.read()[:500]
    lines, last = 0, b""
    for line in answer:
        lines, last = lines + 1, line
    connection.close()
    summary: dict[str, Any] = json.loads(last)["summary"]
    assert lines == summary["lines"] + 1
    return summary


class _Watch:
    """Watches the memory of the server, and of the process that it has take the records."""

    def __init__(self, server: psutil.Process) -> None:
        self._server = server
        self._seen: list[tuple[float, float, float]] = []
        self._ended = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self._look()

    def _look(self) -> None:
        worker = 0.0
        for child in self._server.children():
            with suppress(psutil.NoSuchProcess):
                worker += child.memory_info().rss / 1e6
        self._seen.append((time.monotonic(), self._server.memory_info().rss / 1e6, worker))

    def stop(self) -> tuple[list[int], list[int]]:
        """Return the least and the most of the server and, after a tenth of the time, of the other, in MB."""
        self._ended.set()
        self._thread.join()
        first, last = self._seen[0][0], self._seen[-1][0]
        later = [worker for at, _, worker in self._seen if worker and at > first + (last - first) / 10]
        return _ends([server for _, server, _ in self._seen]), _ends(later)


def _ends(values: list[float]) -> list[int]:
    return [round(min(values)), round(max(values))] if values else []


def _run_peer(file: Path, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.records_in", "--part", "peer", "--file", str(file)]
    done = subprocess.run([*command, "--folder", str(folder)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _peer(file: Path, folder: Path) -> dict[str, Any]:
    from flywheel.config.source import SourceConfig
    from flywheel.sources import read_log_records
    from flywheel.sources.quarantine import Quarantine
    from flywheel.stores.sqlite import SqliteStore

    store_file = folder / "peer.sqlite"
    for old in folder.glob("peer.sqlite*"):
        old.unlink()
    workload = Workload.load(WORKLOAD)
    began, cpu = time.perf_counter(), time.process_time()
    with Quarantine(folder / "peer.quarantine.jsonl") as quarantine, SqliteStore(store_file) as store:
        source = SourceConfig(path=str(file), kind="log_records")
        summary = store.write(read_log_records(source, quarantine, workload))
    seconds = time.perf_counter() - began
    return {"rate": summary.written / seconds, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    main()
