"""A notifier that writes down what it is told."""

from __future__ import annotations

import json
import time
from typing import Any

from airflow.sdk.bases.notifier import BaseNotifier


class NotingNotifier(BaseNotifier):
    """Appends what the flywheel tells, and when, as a line of JSON.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def notify(self, context: Any) -> None:
        """Take a message."""
        with open(self.path, "a") as file:
            file.write(json.dumps({**context["flywheel"], "noted_at": time.time()}) + "\n")
