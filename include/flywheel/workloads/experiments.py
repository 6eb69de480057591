"""All experiments of a user as they stand in their files, and whose champion each one makes.

A champion is known by workload and client. So no two experiments have both in common: of two that do,
config.yaml stays, else the first by name, and the other one is wrong.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import yaml

from flywheel.common.errors import ConfigError, FlywheelError
from flywheel.config import Config, load_config
from flywheel.config.experiments import FOLDER, dag_id_of, experiment_names
from flywheel.config.loading import default_config_path, files_of, find_path, project_home
from flywheel.config.yaml_text import MAX_BYTES
from flywheel.workloads.workload import Workload

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEFAULT_CLIENT = str(Config.model_fields["client_id"].default)


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment as its file says.

    Attributes:
        name: of experiments/NAME.yaml; empty: config.yaml's.
        config: None where the file is wrong.
        workload_id: of its champion's records; empty where the file is wrong, as is `client_id`.
        error: what is wrong with it.
    """

    name: str
    config: Config | None
    workload_id: str = ""
    client_id: str = ""
    error: str = ""

    @property
    def dag_id(self) -> str:
        """The DAG whose runs are its."""
        return dag_id_of(self.name)

    @property
    def file(self) -> Path:
        """Where it is written."""
        return file_of(self.name)


_lock = threading.Lock()
_read: dict[Path, tuple[dict[Path, tuple[int, int] | None], Experiment]] = {}


def file_of(experiment: str) -> Path:
    """Return where an experiment is written."""
    return project_home() / FOLDER / f"{experiment}.yaml" if experiment else default_config_path()


def experiments() -> list[Experiment]:
    """Return all experiments, config.yaml's first; one is read again when a file of it has changed."""
    names = ["", *experiment_names(project_home())]
    with _lock:
        found = [_known(name) for name in names]
    firsts: dict[tuple[str, str], Experiment] = {}
    told = []
    for one in found:
        first = firsts.setdefault((one.workload_id, one.client_id), one) if not one.error else one
        if first is not one:
            one = Experiment(one.name, None, error=_clash(one.name, first))
        told.append(one)
    return told


def experiment_for(workload_id: str, client_id: str) -> str:
    """Return the experiment of a workload and client; config.yaml's where no file is of both."""
    whose = (workload_id, client_id)
    return next((one.name for one in experiments() if (one.workload_id, one.client_id) == whose), "")


def workload_named(workload_id: str) -> Workload | None:
    """Return the workload of that id which an experiment has; None where none has."""
    for one in experiments():
        if one.config is not None and one.workload_id == workload_id:
            return Workload.load(one.config.workload)
    return None


def check_owner(experiment: str, config: Config) -> None:
    """Check that no experiment before this one is of the same workload and client.

    Whenever a DAG file is read this is asked, so others' files are only looked into, and one is read where it
    has the same client. One that is wrong is its own DAG's matter.

    Raises:
        ConfigError: one is; the message names both files.
        WorkloadError: the workload file is wrong.
    """
    before = ["", *experiment_names(project_home())]
    before = before[: before.index(experiment)] if experiment in before else []
    rivals = [name for name in before if _client_in(name) == config.client_id]
    own = Workload.load(config.workload).id if rivals else ""
    for rival in map(_read_now, rivals):
        if (rival.workload_id, rival.client_id) == (own, config.client_id):
            raise ConfigError(_clash(experiment, rival))


def _known(name: str) -> Experiment:
    """Return an experiment, read anew where one of its files has changed."""
    there = _read.get(file_of(name))
    if there is not None and all(_state(file) == state for file, state in there[0].items()):
        return there[1]
    before = {file: _state(file) for file in [file_of(name), *files_of(name)]}
    found = _read_now(name)
    if found.config is not None:
        workload = Path(find_path(found.config.workload))
        before[workload] = _state(workload)
    _read[file_of(name)] = (before, found)
    return found


def _state(file: Path) -> tuple[int, int] | None:
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def _read_now(name: str) -> Experiment:
    try:
        config = load_config(experiment=name)
        return Experiment(name, config, Workload.load(config.workload).id, config.client_id)
    except FlywheelError as error:
        return Experiment(name, None, error=str(error))


def _client_in(name: str) -> str | None:
    """Return the client of an experiment as its own file says; None where the file cannot be read."""
    try:
        text = file_of(name).read_bytes()[:MAX_BYTES]
        if not name and b"extends" in text:
            return _read_now(name).client_id
        if b"client_id" not in text:
            return name or _DEFAULT_CLIENT
        data = yaml.load(text, Loader=_Loader)  # noqa: S506  a safe one
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return None
    return str(data.get("client_id", name or _DEFAULT_CLIENT)) if isinstance(data, dict) else None


def _clash(experiment: str, first: Experiment) -> str:
    return (
        f"{file_of(experiment)}: client_id: {first.file} is of client {first.client_id!r} and workload "
        f"{first.workload_id!r} already, and a champion is of one experiment; set another client_id or "
        "workload here"
    )
