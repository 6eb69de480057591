"""`mlflow models serve` answers with the registered champion, where flywheel is not installed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import httpx
import pytest

from tests.unit.promoted_desk import LINEAR, SMALL, WORKLOAD, champion_in, predictions_of, promoted


def without_flywheel(folder: Path) -> Path:
    """Return the Python of an environment with the libraries of this one, and without this project."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # A folder that a .pth file names has its own .pth files left unread, that of the checkout among them.
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = folder / "bin/python"
    found = subprocess.run([python, "-c", "import mlflow, flywheel"], capture_output=True, text=True, cwd="/")
    assert "No module named 'flywheel'" in found.stderr
    server = folder / "bin/uvicorn"  # that of this environment would run with this environment's Python
    server.write_text(f"#!{python}\nfrom uvicorn.main import main\n\nmain()\n")
    server.chmod(0o755)
    return python


@pytest.mark.parametrize("student", [LINEAR, SMALL], ids=["linear", "causal_lm"])
def test_it_answers_as_the_evaluation_did(tmp_path: Path, student: dict[str, object]) -> None:
    python = without_flywheel(tmp_path / "alone")
    (tmp_path / "desk").mkdir()
    with promoted(tmp_path / "desk", student) as home:
        lines = predictions_of(home)
        registry = champion_in(home).registry
    assert registry is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "FLYWHEEL_DEVICE": "cpu",
    }
    command = [str(python), "-m", "mlflow", "models", "serve", "-m", f"models:/{registry.model}@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, cwd=tmp_path, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server, log)
        answer = httpx.post(
            f"http://127.0.0.1:{port}/invocations",
            json={"inputs": [line["text"] for line in lines]},
            timeout=60,
        )
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)
    assert answer.status_code == 200, answer.text
    rows = answer.json()["predictions"]
    assert list(rows[0]) == ["label", "probability", *WORKLOAD.classes]
    assert [row["label"] for row in rows] == [line["student"] for line in lines]


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])
