"""The stand-in that answers in the teacher's place for the demo: started by `up`, else by a command by hand.

Where it listens while `up` runs is written down, so that commands in another shell ask the same one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from flywheel.common.connections import variable_of
from flywheel.common.errors import TeacherError
from flywheel.config import Config
from flywheel.config.loading import resolve_path
from flywheel.config.private import private_folder
from flywheel.demo.tasks import write_missing
from flywheel.laptop.processes import free_port
from flywheel.teacher.endpoint import URL_VARIABLE

STAND_IN = "stand-in"
HEADLINES_FILE = "state/demo/headlines.csv"
HEADLINES = 6000
_ADDRESS_FILE = "state/demo/teacher.url"
_START_SECONDS = 30.0


def is_needed(config: Config) -> bool:
    """Return whether the config's teacher is the stand-in, and nothing else says where it is."""
    given = (config.teacher.base_url, os.environ.get(variable(config)), os.environ.get(URL_VARIABLE))
    return config.teacher.model == STAND_IN and not any(given)


def variable(config: Config) -> str:
    """Return the environment variable that tells where it is, as the teacher's connection."""
    return variable_of(config.teacher.connection)


def write_demo(config: Config) -> None:
    """Write the demo's files that the config reads, and the headlines whose labels the stand-in knows."""
    write_missing(source.path for source in config.source)
    headlines = Path(resolve_path(HEADLINES_FILE))
    if is_needed(config) and not headlines.exists():
        from flywheel.demo.headlines import write_csv

        private_folder(headlines.parent)
        aside = headlines.with_suffix(".aside")
        write_csv(aside, HEADLINES)
        os.replace(aside, headlines)


def command(port: int) -> list[str]:
    """Return the command that answers on a port."""
    program = [sys.executable, "-m", "flywheel_stand_ins", "teacher"]
    return [*program, "--answers", resolve_path(HEADLINES_FILE), "--port", str(port)]


def address(port: int) -> str:
    """Return the base URL of the stand-in on a port of this machine."""
    return f"http://127.0.0.1:{port}/v1"


def remember(url: str) -> None:
    """Write down where the one that `up` starts listens."""
    file = Path(resolve_path(_ADDRESS_FILE))
    private_folder(file.parent)
    file.write_text(url)


def running() -> str:
    """Return where the one of `up` listens; empty where it does not answer."""
    with suppress(OSError):
        url = Path(resolve_path(_ADDRESS_FILE)).read_text().strip()
        if url and _answers(url):
            return url
    return ""


@contextmanager
def answering(config: Config) -> Iterator[None]:
    """Have the stand-in answer while a command by hand runs, where it is the config's teacher.

    Raises:
        TeacherError: it does not start.
    """
    if not is_needed(config):
        yield
        return
    url, process = running(), None
    try:
        if not url:
            write_demo(config)
            port = free_port()
            url, process = address(port), subprocess.Popen(command(port), stdout=subprocess.DEVNULL)
            _wait_for(url, process)
        os.environ[variable(config)] = url
        yield
    finally:
        os.environ.pop(variable(config), None)
        if process is not None:
            process.terminate()
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/models", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(url):
            return
        time.sleep(0.05)
    raise TeacherError("the demo's stand-in for the teacher does not start; what it said is above")
