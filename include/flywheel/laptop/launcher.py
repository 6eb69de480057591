"""The process of Airflow's components, as `up` sees it: commands go in, events come out."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flywheel.laptop.home import Ports, environment
from flywheel.laptop.processes import end_sessions

STOP_SECONDS = 3.0


class Launcher:
    """Starts Airflow's components and ends them, with all that they started.

    Args:
        ports: where the servers listen.
        variables: added to the environment of all components, and so of all tasks.
        on_event: called for each event, from a thread of its own.
    """

    def __init__(
        self, ports: Ports, variables: dict[str, str], on_event: Callable[[dict[str, Any]], None]
    ) -> None:
        self._sessions: set[int] = set()
        self._on_event = on_event
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flywheel.laptop.components", str(ports.tasks), str(ports.ui)],
            env={**environment(), **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for `up`, which stops the components in order
        )
        threading.Thread(target=self._listen, name="launcher", daemon=True).start()

    def start(self, name: str, command: list[str] | None = None) -> None:
        """Start a component; one that is not Airflow's with its command."""
        self._send({"start": name, "command": command})

    def run(self, *arguments: str, then: dict[str, Any] | None = None) -> None:
        """Run an `airflow` command; `then` is a command of the launcher to follow its success."""
        self._send({"run": arguments, "then": then})

    def stop(self) -> None:
        """End everything."""
        self._send({"stop": STOP_SECONDS})
        try:
            self._process.wait(STOP_SECONDS + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        end_sessions([*self._sessions, self._process.pid])

    def _send(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):
                event: dict[str, Any] = json.loads(line)
                if "started" in event:
                    self._sessions.add(event["pid"])
                self._on_event(event)
        self._on_event({"launcher": "ended"})
