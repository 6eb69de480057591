"""`logging_config.level`: of the command line, a run's tasks, their jobs and the API."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from flywheel.artifacts.root import ArtifactRoot
from flywheel.cli.main import app
from flywheel.config import loading
from flywheel.config.logs import use_level
from flywheel.jobs.spec import CustomizeSpec
from flywheel.runs.run import Run
from flywheel.runtimes import job_command
from flywheel.runtimes.context import run_of, share_run
from flywheel.stages import customize as customize_stage
from flywheel.web import settings
from tests.unit.finished_run import config_of, plan_of

OWN = logging.getLogger("flywheel")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    levels, handlers = (OWN.level, root.level), root.handlers[:]
    yield
    OWN.setLevel(levels[0])
    root.setLevel(levels[1])
    root.handlers[:] = handlers


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_told", set())


def config_file(folder: Path, level: str) -> Path:
    path = folder / f"{level}.yaml"
    # A key of the blueprint without effect is named in the log, as a warning.
    path.write_text(
        f"nims: [{{model_name: a/b}}]\nlogging_config: {{level: {level}}}\n"
        f"mlflow_config: {{enabled: true}}\nartifacts: {{root: {folder}}}\n"
    )
    return path


def said_by_the_command_line(path: Path, *options: str) -> str:
    result = CliRunner().invoke(app, [*options, "workload"], env={"FLYWHEEL_CONFIG": str(path)})
    return f"{result.stderr}{result.exception or ''}"


def test_the_command_line_logs_from_the_level_of_the_config_on(tmp_path: Path) -> None:
    told = "WARNING " + str(config_file(tmp_path, "WARNING"))
    assert told in said_by_the_command_line(config_file(tmp_path, "WARNING"))
    quiet = config_file(tmp_path, "ERROR")
    assert "WARNING" not in said_by_the_command_line(quiet)
    assert "WARNING" in said_by_the_command_line(config_file(tmp_path, "CRITICAL"), "--verbose")


def test_a_wrong_level_is_an_error_of_the_command_that_reads_it(tmp_path: Path) -> None:
    said = said_by_the_command_line(config_file(tmp_path, "LOUD"))
    assert "logging_config.level" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("level", "lines"), [("DEBUG", "dwe"), ("INFO", "we"), ("ERROR", "e")])
def test_a_job_logs_as_its_spec_says(
    level: str,
    lines: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def customize(spec: CustomizeSpec, progress: object) -> CustomizeSpec:
        log = logging.getLogger("flywheel.stages.customize")
        log.debug("d"), log.warning("w"), log.error("e")
        return spec

    monkeypatch.setattr(customize_stage, "customize", customize)
    student = {"model_name": "acme/one", "weights": str(tmp_path / "weights")}
    asked = {
        "artifact_root": str(tmp_path),
        "student": student,
        "dataset": "d",
        "size": 10,
        "log_level": level,
    }
    spec = tmp_path / "customize.spec.json"
    spec.write_text(json.dumps(asked))
    assert job_command.main(["customize", str(spec)]) == 0
    assert [line[-1] for line in capsys.readouterr().err.splitlines()] == list(lines)


def test_each_task_of_a_run_logs_as_the_runs_config_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(config_of(str(tmp_path), "unused"))
    quiet = plan.config.model_copy(
        update={"logging_config": plan.config.logging_config.model_copy(update={"level": "ERROR"})}
    )
    run = Run.create(plan.model_copy(update={"config": quiet}))
    pushed: dict[str, Any] = {}
    task = SimpleNamespace(
        xcom_push=lambda key, value: pushed.update({key: value}),
        xcom_pull=lambda task_ids, key: pushed[key],
    )
    share_run({"ti": task}, run, run.root.url)
    for process in ("of the task plan", "of a later task"):
        if process == "of a later task":
            use_level("INFO")
            run_of({"ti": task, "run_id": run.run_id})
        logging.getLogger("flywheel.stages.pipeline").warning("not told")
        logging.getLogger("flywheel.stages.pipeline").error("told %s", process)
    assert caplog.messages == ["told of the task plan", "told of a later task"]


def test_lines_finer_than_the_level_of_airflow_get_through_and_the_libraries_do_not(tmp_path: Path) -> None:
    said: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    use_level("DEBUG")
    logging.getLogger("flywheel.teacher").debug("ours")
    logging.getLogger("httpcore.connection").debug("theirs")
    assert said == ["ours"]


def test_the_api_logs_as_the_file_of_now_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for level in ("ERROR", "DEBUG"):
        monkeypatch.setenv("FLYWHEEL_CONFIG", str(config_file(tmp_path, level)))
        settings.config()
        assert logging.getLevelName(OWN.level) == level
    assert ArtifactRoot(settings.config().artifacts.root).url == str(tmp_path)
