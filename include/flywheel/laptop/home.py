"""Airflow's home on this machine, state/airflow: its settings, secrets and metadata database.

The settings are those of one user on one machine: SQLite and LocalExecutor, so that no server has to be
installed; short intervals, so that a task starts soon after the one before it; nothing reported anywhere.
They are written anew at each start, because the ports may differ; the secrets stay. The file serves the
`airflow` command too: `./airflow dags list` (`flywheel.laptop.command`).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
from configparser import ConfigParser
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from flywheel.common.errors import ConfigError
from flywheel.config import load_config
from flywheel.config.experiments import experiment_names
from flywheel.config.loading import checkout, files_of, project_home, resolve_path
from flywheel.config.private import private_folder
from flywheel.promotion.mlflow_client import make_database

USER = "admin"
UI_PORT = 8080  # or the next free one
# A DAG file for each experiment: flywheel.orchestration.bundle.
BUNDLE = {
    "name": "dags-folder",
    "classpath": "flywheel.orchestration.bundle.ExperimentsBundle",
    "kwargs": {},
}
LOCAL_SETTINGS = "from flywheel.laptop.database import create_metadata_engine\n"


@dataclass(frozen=True)
class Ports:
    """Where the UI with the public API, and the API of the tasks, listen."""

    ui: int = UI_PORT
    tasks: int = 8081


def airflow_home() -> Path:
    """Return the folder of Airflow's settings, database and logs."""
    return Path(resolve_path("state/airflow"))


def environment() -> dict[str, str]:
    """Return the environment for Airflow's processes: ours, without settings of another Airflow."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AIRFLOW__") and name != "AIRFLOW_HOME"
    }
    # Between Airflow's processes there is no proxy.
    local = ("127.0.0.1", "localhost")
    proxies = {name: ",".join(filter(None, (kept.get(name), *local))) for name in ("NO_PROXY", "no_proxy")}
    return {
        **kept,
        **proxies,
        "AIRFLOW_HOME": str(airflow_home()),
        "FLYWHEEL_HOME": str(project_home()),
        "PYTHONUNBUFFERED": "1",
    }


def write_settings(ports: Ports) -> None:
    """Write airflow.cfg, and the settings that Airflow takes from Python."""
    home = airflow_home()
    private_folder(home)
    lines = [f"# Written by `flywheel up` at each start; see {Path(__file__).name}."]
    for section, options in _sections(ports).items():
        lines += [
            "",
            f"[{section}]",
            *(f"{key} = {str(value).replace('%', '%%')}" for key, value in options.items()),
        ]
    _write_private(home / "airflow.cfg", "\n".join(lines) + "\n")
    (home / "config").mkdir(exist_ok=True)
    _write_private(home / "config" / "airflow_local_settings.py", LOCAL_SETTINGS)


def ui_port() -> int:
    """Return the port of the UI that was started last."""
    settings = ConfigParser(interpolation=None)
    settings.read(airflow_home() / "airflow.cfg")
    return settings.getint("api", "port", fallback=UI_PORT)


def _sections(ports: Ports) -> dict[str, dict[str, object]]:
    """Return the options of airflow.cfg by section."""
    home, kept = airflow_home(), _secrets()
    return {
        "core": {
            "dags_folder": checkout() / "dags",
            "plugins_folder": checkout() / "plugins",
            "load_examples": False,
            "executor": "LocalExecutor",
            # Jobs wait for their places themselves (runtime.parallel): a few tasks that already wait fill a
            # place at once when it gets free. More workers than that, because what waits for a worker has a
            # token that runs out.
            "max_active_tasks_per_dag": 6,
            "parallelism": 16,
            "dags_are_paused_at_creation": False,
            "fernet_key": kept["fernet_key"],
            "execution_api_server_url": f"http://127.0.0.1:{ports.tasks}/execution/",
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": _passwords_file(),
            "hostname_callable": "socket.gethostname",
        },
        "database": {
            "sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}",
            "check_migrations": False,  # `prepare` has made them
        },
        "api": {
            "host": "127.0.0.1",
            "port": ports.ui,
            "base_url": f"http://localhost:{ports.ui}",
            "secret_key": kept["api_secret"],
        },
        "api_auth": {"jwt_secret": kept["jwt_secret"]},
        "scheduler": {
            # A look at one run costs 20 ms and more: five a second are a tenth of a core, taken from jobs.
            "scheduler_idle_sleep_time": 0.5,
            "scheduler_heartbeat_sec": 2,
            "scheduler_health_check_threshold": 15,
            "orphaned_tasks_check_interval": 10,
            "task_instance_heartbeat_timeout": 30,
            "task_instance_heartbeat_timeout_detection_interval": 5,
        },
        "workers": {
            # Also the time in which a task learns that it was marked or cleared, and for which LocalExecutor
            # may keep a worker whose task has ended.
            "min_heartbeat_interval": 3,
            "missing_dag_retry_delay": 5,
        },
        "dag_processor": {
            "dag_bundle_config_list": json.dumps([BUNDLE]),
            "dag_bundle_storage_path": home / "dag_bundles",
            "parsing_processes": 1,
            "refresh_interval": 10,
            "min_file_process_interval": 30,
        },
        "logging": {
            "base_log_folder": home / "logs",
            "dag_processor_child_process_log_directory": home / "logs" / "dag_processor",
            "colored_console_log": False,
        },
        "usage_data_collection": {"enabled": False},
    }


def password() -> str:
    """Return the password of the UI's user; it is made once."""
    file = _passwords_file()
    if not file.exists():
        _write_private(file, json.dumps({USER: secrets.token_urlsafe(9)}) + "\n")
    return str(json.loads(file.read_text())[USER])


def prepare() -> None:
    """Make the settings and the databases, Airflow's and MLflow's, and write our DAG into the first.

    Raises:
        RuntimeError: Airflow refused; the message ends with what it said.
        TrackingError: MLflow did.
    """
    write_settings(Ports())
    password()
    for command in (["db", "migrate"], ["dags", "reserialize"]):
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *command],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            tail = "\n".join(done.stdout.splitlines()[-20:])
            raise RuntimeError(f"`airflow {' '.join(command)}` failed:\n{tail}")
    mark_serialized()
    with suppress(ConfigError):  # `up` says what is wrong with the config
        make_database(load_config().mlflow_config)
    (airflow_home() / "prepared").write_text(_prepared_for())


def is_prepared() -> bool:
    """Return whether the metadata database is there, made by the Airflow that is installed."""
    file = airflow_home() / "prepared"
    return file.exists() and file.read_text() == _prepared_for() and (airflow_home() / "airflow.db").exists()


def is_serialized() -> bool:
    """Return whether the DAG in the database is the one that the files now say."""
    file = airflow_home() / "serialized"
    return file.exists() and file.read_text() == _dag_fingerprint()


def mark_serialized() -> None:
    """Remember that the DAG in the database is the one that the files now say."""
    (airflow_home() / "serialized").write_text(_dag_fingerprint())


def _prepared_for() -> str:
    return f"{version('apache-airflow')} {project_home()}"


def _dag_fingerprint() -> str:
    """Return a hash of all that decides the DAG: its files, what they are built of, and the config."""
    files = sorted((checkout() / "dags").rglob("*.py"))
    files += sorted((Path(__file__).parents[1] / "orchestration").glob("*.py"))
    digest = hashlib.sha256(_prepared_for().encode())
    names = ("", *experiment_names(project_home()))
    for file in [*files, *(file for name in names for file in files_of(name))]:
        digest.update(f"{file}\n".encode())
        digest.update(file.read_bytes() if file.exists() else b"")
    return digest.hexdigest()


def _passwords_file() -> Path:
    return airflow_home() / "passwords.json"


def _secrets() -> dict[str, str]:
    """Return the keys of this Airflow, made once."""
    file = airflow_home() / "secrets.json"
    if not file.exists():
        from cryptography.fernet import Fernet

        made = {
            "fernet_key": Fernet.generate_key().decode(),
            "api_secret": secrets.token_hex(32),
            "jwt_secret": secrets.token_hex(64),
        }
        _write_private(file, json.dumps(made))
    kept: dict[str, str] = json.loads(file.read_text())
    return kept


def _write_private(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    os.replace(aside, path)
