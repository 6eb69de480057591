"""The endpoint that answers with the champion, beside `make run`'s Airflow."""

from __future__ import annotations

import sys

import httpx

NAME = "endpoint"


def command(port: int, experiment: str = "") -> list[str]:
    """Return the command that starts it, with the champion of an experiment."""
    of = ["--experiment", experiment] if experiment else []
    return [sys.executable, "-m", "flywheel.cli.main", "serve", "--port", str(port), *of]


def answers(port: int) -> bool:
    """Return whether a champion answers there."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def line_to_try(port: int, model: str) -> str:
    """Return a line for a shell that asks the champion something."""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Acme raises its dividend"}}]}}'
    address = f"http://localhost:{port}/v1/chat/completions"
    return f"curl -s {address} -H 'content-type: application/json' -d '{body}'"
