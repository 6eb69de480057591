"""`make run` in a folder with a space and a letter outside ASCII, in any locale, by root and by an ordinary user.

The copies have the code of this project, its installed libraries by a link, and the Python that the user may run.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from flywheel.demo.headlines import write_csv
from tests.integration.airflow_stack import HEADLINES, experiment

PROJECT = Path(__file__).parents[2]
NOBODY = 65534  # there on every system, with no home and no shell
LIBRARIES = Path(sys.prefix, "lib")
CODE = ("dags", "plugins", "include", "scripts", "flywheel", "airflow", "Makefile", "pyproject.toml")

pytestmark = pytest.mark.slow


class Machine:
    """A folder with a copy of flywheel, and who works there."""

    def __init__(self, folder: Path, user: int) -> None:
        self.folder, self.user = folder, user
        self.checkout, self.home = folder / "Büro für Schlagzeilen", folder / "ein Tisch"

    def run(self, *command: str | Path, locale: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command as that user, far east of here, as where nobody watches."""
        kept = {name: os.environ[name] for name in ("PATH", "SSL_CERT_FILE") if name in os.environ}
        given = {"HOME": str(self.folder), "CI": "true", "TZ": "Asia/Kolkata", "LC_ALL": locale}
        return subprocess.run(
            [str(word) for word in command],
            env={**kept, **given, **variables},
            cwd=self.folder,
            user=None if self.user == os.getuid() else self.user,
            group=None if self.user == os.getuid() else self.user,
            extra_groups=None if self.user == os.getuid() else [],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=900,
            check=False,
        )


def python_for(user: int) -> str:
    """Return a Python of this one's version that the user may run."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for found in filter(
        None, (os.path.realpath(sys.executable), shutil.which(name, path="/usr/local/bin:/usr/bin"))
    ):
        with suppress(OSError):
            if (
                user == os.getuid()
                or not subprocess.run([found, "-c", ""], user=user, check=False).returncode
            ):
                return found
    pytest.skip(f"no {name} that an ordinary user may run")


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Give a machine of who runs the tests, or of an ordinary user where that is root."""
    user = os.getuid() if request.param == "root" else NOBODY
    if os.getuid() and request.param == "root":
        pytest.skip("the tests do not run as root")
    if os.getuid():
        user = os.getuid()
    folder = Path(tempfile.mkdtemp(prefix="flywheel-"))  # pytest's own is for its user alone
    try:
        made = Machine(folder, user)
        folder.chmod(0o755)
        made.checkout.mkdir()
        for name in (*CODE, *(lock.name for lock in PROJECT.glob("requirements*.txt"))):
            copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy2
            copy(PROJECT / name, made.checkout / name)
        own = made.checkout / ".venv"
        (own / "bin").mkdir(parents=True)
        (own / "bin/python").symlink_to(base := python_for(user))
        (own / "pyvenv.cfg").write_text(f"home = {Path(base).parent}\ninclude-system-site-packages = false\n")
        (own / "lib").symlink_to(LIBRARIES)
        (own / "installed").touch()
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, user if user == NOBODY else -1, follow_symlinks=False)
        yield made
    finally:
        shutil.rmtree(folder)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of all below a folder, but for what its links lead to."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path)] = (status.st_size if stat.S_ISREG(status.st_mode) else 0, status.st_mtime_ns)
    return found


@pytest.mark.parametrize("machine", ["user"], indirect=True)
def test_an_ordinary_user_s_home_beside_a_checkout_that_nobody_may_write(machine: Machine) -> None:
    made = machine.run(machine.checkout / "flywheel", "init", machine.home, locale="C")
    assert (made.returncode, f"FLYWHEEL_HOME='{machine.home}'" in made.stdout) == (0, True), made.stdout
    small = experiment() | {"workload": "workloads/news_classifier.yaml"}
    (machine.home / "config.yaml").write_text(yaml.safe_dump(small))
    write_csv(machine.home / "headlines.csv", HEADLINES)
    for path in (machine.checkout, *machine.checkout.rglob("*")):
        if not path.is_symlink() and ".venv/lib" not in str(path):
            path.chmod(path.stat().st_mode & ~0o222)
            if machine.user != os.getuid():
                os.chown(path, os.getuid(), -1)
    before = contents(machine.checkout)
    done = machine.run(machine.checkout / "flywheel", "up", locale="C", FLYWHEEL_HOME=str(machine.home))
    assert done.returncode == 0, done.stdout
    assert "Weighted F1 against the teacher" in done.stdout
    assert f"{machine.home}/artifacts/runs/up__" in done.stdout
    assert (machine.home / "artifacts/latest/report.html").exists() and (
        machine.home / "state/mlflow.db"
    ).exists()
    assert contents(machine.checkout) == before


@pytest.mark.drill
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("machine", ["root", "user"], indirect=True)
def test_make_run_ends_well_for_anyone_in_any_locale(machine: Machine, locale: str) -> None:
    done = machine.run("make", "-C", machine.checkout, "run", "--old-file=.venv/installed", locale=locale)
    print(done.stdout[-300:])
    assert done.returncode == 0, done.stdout
    assert f"{machine.checkout}/artifacts/runs/up__" in done.stdout
    assert (machine.checkout / "artifacts/latest/report.html").stat().st_uid == machine.user
