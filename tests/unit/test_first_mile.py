"""./flywheel and ./airflow: from any folder, in any locale, in a path with a space and letters outside ASCII."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from flywheel.cli import doctor, machine
from flywheel.config import Config, load_config
from flywheel.laptop import stand_in
from flywheel.laptop.up import _only_one

PROJECT = Path(__file__).resolve().parents[2]
SCRIPTS = ("flywheel", "airflow", "scripts/environment.sh")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with the scripts, whose environment is the one that runs the tests."""
    folder = tmp_path / "Büro für Schlagzeilen"
    for name in SCRIPTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    for name in (".venv", "include"):  # what is installed names the package by a path from there
        (folder / name).symlink_to(PROJECT / name)
    return folder


def said(*command: str | Path, **variables: str) -> tuple[int, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))
    }
    done = subprocess.run(
        [str(word) for word in command],
        env={**kept, **variables},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(not (PROJECT / ".venv/bin/python").exists(), reason="the environment is not .venv")
@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_the_command_line_starts_in_any_locale_from_any_folder(checkout: Path, locale: str) -> None:
    code, text = said(
        checkout / "flywheel", "headlines", "--help", LC_ALL=locale, FLYWHEEL_HOME=str(checkout)
    )
    assert (code, "Usage: flywheel headlines" in text) == (0, True), text


@pytest.mark.skipif(not (PROJECT / ".venv/bin/python").exists(), reason="the environment is not .venv")
def test_a_link_to_the_script_finds_the_project(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/flywheel").symlink_to(checkout / "flywheel")
    code, text = said(tmp_path / "bin/flywheel", "--help", LC_ALL="C", FLYWHEEL_HOME=str(checkout))
    assert (code, "Usage: flywheel" in text) == (0, True), text


@pytest.mark.skipif(not (PROJECT / ".venv/bin/python").exists(), reason="the environment is not .venv")
def test_airflow_has_the_projects_home_whatever_the_shell_says(checkout: Path, tmp_path: Path) -> None:
    home = checkout / "state/airflow"
    ready = (
        "from flywheel.laptop.home import *; from flywheel.laptop import home as h; write_settings(Ports());"
    )
    ready += (
        "(airflow_home()/'airflow.db').touch(); (airflow_home()/'prepared').write_text(h._prepared_for())"
    )
    variables = {"FLYWHEEL_HOME": str(checkout), "AIRFLOW_HOME": str(tmp_path / "another"), "LC_ALL": "POSIX"}
    assert said(PROJECT / ".venv/bin/python", "-X", "utf8", "-c", ready, **variables)[0] == 0
    code, text = said(checkout / "airflow", "config", "get-value", "core", "dags_folder", **variables)
    assert (code, text.strip().splitlines()[-1]) == (0, str(PROJECT / "dags")), text
    assert home.is_dir() and not (tmp_path / "another").exists()


@pytest.mark.parametrize("name", ["flywheel", "airflow"])
def test_without_an_installation_they_say_what_to_do(checkout: Path, name: str) -> None:
    (checkout / ".venv").unlink()
    code, text = said(checkout / name, "--help", LC_ALL="C")
    assert (code, text) == (1, f"error: flywheel is not installed here: make -C '{checkout}' install\n")


# -- the demo's stand-in, and what doctor sees on this machine -----------------------------------------


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    for name in ("AIRFLOW_CONN_FLYWHEEL_TEACHER", "FLYWHEEL_TEACHER_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "state/demo").mkdir(parents=True)
    (tmp_path / "state/demo/headlines.csv").write_text(
        "headline,date,human_label,teacher_label\nAcme beats,2024-05-31,earnings,earnings\n"
    )
    return load_config(PROJECT / "include/config.yaml")


def test_doctor_knows_the_stand_in_that_up_has_started(demo: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = doctor._teacher(demo)
    assert (found.state, "`make run`" in found.advice) == ("warning", True)
    with stand_in.answering(demo):
        url = os.environ["AIRFLOW_CONN_FLYWHEEL_TEACHER"]
        stand_in.remember(url)
        with monkeypatch.context() as another_shell:
            another_shell.delenv("AIRFLOW_CONN_FLYWHEEL_TEACHER")
            (found,) = doctor._teacher(demo)
            assert (found.state, url in found.detail) == ("ok", True)
            with stand_in.answering(demo):  # the same one, and it goes on afterwards
                assert os.environ["AIRFLOW_CONN_FLYWHEEL_TEACHER"] == url
            assert stand_in.running() == url
    assert (stand_in.running(), "AIRFLOW_CONN_FLYWHEEL_TEACHER" in os.environ) == ("", False)


def test_a_port_that_another_program_has_is_named(demo: Config) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = demo.model_copy(update={"serving": demo.serving.model_copy(update={"port": port})})
        (found,) = machine.ports(config)
        assert (found.state, f"{port} (the champion's endpoint)" in found.detail) == ("warning", True)
        with _only_one():  # as while `make run` is up
            (found,) = machine.ports(config)
            assert (found.state, "`make run` is up" in found.detail) == ("ok", True)


def test_each_disk_is_looked_at_once_and_a_full_one_is_named_with_what_is_on_it(
    demo: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    another = Path("/dev/shm")
    if not another.is_dir() or another.stat().st_dev == Path(demo.artifacts.root).parent.stat().st_dev:
        pytest.skip("no second disk here")
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(another))
    found = list(machine.disks(demo))
    assert sum("artifacts.root, state" in one.detail for one in found) == 1
    assert sum("temporary files (TMPDIR)" in one.detail for one in found) == 1
    assert not any("Hub" in one.detail for one in found)  # the demo's weights came with flywheel
    monkeypatch.setattr(machine, "LOW_DISK_BYTES", 1 << 60)
    for one in machine.disks(demo):
        assert (one.state, "`./flywheel prune`" in one.advice) == ("warning", True)


def test_an_unknown_time_zone_and_a_clock_that_is_off_are_errors(
    demo: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = machine.clock(demo)
    assert found.state == "ok"
    monkeypatch.setattr(machine, "_seconds_off", lambda _: 90.0)
    (found,) = machine.clock(demo)
    assert (found.state, "+90 s off" in found.detail) == ("error", True)
