"""What `up` asks of Airflow, through its public REST API."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

from flywheel.common.errors import FlywheelError
from flywheel.config.experiments import dag_file_of
from flywheel.laptop.home import USER, password
from flywheel.runs.names import airflow_run

DONE = ("success", "failed")


class RestError(FlywheelError):
    """Airflow refuses what was asked, or does not answer.

    Args:
        status: of HTTP; 0: no answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class TaskState:
    """A task of a run.

    Attributes:
        task: its id without the group: `customize`.
        index: the name of its map index, such as `small @ 300`; empty where it has none.
        state: as Airflow calls it; `none` before it is looked at.
    """

    task: str
    full_id: str
    map_index: int
    index: str
    state: str
    seconds: float | None
    attempt: int

    @property
    def name(self) -> str:
        """The name for people: `customize small @ 300`."""
        return f"{self.task} {self.index}".strip()

    @property
    def is_failed(self) -> bool:
        """Whether it failed itself."""
        return self.state == "failed"


class AirflowApi:
    """The REST API of the Airflow that `up` started.

    Args:
        url: where it listens.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._token = ""
        self._opener = build_opener(ProxyHandler({}))  # no proxy stands between this machine and itself

    def run_state(self, run_id: str) -> str | None:
        """Return the state of a run; None while the API does not answer, or there is no such run."""
        answer = self._get(_path(run_id))
        return str(answer["state"]) if answer else None

    def tasks(self, run_id: str) -> list[TaskState]:
        """Return the tasks of a run; none while the API does not answer."""
        answer = self._get(f"{_path(run_id)}/taskInstances?limit=1000")
        found = []
        for entry in (answer or {}).get("task_instances", []):
            index = entry["map_index"]
            found.append(
                TaskState(
                    task=entry["task_id"].rsplit(".", 1)[-1],
                    full_id=entry["task_id"],
                    map_index=index,
                    index=(entry.get("rendered_map_index") or f"#{index}") if index >= 0 else "",
                    state=entry["state"] or "none",
                    seconds=entry.get("duration"),
                    attempt=entry.get("try_number") or 1,
                )
            )
        return found

    def import_errors(self, experiment: str) -> list[str]:
        """Return why an experiment's DAG cannot be imported; none while the API does not answer."""
        answer = self._get("/api/v2/importErrors?limit=1000")
        own = dag_file_of(experiment)
        return [
            str(entry["stack_trace"])
            for entry in (answer or {}).get("import_errors", [])
            if str(entry["filename"]).rsplit("/", 1)[-1] == own
        ]

    def fail_run(self, run_id: str) -> None:
        """End a run that nobody waits for any more."""
        self._send("PATCH", _path(run_id), {"state": "failed"}, self._login())

    def ask(self, method: str, path: str, body: Any = None, *, seconds: float = 600) -> Any:
        """Return the answer to a request that must be answered.

        Raises:
            RestError: it is refused, or the API does not answer.
        """
        token = self._login()
        if not token:
            raise RestError(
                f"Airflow does not answer at {self.url}: start it by `make run` in another terminal", 0
            )
        try:
            with self._opener.open(self._request(method, path, body, token), timeout=seconds) as answer:
                return json.load(answer)
        except HTTPError as error:
            raise RestError(_detail(error), error.code) from None
        except (URLError, HTTPException, OSError, ValueError) as error:
            raise RestError(f"{self.url}{path.partition('?')[0]} does not answer: {error}", 0) from None

    def _get(self, path: str) -> Any:
        return self._send("GET", path, None, self._login())

    def _login(self) -> str:
        if not self._token:
            answer = self._send("POST", "/auth/token", {"username": USER, "password": password()})
            self._token = answer["access_token"] if answer else ""
        return self._token

    def _send(self, method: str, path: str, body: Any = None, token: str = "") -> Any:
        try:
            with self._opener.open(self._request(method, path, body, token), timeout=10) as answer:
                return json.load(answer)
        except HTTPError as error:
            if error.code == 401:
                self._token = ""
            return None
        except (URLError, HTTPException, OSError, ValueError):
            return None

    def _request(self, method: str, path: str, body: Any, token: str) -> Request:
        request = Request(f"{self.url}{path}", method=method)  # noqa: S310  the URL is ours
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        return request


def _path(run_id: str) -> str:
    """Return the path of a run in Airflow's own API."""
    dag_id, airflow_id = airflow_run(run_id)
    return f"/api/v2/dags/{dag_id}/dagRuns/{quote(airflow_id, safe='')}"


def _detail(error: HTTPError) -> str:
    """Return what an answer says is wrong."""
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"the server answers with status {error.code}"


def wait_until_it_answers(url: str, seconds: float) -> bool:
    """Wait until a server on this machine answers a GET with success; return False if it does not in time."""
    opener = build_opener(ProxyHandler({}))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with opener.open(url, timeout=seconds):
                return True
        except (URLError, HTTPException, OSError):
            time.sleep(0.05)
    return False
