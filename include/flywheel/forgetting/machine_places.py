"""What this machine keeps beside the artifact root and the store: Airflow's rows and logs, and state/."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from flywheel.common.errors import FlywheelError
from flywheel.config import Config, resolve_path
from flywheel.config.experiments import experiment_of
from flywheel.forgetting.base import Place, Removable, Whose, place
from flywheel.forgetting.house import House, RunFolder
from flywheel.runs.names import airflow_run, log_folder
from flywheel.teacher.month import sums_file
from flywheel.workloads.experiments import experiments

log = logging.getLogger(__name__)

_DAY = 86_400.0
_UP = "state/up.json"
# Folders that a request for records had while it was read.
_API = "state/api"


class AirflowError(FlywheelError):
    """Airflow's database cannot be asked; the message ends with what it said."""


@dataclass(frozen=True)
class AirflowRuns:
    """Airflow's runs of the DAG: each id with its state and conf, and where their logs are."""

    runs: tuple[tuple[str, str, dict[str, Any]], ...] = ()
    logs: str = ""

    def of(self, house: House, whose: Whose) -> list[tuple[str, str]]:
        """Return the ids and states of a client's runs, as their plans say, else what they began with."""
        planned: dict[str, list[bool]] = {}
        for run in house.runs:
            if run.plan:
                planned.setdefault(run.run_id, []).append(whose.has(run.workload_id, run.client_id))
        return [
            (run_id, state)
            for run_id, state, conf in self.runs
            if (
                all(planned[run_id])
                if run_id in planned
                else whose.has(
                    conf.get("workload_id") or whose.workload_id,
                    conf.get("client_id") or _client_of(run_id, house.config),
                )
            )
        ]


def _client_of(run_id: str, config: Config) -> str:
    """Return whose data a run is of that says nothing and has no plan: its experiment's client's."""
    name = experiment_of(airflow_run(run_id)[0])
    return next((one.client_id for one in experiments() if one.name == name and name), config.client_id)


def airflow_runs(remove: Sequence[str] = ()) -> AirflowRuns | None:
    """Return Airflow's runs after some were removed; None where there is no Airflow here.

    Raises:
        AirflowError: its database cannot be asked.
    """
    environment = _airflow_environment()
    if environment is None:
        return None
    done = subprocess.run(
        [sys.executable, "-m", "flywheel.forgetting.airflow_rows"],
        env=environment,
        input=orjson.dumps({"remove": list(remove)}),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        tail = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise AirflowError(f"Airflow's database cannot be asked for its runs: {''.join(tail)[:500]}")
    told = orjson.loads(done.stdout.splitlines()[-1])
    if told["runs"] is None:
        return None
    rows = tuple((run["run_id"], run["state"], run["conf"]) for run in told["runs"])
    return AirflowRuns(rows, told["logs"])


def airflow_of(house: House) -> AirflowRuns | None:
    """Return Airflow's runs, asked for once for a house; see `airflow_runs`."""
    if "airflow" not in house.remembered:
        house.remembered["airflow"] = airflow_runs()
    found = house.remembered["airflow"]
    assert found is None or isinstance(found, AirflowRuns)
    return found


def _airflow_environment() -> dict[str, str] | None:
    """Return the environment of the configured Airflow, else of that in state/; None: there is none."""
    if "AIRFLOW_HOME" in os.environ or "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" in os.environ:
        return dict(os.environ)
    from flywheel.laptop.home import airflow_home, environment

    return environment() if (airflow_home() / "airflow.db").exists() else None


@place(70)
class Airflow(Place):
    """Airflow's database, and the logs of tasks on this machine."""

    name = "airflow"
    keeps = "the runs of the DAG with what their tasks told each other, and their logs on this machine"

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return the client's runs."""
        found = airflow_of(self.house)
        if found is None:
            return []
        return [
            Removable(self.name, run_id, 1, _bytes_below(Path(found.logs) / log_folder(run_id)), state)
            for run_id, state in found.of(self.house, whose)
        ]

    def remove(self, ids: Iterable[str]) -> None:
        """Remove rows and logs of runs that have ended."""
        airflow_runs(remove=list(ids))


@place(75)
class StatePlace(Place):
    """Files in state/ that name runs, and what killed requests have left there."""

    name = "state"
    keeps = "what labelling has spent for a run that was stopped, and which run `make run` has begun"

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return the runs of the client that a file names."""
        named = {*_json(self._sums), str(_json(Path(resolve_path(_UP))).get("run_id", ""))}
        mine = {run.run_id for run in self.house.runs if whose.has(run.workload_id, run.client_id)}
        return [Removable(self.name, f"run {run_id}") for run_id in sorted(named & mine)]

    def unneeded(self, going: Sequence[RunFolder]) -> list[Removable]:
        """Return what requests that were killed have left."""
        days, folder = self.house.config.retention.scratch_days, Path(resolve_path(_API))
        if not folder.is_dir():
            return []
        return [
            Removable(self.name, f"{_API}/{path.name}", 1, _bytes_below(path), "left by a killed request")
            for path in sorted(folder.iterdir())
            if time.time() - path.stat().st_mtime > days * _DAY
        ]

    def remove(self, ids: Iterable[str]) -> None:
        """Remove entries and folders."""
        runs = set()
        for id in ids:
            if id.startswith("run "):
                runs.add(id.removeprefix("run "))
            elif Path(id).parent == Path(_API):
                shutil.rmtree(resolve_path(id), ignore_errors=True)
        if not runs:
            return
        if (sums := _json(self._sums)).keys() & runs:
            _write(self._sums, {name: value for name, value in sums.items() if name not in runs})
        up = Path(resolve_path(_UP))
        if _json(up).get("run_id") in runs:
            up.unlink(missing_ok=True)

    @property
    def _sums(self) -> Path:
        return sums_file(self.house.config.store)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, data: dict[str, Any]) -> None:
    aside = path.with_name(f"{path.name}.aside")
    aside.write_bytes(orjson.dumps(data))
    os.replace(aside, path)


def _bytes_below(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.exists() else 0
