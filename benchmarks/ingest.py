"""Ingest a million log records into a real Elasticsearch node, beside elasticsearch.helpers.parallel_bulk.

    python -m benchmarks.ingest [--quick] [--records N]

Ours is the stage as a run calls it: read labelled.jsonl.gz (log records around the news prompt, 5 KB each),
validate, make ids from the content, write. The peer has its documents in memory, prepared: the same
records in OpenAI chat format, with the same ids, labels and mappings, so it neither reads, validates nor
makes ids. It runs with several settings on some of the records, then with the best of them on all; the
client serializes with orjson, as ours does. Both create documents by id into fresh indexes of one node with
TLS, started here with a heap of 1 GB, in processes of their own; after each, the documents are counted.

Ours stores the shared prompt once and in each record what differs; the peer's documents have it all, as a
user of parallel_bulk would index them. `ratio_same_documents` compares with parallel_bulk on our own small
documents, prepared, too: there the server has as little to do for the peer as for us.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from benchmarks.demo_records import CLIENT, log_records
from benchmarks.settings import changed_config
from flywheel.config.store import ElasticsearchConfig
from flywheel.demo.headlines import generate
from flywheel.runs.plan import make_plan
from flywheel.workloads.records import Record
from tests.search.node import SearchNode

VARIABLE = "AIRFLOW_CONN_FLYWHEEL_ELASTICSEARCH"
# Of parallel_bulk: threads and documents of a request.
SETTINGS = ((2, 500), (2, 2000), (4, 500), (4, 1000))
FILE = "labelled.jsonl.gz"


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
        kind, *settings = arguments.part.split(":")
        part: Callable[..., dict[str, Any]] = _ours if kind == "ours" else _peer
        print(json.dumps(part(arguments.folder, records, kind, *map(int, settings))))
        return
    with tempfile.TemporaryDirectory(prefix="benchmark-ingest-") as folder:
        _write_records(Path(folder) / FILE, records)
        with SearchNode(heap_mb=1024) as node:
            os.environ[VARIABLE] = node.connection()
            print(json.dumps(_measure(Path(folder), records, node)))


def _measure(folder: Path, records: int, node: SearchNode) -> dict[str, Any]:
    def run(part: str, count: int) -> dict[str, Any]:
        before = _cpu_seconds(node)
        command = [sys.executable, "-m", "benchmarks.ingest", "--part", part, "--folder", str(folder)]
        done = subprocess.run(
            [*command, "--records", str(count)], check=True, stdout=subprocess.PIPE, text=True
        )
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        result["server_cpu_us"] = round(1e6 * (_cpu_seconds(node) - before) / count, 1)
        print(part, result, file=sys.stderr)
        return result

    few = max(5000, min(records // 10, 40_000))
    run("chat:2:500", few)  # the node's compiler is warm after this
    best = {
        kind: max(SETTINGS, key=lambda settings, kind=kind: run(_part(kind, settings), few)["per_second"])
        for kind in ("chat", "small")
    }
    peer = run(_part("chat", best["chat"]), records)
    ours = run("ours", records)
    small = run(_part("small", best["small"]), records)
    return {
        "name": "ingest",
        "ours": ours["per_second"],
        "peer": peer["per_second"],
        "ratio": round(ours["per_second"] / peer["per_second"], 3),
        "unit": "records/s",
        "peak_rss_mb": ours["peak_rss_mb"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "records": records,
        "peer_name": "parallel_bulk on prepared documents in chat format",
        "peer_settings": dict(zip(("thread_count", "chunk_size"), best["chat"], strict=True)),
        "ratio_same_documents": round(ours["per_second"] / small["per_second"], 3),
        "ours_parts": ours,
        "peer_parts": peer,
        "peer_same_documents_parts": small,
    }


def _part(kind: str, settings: tuple[int, int]) -> str:
    return f"{kind}:{settings[0]}:{settings[1]}"


def _cpu_seconds(node: SearchNode) -> float:
    fields = Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _write_records(path: Path, records: int) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for record in log_records(generate(records)):
            file.write(orjson.dumps(record.to_json(), option=orjson.OPT_APPEND_NEWLINE))


def report(count: int, seconds: float, cpu: float, **more: Any) -> dict[str, Any]:
    """Return the figures of a measured process."""
    return {
        "records": count,
        "seconds": round(seconds, 2),
        "per_second": round(count / seconds),
        "cpu_us": round(1e6 * cpu / count, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **more,
    }


def _ours(folder: Path, records: int, kind: str) -> dict[str, Any]:
    from flywheel.stages.ingest import ingest
    from flywheel.stages.label import LabelResult
    from flywheel.stores import open_store

    config = changed_config(
        {"store": {"type": "elasticsearch", "elasticsearch": {"index": "flywheel-ours"}}, "source": []},
    )
    plan = make_plan(
        config,
        run_id="r",
        cutoff=datetime(2100, 1, 1, tzinfo=UTC),
        workload_id="news_classifier",
        client_id=CLIENT,
    )
    started, cpu = time.monotonic(), time.process_time()
    result = ingest(plan, folder, LabelResult.model_construct(records_file=FILE))
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    assert result.read == result.written + result.already_there + result.quarantined
    with open_store(config.store) as store:
        there = store.count("news_classifier", CLIENT, plan.cutoff)
    assert there == result.written
    # Headlines that came twice are one record.
    return report(result.read, seconds, cpu, there=there, already_there=result.already_there)


def _peer(folder: Path, records: int, kind: str, threads: int, chunk: int) -> dict[str, Any]:
    """Write prepared documents; making them, and holding them in memory, is not counted."""
    from elasticsearch import helpers

    from flywheel.stores.elasticsearch.client import connect
    from flywheel.stores.elasticsearch.indexes import RECORDS, Indexes
    from flywheel.stores.prompts import Compressor, skeleton_and_text

    prefix = f"flywheel-{kind}-{threads}-{chunk}-{records}"
    cluster = connect(ElasticsearchConfig())
    indexes = Indexes(cluster, prefix, 1, None)
    indexes.prepare(RECORDS)
    compressor = Compressor()

    def prepared(record: Record) -> dict[str, Any]:
        request: dict[str, Any] = record.request
        if kind == "small":
            difference = compressor.reduce(*skeleton_and_text(record.request))
            request = {
                "prompt": "85ff35b55f74a2ee",
                "first": difference.first,
                "last": difference.last,
                "text": difference.text,
            }
        source = {
            "id": record.id,
            "workload_id": record.workload_id,
            "client_id": record.client_id,
            "timestamp": record.timestamp,
            "label": record.label,
            "request": request,
            "response": record.response,
            **({"batch": "0123456789ab-0"} if kind == "small" else {}),
        }
        return {"_op_type": "create", "_index": indexes.alias(RECORDS), "_id": record.id, "_source": source}

    made = log_records(generate(records))
    written = there = 0
    seconds = cpu = 0.0
    # In parts, so that a million documents of 5 KB need not be in memory at once.
    while documents := [prepared(record) for record in islice(made, 50_000)]:
        started, used = time.monotonic(), time.process_time()
        for ok, _ in helpers.parallel_bulk(
            cluster.client, documents, thread_count=threads, chunk_size=chunk, raise_on_error=False
        ):
            written += ok
            there += not ok
        seconds += time.monotonic() - started
        cpu += time.process_time() - used
    cluster.client.indices.refresh(index=indexes.alias(RECORDS))
    assert cluster.client.count(index=indexes.alias(RECORDS))["count"] == written
    cluster.client.indices.delete(index=f"{prefix}-records-v{RECORDS.version}")
    return report(written + there, seconds, cpu, there=written)


if __name__ == "__main__":
    main()
