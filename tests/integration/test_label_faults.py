"""Labelling through a bad night: faults of every kind, the endpoint restarted, the labeller killed five times.

At full size: FLYWHEEL_FAULT_HEADLINES=100000 pytest tests/integration/test_label_faults.py
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.chat_endpoint import label_of
from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.loading import validate_config
from flywheel.laptop.processes import free_port
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run, open_run
from flywheel.stages.label import LabelResult

HEADLINES = int(os.environ.get("FLYWHEEL_FAULT_HEADLINES", "3000"))
CONCURRENCY = 64
FAULTS = [
    "--fail",
    "0.05",
    "--refusals",
    "0.05",
    "--retry-after",
    "0.05",
    "--hang",
    "0.02",
    "--garbage",
    "0.01",
]
LATENCY = ["--capacity", "48", "--median-ms", "40", "--sigma", "0.5"]
# What happens, in this order, each when another eighth of the headlines has been answered.
EVENTS = ("kill", "restart", "kill", "kill", "restart", "kill", "kill")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


class CallLog:
    """Reads what the endpoint noted, as it grows."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._begun = b""
        self.texts: dict[str, Counter[str]] = {"call": Counter(), "answer": Counter(), "fault": Counter()}

    def read(self) -> None:
        while line := self._file.readline():
            line, self._begun = self._begun + line, b""
            if not line.endswith(b"\n"):  # the rest is being written
                self._begun = line
                return
            what, _, text = line.decode().rstrip("\n").partition(" ")
            self.texts[what][text] += 1

    def count(self, what: str) -> int:
        return self.texts[what].total()


def start_endpoint(port: int, log: Path, seed: int) -> subprocess.Popen[str]:
    options = ["--port", str(port), "--log", str(log), "--seed", str(seed), *FAULTS, *LATENCY]
    command = [sys.executable, "-m", "benchmarks.chat_endpoint", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://")
    return process


def start_labeller(root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flywheel.cli.main", "label", "night", "--artifacts", str(root)]
    with (root.parent / "labeller.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def make_run(folder: Path, port: int) -> Run:
    lines = [f"Acme unit {number} posts third-quarter results,2024-03-01" for number in range(HEADLINES)]
    (folder / "headlines.csv").write_text("headline,date\n" + "\n".join(lines) + "\n")
    data = {
        "nims": [{"model_name": "test/1b"}],
        "source": {"path": str(folder / "headlines.csv")},
        "teacher": {
            "model": "load",
            "base_url": f"http://127.0.0.1:{port}/v1",
            "concurrency": CONCURRENCY,
            "timeout_seconds": 2,
            "max_attempts": 10,
        },
        "store": {"path": str(folder / "records.sqlite")},
        "artifacts": {"root": str(folder / "artifacts")},
    }
    plan = make_plan(validate_config(data, "test"), run_id="night", cutoff=datetime(2100, 1, 1, tzinfo=UTC))
    return Run.create(plan)


def test_each_headline_is_answered_and_counted_once_through_faults_restarts_and_kills(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "calls.log"
    run, calls = make_run(tmp_path, port), CallLog(log)
    root = tmp_path / "artifacts"
    endpoint, labeller = start_endpoint(port, log, 0), start_labeller(root)
    try:
        for number, event in enumerate(EVENTS, start=1):
            wanted = number * HEADLINES // (len(EVENTS) + 1)
            while len(calls.texts["answer"]) < wanted:
                assert labeller.poll() is None, (tmp_path / "labeller.log").read_text()[-3000:]
                time.sleep(0.02)
                calls.read()
            if event == "kill":
                os.kill(labeller.pid, signal.SIGKILL)
                labeller.wait()
                labeller = start_labeller(root)
            else:
                os.kill(endpoint.pid, signal.SIGKILL)
                endpoint.wait()
                time.sleep(1)
                endpoint = start_endpoint(port, log, number)
        assert labeller.wait(timeout=3000) == 0, (tmp_path / "labeller.log").read_text()[-3000:]
        calls.read()
    finally:
        for process in (endpoint, labeller):
            process.kill()
            process.wait()

    result = open_run(str(root), "night").load("stages/label", LabelResult)
    folder = root / run.path.removeprefix("/")
    with gzip.open(folder / result.records_file, "rt") as file:
        records = [json.loads(line) for line in file]
    with (folder / result.quarantine_file).open() as file:
        quarantined = [json.loads(line) for line in file]

    # All headlines end labelled, or quarantined with a reason.
    assert result.headlines == HEADLINES == len(records) + len(quarantined)
    assert (result.labelled, result.quarantined) == (len(records), len(quarantined))
    assert all(entry["reason"] and entry["raw"] for entry in quarantined)
    assert len(quarantined) <= HEADLINES // 200

    # Each is there once, with the label that the endpoint gave it.
    plan = run.plan
    texts = [plan.workload.text_of(record["request"]["messages"]) for record in records]
    assert len({*texts, *(entry["raw"] for entry in quarantined)}) == HEADLINES
    for text, record in zip(texts, records, strict=True):
        assert text is not None
        content = record["response"]["choices"][0]["message"]["content"]
        assert content == f"[[[{label_of(text.encode()).decode()}]]]"

    # Each answer is in the store once.
    with sqlite3.connect(tmp_path / "records.sqlite") as store:
        (answers,) = store.execute("SELECT count(*) FROM answers").fetchone()
    refused = sum("answer" not in entry for entry in quarantined)
    assert answers == HEADLINES - refused

    # No more calls than needed, than faults that were tried again, and than were in flight at a kill: of the
    # labeller, or of the endpoint, whose calls then ended without an answer.
    needed, faults = HEADLINES, calls.count("fault")
    cut_off = calls.count("call") - calls.count("answer") - faults
    in_flight_at_kills = EVENTS.count("kill") * CONCURRENCY
    figures = f"{calls.count('call')} calls, {needed} needed, {faults} faults, {cut_off} cut off"
    print(f"{figures}; answered twice: {calls.count('answer') - len(calls.texts['answer'])}")
    assert cut_off <= len(EVENTS) * CONCURRENCY, figures
    assert calls.count("call") <= needed + faults + cut_off + in_flight_at_kills, figures
    assert faults > HEADLINES // 20
    assert ArtifactRoot(str(root)).exists(f"{run.path}/stages/label.json")
