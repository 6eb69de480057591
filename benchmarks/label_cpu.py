"""What the stage `label` costs of the processor beside the teacher: each headline has an answer already.

    python -m benchmarks.label_cpu [--quick] [--rows N] [--pairs N]                this code alone
    python -m benchmarks.label_cpu --against COMMIT [--rows N] [--pairs N]         beside another commit's

Each run is a process of its own: it reads a CSV file, looks every answer up in the store, reads its class and
writes the labelled records; no call is made. Of two commits each has a store that its own code filled, and
they take turns (A B, B A, ...), so that what else the machine does meets both. CPU seconds are those of the
stage alone, threads included; the imports are over by then. `ratio` is the median of the pairs' ratios, this
code's by the other's; `ours` and `peer` are medians of the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
WORKLOAD = "include/workloads/news_classifier.yaml"
CLASSES = ("earnings", "guidance", "price targets", "analyst rating", "dividends", "other")
_BATCH = 10_000


def main() -> None:
    """Measure and print; with --part, be one of the measured processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="10,000 rows, one pair")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--pairs", type=int, help="runs of each code; default 5")
    parser.add_argument("--against", metavar="COMMIT", help="of this repository, checked out beside it")
    parser.add_argument("--part", choices=["prepare", "run"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        part = _prepare if arguments.part == "prepare" else _run
        print(json.dumps(part(arguments.folder)))
        return
    rows = arguments.rows or (10_000 if arguments.quick else 100_000)
    pairs = arguments.pairs or (1 if arguments.quick else 5)
    with tempfile.TemporaryDirectory(prefix="benchmark-label-") as temporary:
        print(json.dumps(_measure(Path(temporary), rows, pairs, arguments.against)))


def _measure(folder: Path, rows: int, pairs: int, against: str | None) -> dict[str, Any]:
    headlines = folder / "headlines.csv"
    _write_headlines(headlines, rows)
    with _checkouts(folder, against) as codes:
        for name, code in codes.items():
            (folder / name).mkdir()
            (folder / name / "headlines.csv").symlink_to(headlines)
            _part("prepare", code, folder / name)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in codes}
        for pair in range(pairs):
            for name in list(codes)[:: -1 if pair % 2 else 1]:
                runs[name].append(_part("run", codes[name], folder / name))
                print(f"{name}: {json.dumps(runs[name][-1])}", file=sys.stderr)
    seconds = {name: [run["cpu_seconds"] for run in of_one] for name, of_one in runs.items()}
    result: dict[str, Any] = {
        "name": "label_cpu",
        "ours": statistics.median(seconds["ours"]),
        "unit": f"CPU seconds for {rows} rows",
        "runs": seconds["ours"],
    }
    if against:
        ratios = [one / other for one, other in zip(seconds["ours"], seconds["peer"], strict=True)]
        result |= {
            "peer": statistics.median(seconds["peer"]),
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
            "peer_name": against,
            "peer_runs": seconds["peer"],
            "peer_peak_rss_mb": max(run["peak_rss_mb"] for run in runs["peer"]),
        }
    return result | {
        "rows_per_cpu_second": round(rows / statistics.median(seconds["ours"])),
        "peak_rss_mb": max(run["peak_rss_mb"] for run in runs["ours"]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }


@contextmanager
def _checkouts(folder: Path, against: str | None) -> Iterator[dict[str, Path]]:
    """Give the folders of this code and, where there is one, of the other commit."""
    if not against:
        yield {"ours": HERE}
        return
    other = folder / "checkout"
    git = ["git", "-C", str(HERE), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(other), against], check=True)
    try:
        yield {"ours": HERE, "peer": other}
    finally:
        subprocess.run([*git, "remove", "--force", str(other)], check=True)


def _part(part: str, code: Path, folder: Path) -> dict[str, Any]:
    """Run a part in a process of its own that imports one of the codes; this file is the same for both."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(code / "include"), "FLYWHEEL_HOME": str(code)}
    done = subprocess.run(command, cwd=code, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == str(code / "include"), found
    return found


def _write_headlines(path: Path, rows: int) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    with path.open("w", encoding="utf-8") as file:
        file.write("headline,date\n")
        file.writelines(
            f'"Acme Holdings unit {number} posts results, above its guidance",'
            f"{start + timedelta(seconds=37 * number):%Y-%m-%dT%H:%M:%SZ}\n"
            for number in range(rows)
        )


# -- what a measured process does; it knows the API of either commit -----------------------------------


def _plan(folder: Path) -> Any:
    from flywheel.config.loading import validate_config
    from flywheel.runs.plan import make_plan

    data = {
        "nims": [{"model_name": "test/1b"}],
        "workload": WORKLOAD,
        "source": {"path": str(folder / "headlines.csv")},
        "teacher": {"model": "load", "base_url": "http://127.0.0.1:9/v1"},  # never asked
        "store": {"path": str(folder / "records.sqlite")},
        "artifacts": {"root": str(folder / "artifacts")},
    }
    return make_plan(validate_config(data, "benchmark"), run_id="r", cutoff=datetime(2100, 1, 1, tzinfo=UTC))


def _code() -> str:
    import flywheel

    return str(Path(flywheel.__file__).resolve().parents[1])


def _prepare(folder: Path) -> dict[str, Any]:
    """Put the answers of all headlines into the store."""
    import csv
    from itertools import islice

    from flywheel.stores import PaidAnswer, open_store
    from flywheel.teacher.request import Requests

    plan = _plan(folder)
    teacher = plan.config.teacher
    requests = Requests(
        plan.workload, model=teacher.model, temperature=teacher.temperature, max_tokens=teacher.max_tokens
    )
    usage = {"prompt_tokens": 1150, "completion_tokens": 6}
    count = 0
    with (folder / "headlines.csv").open(encoding="utf-8") as file, open_store(plan.config.store) as store:
        rows = csv.DictReader(file)
        while batch := list(islice(rows, _BATCH)):
            store.put_answers(
                [
                    (
                        requests.key(row["headline"]),
                        PaidAnswer(
                            f"[[[{CLASSES[(count + at) % len(CLASSES)]}]]]", "load", 1_700_000_000, usage
                        ),
                    )
                    for at, row in enumerate(batch)
                ]
            )
            count += len(batch)
    return {"code": _code(), "answers": count}


def _run(folder: Path) -> dict[str, Any]:
    """Run the stage once."""
    from flywheel.stages.label import label

    plan = _plan(folder)
    with tempfile.TemporaryDirectory(dir=folder) as run:
        wall, cpu = time.monotonic(), time.process_time()
        result = label(plan, Path(run))
        cpu_seconds, seconds = time.process_time() - cpu, time.monotonic() - wall
    assert result.labelled == result.found == result.headlines > 0 and result.asked == 0, result
    return {
        "code": _code(),
        "rows": result.headlines,
        "cpu_seconds": round(cpu_seconds, 3),
        "seconds": round(seconds, 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
