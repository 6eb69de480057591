"""MLflow on a real SQLite file: nested runs, one registered version for an adapter, nothing twice."""

import base64
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from flywheel.common.redaction import register_environment
from flywheel.config.schema import MlflowConfig
from flywheel.promotion import tracking
from flywheel.promotion.mlflow_client import TrackingError, make_database, open_client, tracking_uri
from flywheel.promotion.registry import model_name, register
from flywheel.report import read_report
from flywheel.runs.plan import Plan
from flywheel.stages import pipeline as wheel
from tests.unit.finished_run import TABLE_1, config_of, finish, plan_of


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A SQLite file for all tests here: its tables take 2 s to make."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('tracking')}/state/mlflow.db"
    with open_client(uri) as client:
        client.search_experiments(max_results=1)
    yield uri


def test_its_file_is_made_ahead_and_a_server_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_database(MlflowConfig(tracking_uri="http://127.0.0.1:1"))
    assert not (tmp_path / "state").exists()
    make_database(MlflowConfig())
    with closing(sqlite3.connect(tmp_path / "state" / "mlflow.db")) as made:
        assert made.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)


@pytest.fixture(autouse=True)
def no_png(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flywheel.stages.score.draw_png", lambda report, path: path.write_bytes(b"png"))


def plan_in(uri: str, tmp_path: Path, **arguments: object) -> Plan:
    return plan_of(config_of(str(tmp_path / "artifacts"), uri, prefix=tmp_path.name), **arguments)


def runs_of(uri: str, plan: Plan) -> dict[str, MlflowRun]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(tracking.experiment_name(plan))
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert len(runs) == len(found)
    return runs


def test_runs_are_nested_by_student_and_size(uri: str, tmp_path: Path) -> None:
    plan = plan_in(uri, tmp_path)
    f1 = {pair: value for pair, value in TABLE_1.items() if pair != ("8b", 25)}
    run = finish(plan, f1=f1, failed={("8b", 25): "killed"})
    wheel.score(run)
    runs = runs_of(uri, plan)
    assert len(runs) == 1 + 3 + 9
    top, student, candidate = runs["night-1"], runs["1b"], runs["1b @ 25"]
    assert student.data.tags["mlflow.parentRunId"] == top.info.run_id
    assert candidate.data.tags["mlflow.parentRunId"] == student.info.run_id
    assert candidate.data.params["size"] == "25"
    assert candidate.data.params["model_name"] == "meta/llama-1b"
    assert candidate.data.metrics["f1_weighted"] == 0.9
    assert candidate.data.metrics["val_loss"] == 1.0
    assert student.data.metrics["f1_weighted"] == 0.08
    assert top.data.tags["flywheel.choice"] == "1b @ 25"
    assert top.data.tags["mlflow.note.content"].startswith("8 candidates were tested, from the largest size")
    assert top.data.tags["flywheel.doubts"] == "none"
    told = top.data.metrics
    assert (told["candidates_tested"], told["error_rate"], told["score_asked"]) == (8, 0.016, 0.899)
    assert told["score_low"] == candidate.data.metrics["score_low"] < 0.9
    assert candidate.data.metrics["test_error_rate"] < 0.016
    assert (candidate.data.tags["flywheel.passes"], runs["1b @ 5"].data.tags["flywheel.passes"]) == (
        "yes",
        "no",
    )
    assert (candidate.info.status, runs["8b @ 25"].info.status) == ("FINISHED", "FAILED")
    assert runs["8b @ 25"].data.tags["mlflow.note.content"] == "customize: killed"
    client = MlflowClient(uri)
    loss = client.get_metric_history(candidate.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in loss][:2] == [(1, 2.0), (2, 1.0)]
    curve = client.get_metric_history(student.info.run_id, "f1_weighted_by_records")
    assert sorted((point.step, point.value) for point in curve) == [(5, 0.29), (10, 0.78), (25, 0.90)]
    names = {file.path for file in client.list_artifacts(top.info.run_id)}
    assert names == {"learning_curve.png", "report.html", "report.json"}
    tracked = read_report(run.root).tracking
    assert tracked is not None
    assert tracked.run_id == top.info.run_id


def test_scoring_and_promoting_twice_adds_nothing(uri: str, tmp_path: Path) -> None:
    plan = plan_in(uri, tmp_path)
    run = finish(plan)
    client = MlflowClient(uri)
    seen = []
    for _ in range(2):
        wheel.score(run)
        champion = wheel.promote(run).champion
        assert champion is not None
        runs = runs_of(uri, plan)
        history = client.get_metric_history(runs["1b @ 25"].info.run_id, "train_loss")
        versions = client.search_model_versions(f"name = '{model_name(plan)}'")
        seen.append((sorted(runs), len(history), [version.version for version in versions], champion))
    assert seen[0] == seen[1]
    assert seen[0][1:3] == (12, [1])
    version = client.get_model_version_by_alias(model_name(plan), "champion")
    assert version.tags["flywheel.adapter"] == champion.adapter
    folder = (tmp_path / "artifacts/champions/news_classifier/default/mlflow").as_uri()
    assert version.source.startswith(f"{folder}/")
    assert version.run_id == runs["1b @ 25"].info.run_id
    assert champion.registry is not None
    assert (champion.registry.model, champion.registry.version) == (version.name, str(version.version))
    folder = MlflowClient(uri).get_run(runs["night-1"].info.run_id).info.artifact_uri
    assert "is the new champion" in Path(folder.removeprefix("file://"), "report.html").read_text()


def test_a_registry_that_lost_the_champion_gets_it_back(uri: str, tmp_path: Path) -> None:
    plan = plan_in(uri, tmp_path)
    run = finish(plan)
    wheel.score(run)
    wheel.promote(run)
    client, name = MlflowClient(uri), model_name(plan)
    client.delete_registered_model(name)
    wheel.score(run)
    wheel.promote(run)
    assert client.get_model_version_by_alias(name, "champion").version == 1
    wheel.score(run)
    tracked = read_report(run.root).tracking
    champion = wheel.promote(run).champion
    assert tracked is not None
    assert champion is not None
    assert tracked.registered == champion.adapter


def test_the_alias_moves_to_the_next_champion_and_back(uri: str, tmp_path: Path) -> None:
    first = plan_in(uri, tmp_path)
    wheel.score(finish(first))
    report = read_report(finish(first).root)
    client, name = MlflowClient(uri), model_name(first)
    for size, version in ((25, 1), (10, 2), (25, 1)):
        row = report.candidate("1b", size)
        assert row is not None
        assert register(first, row, "because").version == str(version)
        assert client.get_model_version_by_alias(name, "champion").version == version


def test_ids_with_quotes_are_taken_as_they_are(uri: str, tmp_path: Path) -> None:
    plan = plan_in(uri, tmp_path, run_id="it's 1", students=["1b"], sizes=[25], client_id="o'neil/desk:1")
    run = finish(plan)
    wheel.score(run)
    wheel.score(run)
    result = wheel.promote(run)
    assert len(runs_of(uri, plan)) == 3
    assert result.champion is not None
    assert result.champion.registry is not None
    assert "news_classifier.o-neil-desk-1-" in result.champion.registry.model


def test_a_server_that_is_down_costs_seconds_and_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    plan = plan_in("http://127.0.0.1:9", tmp_path, students=["1b"], sizes=[25])
    run = finish(plan)
    started = time.monotonic()
    wheel.score(run)
    assert wheel.promote(run).promoted
    assert time.monotonic() - started < 25
    warnings = read_report(run.root).warnings
    assert [warning.split(":")[0] for warning in warnings] == [
        "Not tracked",
        "Not in the MLflow model registry",
    ]
    assert "check mlflow_config.tracking_uri" in warnings[0]
    assert "secret" not in str(warnings)


def test_the_uri_is_the_configs_then_the_environments_then_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(MlflowConfig()).startswith("sqlite:////")
    assert tracking_uri(MlflowConfig()).endswith("/state/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri(MlflowConfig()) == "http://mlflow:5000"
    assert tracking_uri(MlflowConfig(tracking_uri="http://mine:1")) == "http://mine:1"


def test_a_file_that_is_no_database_is_a_tracking_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to look like a file of one")
    with (
        pytest.raises(TrackingError, match=r"MLflow at sqlite:///.*mlflow\.db"),
        open_client(f"sqlite:///{tmp_path}/mlflow.db") as client,
    ):
        client.search_experiments(max_results=1)


def test_a_server_that_echoes_the_password_tells_it_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    password = "mlflow+pass/9999"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "desk")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    sent: list[str] = []

    class Echo(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.headers["Authorization"])
            said = f"\x1b[31mno: {password} {self.headers['Authorization']}".encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    register_environment(["MLFLOW_TRACKING_PASSWORD"])
    with (
        pytest.raises(TrackingError) as caught,
        open_client(f"http://127.0.0.1:{server.server_address[1]}") as client,
    ):
        client.search_experiments()
    server.shutdown()
    server.server_close()
    coded = base64.b64encode(f"desk:{password}".encode()).decode()
    assert sent == [f"Basic {coded}"]
    assert "no: ***" in str(caught.value) and "\\x1b[31m" in str(caught.value)
    assert password not in str(caught.value) and coded[8:] not in str(caught.value)
