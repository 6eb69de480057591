"""Where a flywheel of a test keeps what it has: all in the test's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def kept_in(folder: Path) -> dict[str, Any]:
    """Return the sections of a config for records, artifacts and MLflow."""
    return {
        "store": {"path": str(folder / "records.sqlite")},
        "artifacts": {"root": str(folder / "artifacts")},
        "mlflow_config": {
            "tracking_uri": f"sqlite:///{folder}/mlflow.db",
            "artifact_location": str(folder / "mlruns"),
        },
    }
