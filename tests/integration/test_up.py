"""`flywheel up`, as `make run` calls it: in a process of its own, on a project folder of its own."""

from __future__ import annotations

import json
import os
import re
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

from flywheel.demo.headlines import write_csv
from tests.integration.airflow_stack import HEADLINES, experiment, make_home, processes_of, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_home(tmp_path_factory.mktemp("up") / "home")
    configure(folder)
    demo = folder / "state" / "demo" / "headlines.csv"
    demo.parent.mkdir(parents=True)
    write_csv(demo, HEADLINES)
    return folder


def configure(folder: Path, **sections: Any) -> None:
    config = {**experiment(), **sections}
    config["source"] = {**config["source"], "path": "state/demo/headlines.csv"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def environment(folder: Path, ci: bool) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "FLYWHEEL_HOME")}
    given = {"FLYWHEEL_HOME": str(folder), "FLYWHEEL_CONFIG": str(folder / "config.yaml"), "COLUMNS": "200"}
    return {**kept, **given, **({"CI": "true"} if ci else {})}


def command() -> list[str]:
    return [sys.executable, "-m", "flywheel.cli.main", "up"]


def run_up(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `up` as a CI does."""
    return subprocess.run(
        command(),
        env=environment(folder, ci=True),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )


@contextmanager
def up_running(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run `up` as a person does; give its process and the file with what it prints."""
    output = folder / "up.out"
    with open(output, "wb") as file:
        process = subprocess.Popen(
            command(), env=environment(folder, ci=False), stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield process, output
    finally:
        process.kill()
        process.wait()
        wait_for(lambda: not processes_of(folder), 30)


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "artifacts" / "latest" / "report.json").read_text())
    return report


def test_it_turns_the_wheel_and_stops_where_nobody_watches(home: Path) -> None:
    done = run_up(home)
    assert done.returncode == 0, done.stdout
    assert "Weighted F1 against the teacher" in done.stdout
    assert re.search(r"customize small @ 120: done", done.stdout)
    assert f"{home}/artifacts/runs/up__" in done.stdout
    assert re.search(r"run up__\S+: success; [\d.]+ s, [\d.]+ s of them outside the stages", done.stdout)
    assert not processes_of(home)
    report = report_of(home)
    assert report["counters"]["teacher_calls"] == HEADLINES
    assert (home / "artifacts" / "latest" / "report.html").exists()


def test_again_it_finds_everything_and_leaves_the_ui_up(home: Path) -> None:
    with up_running(home) as (process, output):
        wait_for(lambda: "Ctrl-C stops it" in output.read_text() or process.poll() is not None, 300)
        said = output.read_text()
        assert report_of(home)["counters"] == {"teacher_calls": 0, "training_steps": 0}, said
        found = re.search(r"(http://localhost:\d+)\s+user (\w+), password (\S+)", said)
        assert found, said
        url, user, password = found.groups()
        login = httpx.post(
            f"{url}/auth/token", json={"username": user, "password": password}, trust_env=False
        )
        assert login.status_code == 201

        wait_for(lambda: "The champion answers" in output.read_text(), 120)
        line = output.read_text().split("The champion answers, too:\n")[1].splitlines()[0]
        answer = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
        answered = json.loads(answer.stdout)
        assert answered["flywheel"]["adapter"] == report_of(home)["champion"]["adapter"], answer.stdout
        assert answered["choices"][0]["message"]["content"].startswith("[[[")

        second = run_up(home)  # while the first is up
        assert second.returncode == 1
        assert f"runs already (process {process.pid})" in second.stdout

        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert not processes_of(home)


def test_killed_by_signal_9_it_leaves_no_process(home: Path) -> None:
    with up_running(home) as (process, output):
        wait_for(lambda: "label: done" in output.read_text(), 300)
        assert processes_of(home)
        process.kill()
        wait_for(lambda: not processes_of(home), 30)


def test_stopped_in_the_middle_it_goes_on_with_the_same_run(home: Path) -> None:
    # The run that the test before cut short.
    cut_short = json.loads((home / "state" / "up.json").read_text())["run_id"]
    with up_running(home) as (process, output):
        wait_for(lambda: "going on with run" in output.read_text(), 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
        assert not processes_of(home)
    done = run_up(home)
    assert done.returncode == 0, done.stdout
    assert f"going on with run {cut_short}" in done.stdout
    assert report_of(home)["run_id"] == cut_short


def test_a_failed_run_names_the_task_and_shows_its_log(home: Path) -> None:
    broken = [entry for entry in experiment()["nims"] if entry["name"] == "broken"]
    configure(home, nims=broken)
    done = run_up(home)
    assert done.returncode == 1, done.stdout
    assert "customize broken @ 120 failed; " in done.stdout
    assert "no/such/weights" in done.stdout
    assert "score failed; " in done.stdout
    assert not processes_of(home)


def test_a_wrong_config_is_told_before_anything_starts(home: Path) -> None:
    configure(home, training_config={"epoch": 1})
    done = run_up(home)
    assert done.returncode == 1
    assert "training_config.epoch: no such key; the nearest valid key is 'epochs'" in done.stdout
    assert "Traceback" not in done.stdout
