"""A file of the NVIDIA Data Flywheel Blueprint turns the whole DAG on the stand-in for NeMo, as runtime local does.

By `airflow dags test`: the whole of Airflow's database and tasks, with the triggers run in line, no scheduler.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.experiments import laid_over
from flywheel.demo.headlines import write_csv
from flywheel.laptop.processes import free_port
from tests.integration.airflow_stack import PROJECT, wait_for
from tests.integration.nemo_stack import NemoServer, blueprint, with_weights

pytestmark = pytest.mark.slow

SIZE = 120


@contextmanager
def teaching(answers: Path, port: int, environment: dict[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "flywheel_stand_ins", "teacher", "--answers", str(answers)]
    process = subprocess.Popen([*command, "--port", str(port)], env=environment)

    def is_up() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    try:
        wait_for(lambda: process.poll() is None and is_up(), 240)
        yield
    finally:
        process.terminate()
        process.wait()


def turn(folder: Path, environment: dict[str, str], name: str, **overrides: Any) -> dict[str, float]:
    """Turn the wheel once; return the scores of the table."""
    root = folder / name
    sections = {
        "source": [{"path": "headlines.csv", "columns": {"human_label": "human_label"}}],
        "teacher": {"model": "stand-in", "concurrency": 4},
        "artifacts": {"root": str(root)},
        "promotion": {"within": 1.0, "min_eval": 1},
        **overrides,
    }
    file = Path(environment["FLYWHEEL_HOME"]) / "config.yaml"
    file.write_text(yaml.safe_dump(laid_over(yaml.safe_load(file.read_text()), sections)))
    conf = {"sizes": [SIZE]}
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "dags", "test", "flywheel", "--conf", json.dumps(conf)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    (run,) = ArtifactRoot(str(root)).list("runs")
    report = json.loads((root / "runs" / run / "report.json").read_text())
    assert report["decision"]["state"] == "promoted"
    return {f"{row['student']} @ {row['size']}": row["score"] for row in report["candidates"]}


def test_the_whole_dag_gives_the_table_of_runtime_local(tmp_path: Path) -> None:
    home, teacher = tmp_path / "home", free_port()
    home.mkdir()
    for name in ("dags", "plugins", "include"):
        (home / name).symlink_to(PROJECT / name)
    write_csv(home / "headlines.csv", 420)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment.update(
        FLYWHEEL_HOME=str(home),
        FLYWHEEL_CONFIG=str(home / "config.yaml"),
        FLYWHEEL_DEVICE="cpu",
        AIRFLOW_HOME=str(home / "state" / "airflow"),
        AIRFLOW_CONN_FLYWHEEL_TEACHER=f"http://127.0.0.1:{teacher}/v1",
    )
    nemo = NemoServer(tmp_path / "nemo", "--pending-seconds", "0.2", environment=environment)
    (home / "config.yaml").write_text(blueprint(nemo.url, tmp_path, students=1))
    prepare = "from flywheel.laptop import home, prepare; prepare(); home.write_settings(home.Ports())"
    subprocess.run([sys.executable, "-c", prepare], env=environment, check=True)
    try:
        with teaching(home / "headlines.csv", teacher, environment):
            there = turn(tmp_path, environment, "nemo")
            stats = nemo.stats()
            answered = nemo.ask_champion()
            # The same file on runtime local, which needs to know where the weights are.
            file = yaml.safe_load((home / "config.yaml").read_text())
            file = {**file, "runtime": {"type": "local"}, "nims": with_weights(file["nims"])}
            (home / "config.yaml").write_text(yaml.safe_dump(file))
            local = turn(tmp_path, environment, "local")
    finally:
        nemo.kill(signal.SIGTERM)
    assert there == local
    assert len(stats["deployed"]) == 1 and stats["wrong"] == []  # the champion's NIM
    assert answered
    assert stats["counts"]["customizations made"] == 1
    assert stats["counts"]["datasets made"] == 2  # to train and to measure
