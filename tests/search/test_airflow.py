"""The whole DAG with its records in Elasticsearch, in an Airflow that keeps its tasks' logs there, too.

The store's connection is one of Airflow's own database, as a person adds it in the UI. The drill, three nights
of real headlines backfilled with either store, is one of `make drills` (15 minutes on 2 cores); its data
are not part of the project, FLYWHEEL_SHARED_DATA names their folder.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.store import ElasticsearchConfig, StoreConfig
from flywheel.curation.result import CurateResult
from flywheel.laptop.home import airflow_home
from flywheel.laptop.processes import free_port
from flywheel.runs.run import Run
from flywheel.stages.label import LabelResult
from flywheel.stores import open_store
from flywheel.stores.elasticsearch.client import connect
from tests.integration.airflow_stack import Stack, apart, make_home, report_of, table_of, wait_for
from tests.integration.test_real_data import HEADLINES, settings
from tests.search.node import SearchNode
from tests.search.running import VARIABLE
from tests.unit.store_contract import ALWAYS

LOGS = "airflow-logs"
NIGHTS = ("2019-03-04", "2019-03-06")
SCOPE = ("news_classifier", "test")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def stack(node: SearchNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Give an Airflow with a connection to the node, and the settings of docs/elasticsearch.md for its logs."""
    folder = make_home(tmp_path_factory.mktemp("project") / "home")
    user = f"{quote('logs', safe='')}:{quote(node.password('logs'), safe='')}"
    variables = {
        "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
        "AIRFLOW__ELASTICSEARCH__HOST": f"https://{user}@localhost:{node.port}",
        "AIRFLOW__ELASTICSEARCH__WRITE_TO_ES": "True",
        "AIRFLOW__ELASTICSEARCH__JSON_FORMAT": "True",
        "AIRFLOW__ELASTICSEARCH__TARGET_INDEX": LOGS,
        "AIRFLOW__ELASTICSEARCH__INDEX_PATTERNS": f"{LOGS}*",
        "AIRFLOW__ELASTICSEARCH_CONFIGS__CA_CERTS": str(node.ca),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYWHEEL_HOME", str(folder))
        patch.setenv("FLYWHEEL_CONFIG", str(folder / "config.yaml"))
        patch.delenv(VARIABLE, raising=False)
        running = Stack(folder, variables)
        try:
            connection = json.loads(node.connection())
            body = {
                "connection_id": "flywheel_elasticsearch",
                **connection,
                "extra": json.dumps(connection["extra"]),
            }
            running.rest("POST", "/connections", body)
            yield running
        finally:
            running.stop()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Give the folder of a test's records and artifacts."""
    return tmp_path / "data"


def in_search(folder: Path, index: str) -> dict[str, Any]:
    """Return overrides that keep a test's records in the node, and all else in a folder of its own."""
    overrides = apart(folder)
    overrides["store"] = {"type": "elasticsearch", "elasticsearch": {"index": index}}
    return overrides


@pytest.fixture(scope="module")
def turned(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a run with its records in the node."""
    folder = tmp_path_factory.mktemp("turned")
    state = stack.turn("search", in_search(folder, "flywheel-dag"), students=["small"], sizes=[40])
    assert state == "success", stack.explain("search")
    return folder


def test_the_wheel_turns_and_its_table_is_that_of_sqlite(
    stack: Stack, turned: Path, data: Path, connected: SearchNode
) -> None:
    assert stack.turn("sqlite", apart(data), students=["small"], sizes=[40]) == "success", stack.explain(
        "sqlite"
    )
    one, other = report_of(turned, "search"), report_of(data, "sqlite")
    assert table_of(one) == table_of(other)
    assert all(figure is not None for row in table_of(one).values() for figure in row)
    with (
        open_store(StoreConfig(path=str(data / "records.sqlite"))) as sqlite,
        open_store(
            StoreConfig(type="elasticsearch", elasticsearch=ElasticsearchConfig(index="flywheel-dag"))
        ) as search,
    ):
        expected = list(sqlite.read(*SCOPE, ALWAYS))
        assert len(expected) > 300
        assert list(search.read(*SCOPE, ALWAYS)) == expected
    assert not (turned / "records.sqlite").exists()


def test_no_secret_of_the_connection_is_in_logs_templates_or_artifacts(
    stack: Stack, node: SearchNode, turned: Path
) -> None:
    shown = []
    for task in stack.tasks("search"):
        path = stack.task_path("search", task.full_id, task.map_index)
        index = max(task.map_index, -1)
        shown.append(json.dumps(stack.rest("GET", path)))  # with its rendered templates
        shown.append(json.dumps(stack.rest("GET", f"{path.rsplit('/', 1)[0]}/xcomEntries?map_index={index}")))
    assert sum("rendered_fields" in text for text in shown) == len(shown) / 2
    files = [*(airflow_home() / "logs").rglob("*.log"), *turned.rglob("*.json*"), *turned.rglob("*.html")]
    assert any("task_id=ingest" in str(file) for file in files)
    shown += [file.read_text(errors="replace") for file in files]
    for user in ("flywheel", "logs"):
        password = node.password(user)
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        for secret in (password, quote(password, safe=""), basic, json.dumps(password)[1:-1]):
            assert not [text for text in shown if secret in text]


def test_a_wrong_password_in_airflows_connection_is_told_in_the_log_of_the_task(
    stack: Stack, data: Path, node: SearchNode
) -> None:
    stack.rest(
        "POST",
        "/connections",
        {
            **json.loads(node.connection(password="WRONG-p@ss")),
            "connection_id": "mistaken",
            "extra": json.dumps({"ca_certs": str(node.ca)}),
        },
    )
    overrides = in_search(data, "flywheel-mistaken")
    overrides["store"]["elasticsearch"]["connection"] = "mistaken"
    stack.trigger("mistaken", overrides, students=["small"], sizes=[40])
    wait_for(lambda: stack.states("mistaken").get("label") in ("up_for_retry", "failed"), 240)
    log = stack.log("mistaken", "label")
    stack.rest("PATCH", "/dags/flywheel/dagRuns/mistaken", {"state": "failed"})  # its retries tell no more
    assert "does not accept the user 'flywheel' with the password of the connection 'mistaken'" in log
    assert "WRONG" not in log


def test_task_logs_are_read_from_elasticsearch_where_no_file_has_them(
    stack: Stack, turned: Path, connected: SearchNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = [task for task in stack.tasks("search") if task.name == "ingest"]
    file = airflow_home() / "logs" / "dag_id=flywheel" / "run_id=search" / "task_id=ingest"
    lines = (file / f"attempt={task.attempt}.log").read_text().splitlines()
    file.rename(file.with_name("moved"))

    def from_search() -> list[str]:
        answer = stack.rest("GET", f"{stack.task_path('search', 'ingest')}/logs/{task.attempt}")
        return [part["event"] for part in answer["content"] if part.get("event")]

    try:
        expected = [json.loads(line)["event"] for line in lines]
        shown = wait_for(from_search)
        assert shown[-len(expected) :] == expected  # before them stands where they are from
        monkeypatch.setenv(VARIABLE, connected.connection("logs"))
        assert connect(ElasticsearchConfig()).client.count(index=LOGS)["count"] > len(lines)
    finally:
        file.with_name("moved").rename(file)


@pytest.mark.drill
@pytest.mark.skipif(not HEADLINES.exists(), reason=f"{HEADLINES} is not there: set FLYWHEEL_SHARED_DATA")
def test_three_nights_of_real_headlines_give_the_same_tables_as_with_sqlite(
    stack: Stack, tmp_path: Path
) -> None:
    port = free_port()
    stack.launcher.start("replay", stack.teacher(HEADLINES, port))
    first, last = NIGHTS
    tables: dict[str, list[Any]] = {}
    for name in ("sqlite", "elasticsearch"):
        folder = tmp_path / name
        overrides = settings(folder, port)
        overrides["nims"] = overrides["nims"][:1]
        if name == "elasticsearch":
            overrides["store"] = in_search(folder, "flywheel-drill")["store"]
        before = stack.teacher_calls(port)
        runs = stack.backfill(
            first,
            f"{last}T23:59:59",
            overrides,
            *("--max-active-runs", "2"),
            students=[],
            sizes=[500, 1000, 2000],
        )
        assert len(runs) == 3
        root = ArtifactRoot(str(folder / "artifacts"))
        asked = 0
        tables[name] = []
        for run_id in runs:
            assert stack.wait(run_id, 1500) == "success", stack.explain(run_id)
            run = Run(root, run_id)
            labelled, curated = run.load("stages/label", LabelResult), run.load("stages/curate", CurateResult)
            asked += labelled.asked
            tables[name].append((curated.dataset, curated.used, table_of(report_of(folder, run_id))))
            print(f"{name} {run_id}: {labelled.asked} asked, {labelled.found} found; {tables[name][-1]}")
        # Airflow allows one backfill at a time, and finds out after a while that one is over.
        wait_for(lambda: all(one["completed_at"] for one in stack.backfills()), 300)
        for run_id in runs:
            # The next store has the same nights, and Airflow knows a night once.
            stack.http.delete(f"/api/v2/dags/flywheel/dagRuns/{quote(run_id)}").raise_for_status()
        assert asked == stack.teacher_calls(port) - before
    assert tables["elasticsearch"] == tables["sqlite"]
    assert all(len(table) == 3 for _, _, table in tables["sqlite"])
