"""Curate a million records: the whole stage, beside pandas and scikit-learn on the same records.

    python -m benchmarks.curate [--quick] [--records N] [--folder FOLDER]

Ours is the stage as a run calls it: list the ids, read the store, drop duplicates and near-duplicates, split
by class, write train, validation and eval. The peer reads the same store into a DataFrame, keeping headlines
and not prompts, and does what is usual: drop_duplicates, train_test_split(stratify=...) for eval, validation
and each size, and the same files line by line. It lacks near-duplicates (they straddle its train and eval
sets), nested sizes, and a split that stays as data grows or comes in another order. Making the headlines and
filling the store is not counted. Each runs in a process of its own; `ratio` is the peer's time by ours, and
`cpu_ratio` the same of CPU seconds, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.demo_records import CLIENT, log_records
from benchmarks.settings import changed_config
from flywheel.demo.headlines import generate
from flywheel.runs.plan import Plan, make_plan
from flywheel.stores.sqlite import SqliteStore
from flywheel.workloads.workload import Workload

SIZES = (5000, 10000, 25000)
EVAL_SIZE = 1000
VAL_RATIO = 0.05
SEED = 42


def main() -> None:
    """Measure and print; with --part, be one of the measured processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100,000 records instead of 1,000,000")
    parser.add_argument("--records", type=int)
    parser.add_argument("--folder", type=Path, help="keep the store here and use it again")
    parser.add_argument("--part", choices=["ours", "peer"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    records = arguments.records or (100_000 if arguments.quick else 1_000_000)
    if arguments.part:
        run = _ours if arguments.part == "ours" else _peer
        print(json.dumps(run(arguments.folder, records)))
        return
    with tempfile.TemporaryDirectory(prefix="benchmark-curate-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(_measure(folder, records)))


def _measure(folder: Path, records: int) -> dict[str, Any]:
    store = _store_path(folder, records)
    if not store.exists():
        started = time.monotonic()
        _fill(store, records)
        print(f"store of {records} records filled in {time.monotonic() - started:.0f} s", file=sys.stderr)
    ours, peer = (_in_process(part, folder, records) for part in ("ours", "peer"))
    return {
        "name": "curate",
        "ours": ours["seconds"],
        "peer": peer["seconds"],
        "ratio": round(peer["seconds"] / ours["seconds"], 2),
        "unit": "s",
        "peak_rss_mb": ours["peak_rss_mb"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "records": records,
        "cpu_ratio": round(peer["cpu_seconds"] / ours["cpu_seconds"], 2),
        "ours_cpu_seconds": ours["cpu_seconds"],
        "ours_parts": ours["parts"],
        "ours_cpu_parts": ours["cpu_parts"],
        "ours_result": ours["result"],
        "store_mb": round(store.stat().st_size / 1e6, 1),
        "peer_name": "pandas drop_duplicates + scikit-learn train_test_split",
        "peer_cpu_seconds": peer["cpu_seconds"],
        "peer_peak_rss_mb": peer["peak_rss_mb"],
        "peer_parts": peer["parts"],
        "peer_cpu_parts": peer["cpu_parts"],
        "peer_lacks": "near-duplicates, events, nested sizes, a split that is stable as data grows",
    }


def _in_process(part: str, folder: Path, records: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.curate", "--part", part]
    command += ["--folder", str(folder), "--records", str(records)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return result


def _store_path(folder: Path, records: int) -> Path:
    return folder / f"records-{records}.sqlite"


def _fill(path: Path, records: int) -> None:
    """Write the demo's headlines as records with the news workload's prompt, 5 KB each, as time goes by."""
    aside = path.with_suffix(".aside")
    aside.unlink(missing_ok=True)
    with SqliteStore(aside) as store:
        store.write(log_records(sorted(generate(records), key=lambda headline: headline.timestamp)))
    aside.rename(path)


class _Timer:
    """Seconds and CPU seconds, by part and of the whole, and peak memory; parts are of this process alone."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self.cpu_parts: dict[str, float] = {}
        self._started = time.monotonic()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its time counted to a part."""

        def call(*arguments: Any, **named: Any) -> Any:
            started, cpu = time.monotonic(), time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.parts[part] = self.parts.get(part, 0.0) + time.monotonic() - started
                self.cpu_parts[part] = self.cpu_parts.get(part, 0.0) + time.process_time() - cpu

        return call

    def report(self, result: dict[str, Any]) -> dict[str, Any]:
        seconds = time.monotonic() - self._started
        usage = resource.getrusage(resource.RUSAGE_SELF)
        second = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Linux gives KiB, macOS bytes.
        peak = (usage.ru_maxrss + second.ru_maxrss) / (1 << 20 if sys.platform == "darwin" else 1 << 10)
        return {
            "seconds": round(seconds, 2),
            "cpu_seconds": round(sum((*usage[:2], *second[:2])), 2),
            "peak_rss_mb": round(peak),
            "parts": {part: round(value, 2) for part, value in self.parts.items()},
            "cpu_parts": {part: round(value, 2) for part, value in self.cpu_parts.items()},
            "result": result,
        }


def _plan(folder: Path, artifacts: Path, records: int) -> Plan:
    config = changed_config(
        {
            "store": {"path": str(_store_path(folder, records))},
            "artifacts": {"root": str(artifacts)},
            "sizes": list(SIZES),
            "data_split_config": {"eval_size": EVAL_SIZE, "val_ratio": VAL_RATIO, "random_seed": SEED},
        },
    )
    cutoff = datetime(2100, 1, 1, tzinfo=UTC)
    return make_plan(config, run_id="r", cutoff=cutoff, workload_id="news_classifier", client_id=CLIENT)


def _ours(folder: Path, records: int) -> dict[str, Any]:
    """Run the stage; its functions are wrapped for their times only."""
    from flywheel.curation import samples
    from flywheel.stages import curate as stage

    with tempfile.TemporaryDirectory(prefix="ours-", dir=folder) as artifacts:
        plan = _plan(folder, Path(artifacts), records)
        timer = _Timer()
        for module, name, part in (
            (stage, "collect", "read_and_reduce"),
            (samples, "group_similar", "near_duplicates"),
            (samples, "group_events", "events"),
            (stage, "split_samples", "split"),
            (stage, "_write", "write"),
        ):
            setattr(module, name, timer.timed(part, getattr(module, name)))
        result = stage.curate(plan, Path(artifacts))
        for parts in (timer.parts, timer.cpu_parts):
            parts["read_and_reduce"] -= parts["near_duplicates"] + parts["events"]
        fields = {"used", "duplicates", "near_duplicates", "events", "train", "val", "eval"}
        return timer.report(result.model_dump(include=fields))


def _peer(folder: Path, records: int) -> dict[str, Any]:
    import orjson
    import pandas as pd
    from sklearn.model_selection import train_test_split

    workload = Workload.load("include/workloads/news_classifier.yaml")
    timer = _Timer()

    def read() -> pd.DataFrame:
        with SqliteStore(_store_path(folder, records)) as store:
            rows = (
                (record.id, record.timestamp, record.label, workload.text_of(record.messages), record.answer)
                for record in store.read(workload.id, CLIENT, 1 << 40)
            )
            return pd.DataFrame(rows, columns=["id", "timestamp", "label", "text", "answer"])

    def split(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
        def part(frame: pd.DataFrame, size: int) -> tuple[pd.DataFrame, pd.DataFrame]:
            rest, chosen = train_test_split(frame, test_size=size, stratify=frame["label"], random_state=SEED)
            return rest, chosen

        rest, held_out = part(frame, EVAL_SIZE)
        train, validation = part(rest, round(VAL_RATIO * len(rest)))
        sizes = {str(size): part(train, size)[1] for size in SIZES if size < len(train)}
        return {"train": train, "val": validation, "eval": held_out, **sizes}

    def lines(frame: pd.DataFrame) -> Iterator[bytes]:
        for row in frame.itertuples(index=False):
            messages = [*workload.messages(row.text), {"role": "assistant", "content": row.answer}]
            line = {"id": row.id, "timestamp": row.timestamp, "label": row.label, "messages": messages}
            yield orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)

    def write(frames: dict[str, pd.DataFrame], target: Path) -> None:
        for name, frame in frames.items():
            with (target / f"{name}.jsonl").open("wb", buffering=1 << 20) as file:
                file.writelines(lines(frame))

    with tempfile.TemporaryDirectory(prefix="peer-", dir=folder) as target:
        frame = timer.timed("read", read)()
        unique = timer.timed("duplicates", frame.drop_duplicates)(subset="text")
        frames = timer.timed("split", split)(unique)
        timer.timed("write", write)(frames, Path(target))
        return timer.report({"used": len(unique), "duplicates": len(frame) - len(unique)})


if __name__ == "__main__":
    main()
