"""Read a million records by cutoff, count them by label, and curate them, from SQLite and from Elasticsearch.

    python -m benchmarks.store [--quick] [--records N]

The same records, around the news prompt of 5 KB, go into a SQLite file and into a real node with TLS that is
started here with a heap of 1 GB; filling is timed and not compared. Each measurement is a process of its
own. `ours` is reading all records from Elasticsearch, `peer` the same from SQLite. `curate` is the whole
stage; its datasets must have the same key and the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.demo_records import CLIENT, log_records
from benchmarks.ingest import VARIABLE, report
from benchmarks.settings import changed_config
from flywheel.config.store import ElasticsearchConfig, StoreConfig
from flywheel.demo.headlines import generate
from flywheel.runs.plan import make_plan
from flywheel.stages.curate import curate
from flywheel.stores import open_store
from tests.search.node import SearchNode

ALWAYS = 1 << 40
SCOPE = ("news_classifier", CLIENT)


def main() -> None:
    """Measure and print; with --part, be one of the measured processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="50,000 records instead of 1,000,000")
    parser.add_argument("--records", type=int)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    records = arguments.records or (50_000 if arguments.quick else 1_000_000)
    if arguments.part:
        kind, _, part = arguments.part.partition(":")
        parts: dict[str, Callable[[StoreConfig, Path, int], dict[str, Any]]]
        parts = {"fill": _fill, "read": _read, "curate": _curate}
        print(json.dumps(parts[part](_config(kind, arguments.folder), arguments.folder, records)))
        return
    with tempfile.TemporaryDirectory(prefix="benchmark-store-") as folder, SearchNode(heap_mb=1024) as node:
        os.environ[VARIABLE] = node.connection()
        print(json.dumps(_measure(Path(folder), records)))


def _measure(folder: Path, records: int) -> dict[str, Any]:
    results: dict[str, dict[str, Any]] = {}
    for part in ("fill", "read", "curate"):
        for kind in ("elasticsearch", "sqlite"):
            command = [sys.executable, "-m", "benchmarks.store", "--part", f"{kind}:{part}"]
            command += ["--folder", str(folder), "--records", str(records)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[f"{part}_{kind}"] = json.loads(done.stdout.splitlines()[-1])
            print(part, kind, results[f"{part}_{kind}"], file=sys.stderr)
    one, other = results["curate_elasticsearch"], results["curate_sqlite"]
    assert (one["dataset"], one["sha256"]) == (other["dataset"], other["sha256"])
    ours, peer = results["read_elasticsearch"], results["read_sqlite"]
    return {
        "name": "store",
        "ours": ours["seconds"],
        "peer": peer["seconds"],
        "ratio": round(peer["seconds"] / ours["seconds"], 3),
        "unit": "s",
        "peak_rss_mb": ours["peak_rss_mb"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "records": records,
        "peer_name": "the SQLite store",
        "same_dataset": True,
        **results,
    }


def _config(kind: str, folder: Path) -> StoreConfig:
    if kind == "sqlite":
        return StoreConfig(path=str(folder / "records.sqlite"))
    return StoreConfig(type="elasticsearch", elasticsearch=ElasticsearchConfig(index="flywheel-store"))


def _fill(config: StoreConfig, folder: Path, records: int) -> dict[str, Any]:
    started, cpu = time.monotonic(), time.process_time()
    with open_store(config) as store:
        store.write(log_records(generate(records)))
    return report(records, time.monotonic() - started, time.process_time() - cpu)


def _read(config: StoreConfig, folder: Path, records: int) -> dict[str, Any]:
    """Read all before a cutoff; what is quicker, ids and counts, is timed beside it."""
    with open_store(config) as store:
        times = {}
        started = time.monotonic()
        count = store.count(*SCOPE, ALWAYS)
        times["count_seconds"] = round(time.monotonic() - started, 3)
        started = time.monotonic()
        assert sum(1 for _ in store.read_known(*SCOPE, ALWAYS)) == count
        times["read_known_seconds"] = round(time.monotonic() - started, 3)
        started, cpu = time.monotonic(), time.process_time()
        assert sum(1 for _ in store.read(*SCOPE, ALWAYS)) == count
        return report(count, time.monotonic() - started, time.process_time() - cpu, **times)


def _curate(config: StoreConfig, folder: Path, records: int) -> dict[str, Any]:
    root = folder / f"artifacts-{config.type}"
    changed = changed_config(
        {
            "store": config.model_dump(mode="json"),
            "artifacts": {"root": str(root)},
            "sizes": [5000, 10000, 25000],
            "data_split_config": {"eval_size": 1000, "val_ratio": 0.05},
        },
    )
    plan = make_plan(
        changed, run_id="r", cutoff=datetime(2100, 1, 1, tzinfo=UTC), workload_id=SCOPE[0], client_id=CLIENT
    )
    started, cpu = time.monotonic(), time.process_time()
    result = curate(plan, folder)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    hashed = hashlib.sha256()
    for name in ("train", "val", "eval"):
        with (root / "datasets" / result.dataset / f"{name}.jsonl").open("rb") as file:
            hashed.update(hashlib.file_digest(file, "sha256").digest())
    return report(result.total, seconds, cpu, dataset=result.dataset, sha256=hashed.hexdigest())


if __name__ == "__main__":
    main()
