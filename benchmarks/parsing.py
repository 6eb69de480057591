"""How long 50 experiments take to be read as DAGs, beside config.yaml's alone, each in a fresh process.

    python -m benchmarks.parsing [--quick]

`ours` is the time in which one process reads the DAG files of all experiments, as Airflow's DagBag does; the
peer is the reading of one experiment's DAG in a process that has read none, times as many. Starting Python
and imports are in neither. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

PROJECT = Path(__file__).parents[1]
# Reads the DAG files that are named, in a process whose Airflow and flywheel are imported already.
PROGRAM = """
import json, resource, sys, time
import flywheel.orchestration, flywheel.orchestration.annotating, flywheel.forgetting.tasks
from airflow.dag_processing.dagbag import BundleDagBag
from flywheel.orchestration.bundle import ExperimentsBundle
bundle = ExperimentsBundle(name="dags-folder")
bundle.initialize()
began = time.perf_counter()
bag = BundleDagBag(str(bundle.path / sys.argv[1]), bundle_path=bundle.path, bundle_name=bundle.name)
seconds = time.perf_counter() - began
assert not bag.import_errors, bag.import_errors
print(json.dumps([seconds, len(bag.dags), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def write_home(folder: Path, count: int) -> None:
    """Write the shipped config.yaml, and experiments of it that differ in client, schedule and sizes."""
    (folder / "experiments").mkdir(parents=True)
    (folder / "config.yaml").write_bytes((PROJECT / "include/config.yaml").read_bytes())
    for number in range(count):
        sections = {
            "extends": "../config.yaml",
            "client_id": f"desk-{number}",
            "schedule": {"cron": f"{number % 60} 2 * * *", "time_zone": "America/New_York"},
            "sizes": [300, 1000 + number],
            "dag": {"owner": "research", "tags": [f"desk-{number}"]},
        }
        (folder / f"experiments/desk_{number}.yaml").write_text(yaml.safe_dump(sections, sort_keys=False))


def read(folder: Path, file: str = "") -> tuple[float, int, float]:
    """Return the seconds in which a new process reads DAG files, their DAGs, and its peak memory in MiB.

    Args:
        file: of the bundle; empty: all.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {
        "FLYWHEEL_HOME": str(folder),
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(folder / "bundles"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    }
    environment.pop("FLYWHEEL_CONFIG", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, file], env=environment, capture_output=True, text=True, check=True
    )
    seconds, dags, memory = json.loads(done.stdout.splitlines()[-1])
    return seconds, dags, memory


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 experiments, once")
    quick = parser.parse_args().quick
    count, times = (10, 1) if quick else (50, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "home"
        write_home(folder, count)
        read(folder)  # byte code and links are made
        all_of_them = [read(folder) for _ in range(times)]
        one = min(read(folder, "experiment_desk_0.py")[0] for _ in range(times))
    assert {dags for _, dags, _ in all_of_them} == {count + 1}
    ours = min(seconds for seconds, _, _ in all_of_them)
    print(f"{count} experiments and config.yaml: {ours:.2f} s; one experiment alone: {one:.3f} s")
    print(
        json.dumps(
            {
                "name": f"parse {count} experiments",
                "ours": round(ours, 3),
                "peer": round(one * count, 3),
                "ratio": round(ours / (one * count), 3),
                "unit": "s",
                "peak_rss_mb": round(max(memory for _, _, memory in all_of_them)),
                "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            }
        )
    )


if __name__ == "__main__":
    main()
