"""What a run has left in its folder, read side by side: a file of a remote root costs a round trip each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from flywheel.common.errors import ArtifactError, OutsideError
from flywheel.report.model import REPORT_FILE, Report
from flywheel.runs.plan import Plan
from flywheel.runs.run import CANCELLED_FILE, Run
from flywheel.web import settings
from flywheel.web.airflow_runs import AirflowRun

log = logging.getLogger(__name__)

Given = TypeVar("Given")
Taken = TypeVar("Taken")

_readers = ThreadPoolExecutor(16, thread_name_prefix="flywheel-read")


class Cancelled(BaseModel):
    """Who stopped a run, and when (ISO 8601).

    Attributes:
        clear_number: of the run then; a run that was begun anew since is not cancelled.
    """

    by: str
    at: str
    clear_number: int


def run_of(found: AirflowRun) -> Run:
    """Return a run's folder: in the artifact root that its plan told, else of its experiment or the config.

    Raises:
        ConfigError: nothing but the configuration says where it is, and that is wrong.
    """
    root = found.root
    if not isinstance(root, str):
        root = settings.config_of(found.experiment).artifacts.root
    return Run(settings.artifact_root(root), found.run_id)


def side_by_side(work: Callable[[Given], Taken], given: Iterable[Given]) -> list[Taken]:
    """Do work for each of many things at once, and return what it gave, in order.

    The work must not itself wait for work that it hands to `side_by_side`.
    """
    return list(_readers.map(work, given))


def read_bytes(run: Run, name: str) -> bytes | None:
    """Return a file of a run's folder; None where it is not there."""
    try:
        return run.root.read_bytes(f"{run.path}/{name}")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OutsideError as error:  # nobody is told what a link leads to, nor that there is one
        log.warning("not served: %s", error)
        return None


def read_json(run: Run, name: str) -> Any:
    """Return a JSON file of a run's folder; None where it is not there, or is damaged."""
    data = read_bytes(run, name)
    try:
        return None if data is None else orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def read_report(run: Run) -> Report | None:
    """Return a run's report; None before it is scored."""
    return _read(run, REPORT_FILE, Report)


def read_plan(run: Run) -> Plan | None:
    """Return a run's plan; None before it is made."""
    return _read(run, "plan.json", Plan)


def read_cancelled(run: Run, clear_number: int) -> Cancelled | None:
    """Return who stopped a run; None where nobody did, or it was begun anew since."""
    found = _read(run, CANCELLED_FILE, Cancelled)
    return found if found and found.clear_number == clear_number else None


Model = TypeVar("Model", bound=BaseModel)


def _read(run: Run, name: str, kind: type[Model]) -> Model | None:
    data = read_bytes(run, name)
    if data is None:
        return None
    try:
        return kind.model_validate(orjson.loads(data))
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise ArtifactError(f"{run.root.url}/{run.path}/{name}: damaged: {error}") from None
