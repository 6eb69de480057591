"""The DAG with runtime nemo under a scheduler: the stand-in as a server, kills, and the table of runtime local.

Only with FLYWHEEL_NEMO set, for it takes minutes: `small`, one student on two sizes, or `full`, three on three, as
in table 1. tests/integration/test_nemo_dag.py is the short form, without a scheduler.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flywheel.laptop.processes import free_port
from tests.integration.airflow_stack import STUDENTS, Stack, apart, report_of, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("FLYWHEEL_NEMO"), reason="takes minutes; set FLYWHEEL_NEMO=small or full"
    ),
]

# As a file of the blueprint has them, but for the addresses and, in the small form, two of the students.
NIMS = [
    {
        "model_name": f"meta/llama-{name}-instruct",
        "model_type": "llm",
        "context_length": 2048,
        "gpus": 1,
        "pvc_size": "25Gi",
        "tag": "1.8.3",
        "customization_enabled": True,
        "customizer_configs": {
            "target": f"meta/llama-{name}-instruct@2.0",
            "gpus": 1,
            "max_seq_length": 2048,
        },
        "weights": f"{STUDENTS}/{weights}",  # for runtime local; NeMo has its own
    }
    for name, weights in (("3.2-1b", "small"), ("3.2-3b", "medium"), ("3.1-8b", "large"))
]
FULL = os.environ.get("FLYWHEEL_NEMO") == "full"
SIZES = [40, 80, 120] if FULL else [40, 120]


class NemoServer:
    """The stand-in in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "flywheel.cli", "stand-in-nemo", "--port", str(self._port)]
        self._process = subprocess.Popen([*command, "--folder", str(self._folder)])
        wait_for(self._answers)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self._process.send_signal(number)
        self._process.wait()

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/stand-in/stats", trust_env=False).json()
        return found

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).is_success
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="module")
def nemo(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NemoServer]:
    stack.launcher.start("triggerer")
    server = NemoServer(tmp_path_factory.mktemp("nemo"))
    try:
        yield server
    finally:
        server.kill(signal.SIGTERM)


def experiment(folder: Path, nemo: NemoServer | None, **sections: Any) -> dict[str, Any]:
    """Return overrides for a run on NeMo, or here."""
    # The form knows the students of the file; none chosen are all of these.
    overrides = apart(folder, nims=NIMS if FULL else NIMS[:1], **sections)
    if nemo is not None:
        overrides["runtime"] = {"type": "nemo", "nemo": {"poll_seconds": 0.5}}
        overrides["nmp_config"] = {
            "nemo_base_url": f"{nemo.url}/nemo",
            "nim_base_url": f"{nemo.url}/nim",
            "datastore_base_url": f"{nemo.url}/datastore",
            "nmp_namespace": "mdfd",
        }
    return overrides


def scores(folder: Path, run_id: str) -> dict[str, float]:
    """Return the table's scores; fail where a candidate has none."""
    rows = report_of(folder, run_id)["candidates"]
    assert all(row["state"] == "scored" for row in rows), rows
    return {f"{row['student']} @ {row['size']}": row["f1_weighted"] for row in rows}


def test_the_table_is_that_of_runtime_local(stack: Stack, nemo: NemoServer, data: Path) -> None:
    overrides = experiment(data / "nemo", nemo)
    assert stack.turn("nemo", overrides, students=[], sizes=SIZES) == "success", stack.explain("nemo")
    here = experiment(data / "local", None, runtime={"type": "local"})
    assert stack.turn("here", here, students=[], sizes=SIZES) == "success", stack.explain("here")
    assert scores(data / "nemo", "nemo") == scores(data / "local", "here")
    stats = nemo.stats()
    count = len(SIZES) * (3 if FULL else 1)
    assert stats["wrong"] == [] and stats["deployed"] == []
    assert stats["counts"]["customizations made"] == count
    assert stats["counts"]["datasets made"] == len(SIZES)


def test_kills_of_all_that_takes_part_change_nothing(stack: Stack, nemo: NemoServer, data: Path) -> None:
    before = nemo.stats()["counts"]
    overrides = experiment(
        data, nemo, training_config={"epochs": 2, "batch_size": 16, "learning_rate": 0.001}
    )
    stack.trigger("nemo-killed", overrides, students=[], sizes=[120])
    wait_for(
        lambda: nemo.stats()["counts"].get("customizations made", 0) > before["customizations made"], 240
    )
    for name in ("triggerer", "scheduler"):
        killed = stack.pids[name]
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda name=name, killed=killed: stack.pids[name] != killed)  # type: ignore[misc]
    nemo.kill()
    nemo.start()
    assert stack.wait("nemo-killed") == "success", stack.explain("nemo-killed")
    assert scores(data, "nemo-killed")
    stats = nemo.stats()
    assert stats["deployed"] == [] and stats["wrong"] == []
    uploads = [name for name in stats["counts"] if name.startswith("customizations of")]
    assert all(stats["counts"][name] == 1 for name in uploads)


def test_a_run_that_is_stopped_by_a_person_leaves_nothing(stack: Stack, nemo: NemoServer, data: Path) -> None:
    overrides = experiment(data, nemo, training_config={"epochs": 200, "batch_size": 16})
    stack.trigger("nemo-stopped", overrides, students=[], sizes=[120])
    jobs = nemo.url + "/nemo/v1/customization/jobs?filter[status]=running"
    wait_for(lambda: httpx.get(jobs, trust_env=False).json()["data"], 240)
    stack.rest("PATCH", "/dags/flywheel/dagRuns/nemo-stopped", {"state": "failed"})
    wait_for(lambda: not httpx.get(jobs, trust_env=False).json()["data"], 120)
    wait_for(lambda: nemo.stats()["deployed"] == [], 60)
