"""Every shell block of README.md and docs/*.md, in order, in a clean clone with a small experiment."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flywheel.demo.headlines import write_csv
from flywheel.laptop import endpoint
from flywheel.laptop.processes import free_port
from tests.integration.airflow_stack import experiment, wait_for
from tests.integration.docs_blocks import APART, PROJECT, TIERS, Block, blocks

pytestmark = pytest.mark.slow

HEADLINES = 800
WANTED = set(os.environ.get("FLYWHEEL_DOCS_TIERS", "").split(","))
BLOCKS = blocks()
RUN = [block for block in BLOCKS if not (block.tiers & APART) - WANTED]
LINEAR = {"model_name": "tfidf", "name": "linear", "family": "linear", "gpus": 0}


def test_a_block_says_what_it_is_and_what_it_needs() -> None:
    assert {block.language for block in BLOCKS} == {"sh"}
    assert set().union(*(block.tiers for block in BLOCKS)) <= TIERS
    for block in BLOCKS:
        done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{block.name}: {done.stderr}"


class Clone:
    """A clean clone of the project in which blocks are run, and the `up` of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "flywheel", folder / "home"
        self.home.mkdir()
        subprocess.run(["git", "clone", "-q", "--local", PROJECT, self.folder], check=True)
        (self.folder / ".venv").symlink_to(PROJECT / ".venv")
        demo = self.folder / "state/demo/headlines.csv"
        demo.parent.mkdir(parents=True)
        write_csv(demo, HEADLINES)
        self.port = free_port()
        config = {
            **experiment(),
            "client_id": "desk",
            "nims": [LINEAR],
            "sizes": [200],
            "serving": {"port": self.port},
            "annotation": {},
        }
        config["source"]["path"] = "state/demo/headlines.csv"
        (self.folder / "include/config.yaml").write_text(yaml.safe_dump(config))
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FLYWHEEL_", "AIRFLOW_", "PYTEST")) and name not in ("CI", "VIRTUAL_ENV")
        }
        self.environment = {**kept, "HOME": str(self.home), "KEY": "a-key", "COLUMNS": "200"}
        self.ports = {"8700": str(self.port)}
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, text: str, sign: str) -> str:
        """Run what does not end by itself; return the first part of its output that is like a sign."""
        said = self.home / f"said-{len(self.started)}"
        with said.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-ec", text],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)

        def told() -> str:
            assert process.poll() is None, said.read_text()
            found = re.search(sign, said.read_text())
            return found[1] if found else ""

        try:
            return str(wait_for(told, 240))
        except AssertionError:
            raise AssertionError(said.read_text()) from None

    def run(self, block: Block) -> str:
        """Run a block, and what its page says before and after it; return its standard output."""
        try:
            if block.before:
                self._bash(f"{block.name} before", block.before)
            return self._bash(block.name, block.text)
        finally:
            if block.after:
                self._bash(f"{block.name} after", block.after)

    def _bash(self, name: str, text: str) -> str:
        for written, real in self.ports.items():
            text = text.replace(f":{written}", f":{real}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, (
            f"{name}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done.stdout

    def stop(self) -> None:
        """End all that was left running, as Ctrl-C does."""
        for process in self.started[::-1]:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    cloned = Clone(tmp_path_factory.mktemp("clean"))
    try:
        # Its own endpoint takes another port, as the one of the config is for `./flywheel serve`.
        with socket.create_server(("127.0.0.1", cloned.port)):
            up = r"Airflow is up: http://localhost:(\d+)[\s\S]*The champion answers"
            cloned.ports["8080"] = cloned.start("exec ./flywheel up", up)
        yield cloned
    finally:
        cloned.stop()


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.name)
def test_a_block_ends_as_the_page_says(clone: Clone, block: Block) -> None:
    if "stays" in block.tiers:
        port = clone.start(f"exec {block.text.strip()}", r"http://127\.0\.0\.1:(\d+)")
        assert wait_for(lambda: endpoint.answers(int(port)))
        clone.ports["8700"] = port
        return
    said = clone.run(block)
    if block.shown:
        assert like(json.loads(said), json.loads(block.shown))


def like(real: Any, shown: Any) -> bool:
    """Return whether an answer has what the page shows of it: the same keys, and values of the same kind."""
    if isinstance(shown, dict):
        return isinstance(real, dict) and all(key in real and like(real[key], shown[key]) for key in shown)
    if isinstance(shown, list):
        return isinstance(real, list) and all(map(like, real, shown))
    return type(real) is type(shown)
