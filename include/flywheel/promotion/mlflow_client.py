"""How MLflow is reached: where it is, with which settings, and what is said where it cannot be."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.common.errors import FlywheelError
from flywheel.config import resolve_path
from flywheel.config.private import private_file, private_folder
from flywheel.config.schema import MlflowConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
# A server that is down is known to be down after some seconds, not after MLflow's default of minutes.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


class TrackingError(FlywheelError):
    """MLflow cannot be reached or refuses; the message says which server, and what to check."""


def tracking_uri(config: MlflowConfig) -> str:
    """Return the tracking URI: the config's, else MLFLOW_TRACKING_URI, else SQLite in the state folder."""
    uri = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    return uri or f"{_SQLITE}{resolve_path('state/mlflow.db')}"


def make_database(config: MlflowConfig) -> None:
    """Make MLflow's SQLite file where that is what is tracked in, so that no run has to wait for it.

    MLflow makes it as it was in its first version and brings it up to date by some sixty migrations.

    Raises:
        TrackingError: it cannot be made.
    """
    uri = tracking_uri(config)
    if uri.startswith(_SQLITE):
        with open_client(uri):
            pass


@contextmanager
def open_client(uri: str) -> Iterator[MlflowClient]:
    """Give a client; whatever MLflow raises inside becomes a TrackingError."""
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    if uri.startswith(_SQLITE):
        file = Path(uri.removeprefix(_SQLITE))
        private_folder(file.parent)
        private_file(file)
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        yield MlflowClient(uri, registry_uri=uri)
    except Exception as error:  # MLflow, SQLAlchemy, requests and OS errors alike
        text = public(str(error).strip().split("\n", 1)[0])[:500]
        raise TrackingError(
            f"MLflow at {public(uri)}: {type(error).__name__}: {text}; "
            "check mlflow_config.tracking_uri and that its server runs"
        ) from None


def public(uri: str) -> str:
    """Return a text without the user and password that a URI in it may hold."""
    return re.sub(r"//[^/@\s]+@", "//", uri)
