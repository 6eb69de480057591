"""Planted secrets are nowhere in what a failing night and a good one write, say or show.

Looked at: every file of the project's folder (logs, plans, artifacts, quarantines, reports, fork servers, caches,
scratch), every value of every table of Airflow's and MLflow's databases and of the store (XCom, rendered
templates, serialized DAGs), the answers of both APIs, and the command lines of all processes while it runs.
"""

from __future__ import annotations

import base64
import gzip
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import psutil
import pytest

from tests.integration import airflow_stack
from tests.integration.airflow_stack import PROJECT, Stack, apart, make_home
from tests.integration.leaky import EchoingTeacher
from tests.integration.web_server import environment_of

pytestmark = pytest.mark.slow

# Each with a character that URL and JSON encodings change.
SECRETS = {
    "teacher key, environment": "nvapi+teacher/key-0123456789",
    "teacher key, connection": "conn+teacher/key-9876543210",
    "further endpoint's key, connection": 'second"key+5555/abcdefgh',
    "further endpoint's key, variable": "third+key/6666-ijklmnop",
    "header's key": "header+key/7777-qrstuvwx",
    "judge's key": "judge+key/8888-yzabcdef",
    "MLflow's password": "mlflow+pass/9999-ghijkl",
    "AWS's secret": "aws+secret/1111-mnopqrstu",
    "notifier's token": "notifier+token/2222-vwxyz",
    "store's password": "store+pass/3333-abcdefgh",
    "proxy password": "proxy-pass-4444-ijklmnop",
    "Hub's token": "hub+token/5555-qrstuvwxy",
}


def forms(secret: str) -> set[str]:
    """Return how a secret may stand in a text: as it is, escaped, percent-encoded, in base64 at any offset."""
    found = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    for offset in range(3):
        coded = base64.b64encode(b"x" * offset + secret.encode()).decode()
        inner = coded[4 if offset else 0 : -4]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found


FORMS = {form.encode(): name for name, secret in SECRETS.items() for form in forms(secret)}


def secrets_in(data: bytes, where: str) -> list[str]:
    """Return which secrets are in some bytes, also where these are compressed."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    return [f"{name}: {where}" for form, name in FORMS.items() if form in data]


def in_database(path: Path) -> Iterator[str]:
    """Give the secrets in a SQLite file, value by value: long ones are not in one piece in its bytes."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        database.text_factory = bytes
        names = [
            name.decode() for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        for name in names:
            for row in database.execute(f'SELECT * FROM "{name}"'):
                for value in row:
                    if value is not None:
                        data = value if isinstance(value, bytes) else str(value).encode()
                        yield from secrets_in(data, f"{path.name}, table {name}")


class Watch:
    """Looks at all processes of this machine while a run goes on."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.jobs = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            for process in psutil.process_iter():
                try:
                    command = "\0".join(process.cmdline())
                    self.found |= set(secrets_in(command.encode(), f"the command line of {process.name()}"))
                    if "flywheel.runtimes.local.fork_server" in command:  # which the jobs are forks of
                        self.jobs += 1
                        environment = json.dumps(process.environ(), ensure_ascii=False)
                        self.found |= set(secrets_in(environment.encode(), "the environment of jobs"))
                except psutil.Error:
                    continue


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, EchoingTeacher, Path]]:
    """Give an Airflow with secrets wherever it may have them."""
    folder = make_home(tmp_path_factory.mktemp("secrets") / "home")
    (folder / "tmp").mkdir()
    variables = {
        "PYTHONPATH": str(PROJECT),
        "TMPDIR": str(folder / "tmp"),
        "FLYWHEEL_TEACHER_API_KEY": SECRETS["teacher key, environment"],
        "THIRD_API_KEY": SECRETS["further endpoint's key, variable"],
        "DESK_HEADER": SECRETS["header's key"],
        "JUDGE_API_KEY": SECRETS["judge's key"],
        "MLFLOW_TRACKING_USERNAME": "desk",
        "MLFLOW_TRACKING_PASSWORD": SECRETS["MLflow's password"],
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRETS["AWS's secret"],
        "AIRFLOW_CONN_FLYWHEEL_ELASTICSEARCH": json.dumps(
            {"conn_type": "elasticsearch", "host": "es.test", "password": SECRETS["store's password"]}
        ),
        "AIRFLOW_CONN_CHAT": json.dumps({"conn_type": "http", "password": SECRETS["notifier's token"]}),
        "HTTPS_PROXY": f"http://desk:{SECRETS['proxy password']}@proxy.test:3128",
        "HF_TOKEN": SECRETS["Hub's token"],
    }
    with environment_of(folder):
        stack = Stack(folder, variables)
        teacher = EchoingTeacher(stack.teacher_url)
        try:
            for name, key in (
                ("desk_teacher", "teacher key, connection"),
                ("desk_second", "further endpoint's key, connection"),
            ):
                url = teacher.url.replace("127.0.0.1", "localhost") if name == "desk_second" else teacher.url
                body = {"connection_id": name, "conn_type": "http", "host": url, "password": SECRETS[key]}
                stack.rest("POST", "/connections", body)
            yield stack, teacher, folder
        finally:
            stack.stop()
            teacher.stop()


def experiment(folder: Path, teacher: EchoingTeacher) -> dict[str, Any]:
    base = airflow_stack.experiment()
    token = {"connection": "chat", "field": "password"}
    notifier = {"notifier": "tests.integration.leaky.LeakyNotifier", "arguments": {"token": token}}
    return apart(
        folder / "data",
        sizes=[120],
        nims=[student for student in base["nims"] if student["name"] == "small"],
        teacher={
            "model": "stand-in",
            "connection": "desk_teacher",
            "concurrency": 4,
            "headers": [{"name": "X-Desk", "variable": "DESK_HEADER"}],
            "further_endpoints": [
                {"connection": "desk_second"},
                {"base_url": f"{teacher.url}/third", "key_variable": "THIRD_API_KEY"},
            ],
        },
        llm_judge_config={
            "url": f"{teacher.url}/judge",
            "model_name": "judge",
            "api_key_env": "JUDGE_API_KEY",
        },
        notifications={"on_promotion": [notifier], "on_failure": [notifier], "on_warning": [notifier]},
    )


def answers_of(stack: Stack, run_id: str) -> Iterator[tuple[str, bytes]]:
    """Give what both APIs answer about a run, with the path of each."""
    own, dags = "/flywheel/api", "/api/v2/dags/flywheel"
    run = f"{dags}/dagRuns/{run_id}"
    paths = [
        f"{own}/{path}" for path in ("jobs", f"jobs/{run_id}", "runs", f"runs/{run_id}", "champion", "me")
    ]
    paths += [f"{own}/runs/{run_id}/{path}" for path in ("artifacts", "review")]
    paths += [
        dags,
        f"{dags}/details",
        run,
        f"{run}/taskInstances",
        "/api/v2/connections",
        "/api/v2/variables",
    ]
    paths += [
        "/api/v2/config",
        "/api/v2/importErrors",
        "/api/v2/eventLogs?limit=500",
        "/api/v2/assets/events",
    ]
    listed = stack.http.get(f"{own}/runs/{run_id}/artifacts").json()
    paths += [f"{own}/runs/{run_id}/artifacts/{entry['name']}" for entry in listed["artifacts"]]
    for task in stack.rest("GET", f"/dags/flywheel/dagRuns/{run_id}/taskInstances?limit=200")[
        "task_instances"
    ]:
        path = f"{run}/taskInstances/{task['task_id']}"
        paths += [f"{path}/xcomEntries?map_index={task['map_index']}", f"{path}/{task['map_index']}"]
        if task["try_number"] and task["map_index"] < 0:
            paths.append(f"{path}/logs/{task['try_number']}")
    for path in paths:
        answer = stack.http.get(path)
        assert answer.status_code < 500, path
        yield path, answer.content


def written(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Give all files that the project has, but for its code."""
    code = {folder / name for name in ("dags", "plugins", "include")}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and not code & set(path.parents):
            yield path, path.read_bytes()


def test_no_planted_secret_is_written_said_or_shown(project: tuple[Stack, EchoingTeacher, Path]) -> None:
    stack, teacher, folder = project
    sections = experiment(folder, teacher)
    with Watch() as watch:
        assert stack.turn("bad-night", sections) == "failed"
        teacher.is_night = False
        assert stack.turn("night", sections) == "success", stack.explain("night")
    sent = json.dumps(teacher.headers)
    for name in ("teacher key, environment", "further endpoint's key, connection", "header's key"):
        assert json.dumps(SECRETS[name])[1:-1] in sent, name  # they were used
    assert json.dumps(SECRETS["further endpoint's key, variable"])[1:-1] in sent
    assert watch.jobs

    found = list(watch.found)
    files = 0
    for path, data in written(folder):
        files += 1
        found += secrets_in(data, str(path.relative_to(folder)))
        if data.startswith(b"SQLite format 3"):
            found += in_database(path)
    answers = 0
    for run_id in ("bad-night", "night"):
        for path, content in answers_of(stack, run_id):
            answers += 1
            found += secrets_in(content, f"GET {path}")
    assert (files > 100, answers > 50) == (True, True), (files, answers)
    assert sorted(set(found)) == []

    log = stack.log("bad-night", "label")
    assert "no such key" in log and "***" in log
    assert "\x1b" not in log and "\\u001b" not in log
    assert "the channel refused the token ***" in stack.log("night", "promote")
    modes = {
        path: path.stat().st_mode & 0o077 for path in (folder / "state", folder / "data" / "records.sqlite")
    }
    assert not any(modes.values()), modes
    plans = list((folder / "data" / "artifacts").rglob("plan.json"))
    assert len(plans) == 2 and not any(path.stat().st_mode & 0o077 for path in plans)
