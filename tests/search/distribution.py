"""Elasticsearch's own distribution for integration tests, from Maven Central, and a Java to run it.

It is fetched when tests need it and kept in a cache outside the repository: /var/cache/flywheel for root (the
node runs as another user, who must be able to read it), else ~/.cache/flywheel. The distribution is under the
AGPL and, for its x-pack modules, the Elastic License: it is no part of the project. FLYWHEEL_ELASTICSEARCH names
another version than the usual one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

from filelock import FileLock

VERSION = os.environ.get("FLYWHEEL_ELASTICSEARCH", "8.19.21")
_ARTIFACT = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{VERSION}:zip"
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
_OLDEST_JAVA = 17 if VERSION.startswith("8.") else 21
_PACKAGES = {"java": f"openjdk-{_OLDEST_JAVA}-jre-headless", "mvn": "maven"}


class UnavailableError(Exception):
    """The node cannot run on this machine; the message says what it lacks."""


def distribution() -> Path:
    """Return the folder of the unpacked distribution.

    Raises:
        UnavailableError: it cannot be fetched.
    """
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    unpacked = cache / f"elasticsearch-{VERSION}"
    with FileLock(cache / "elasticsearch.lock"):
        if not unpacked.exists():
            _fetch(cache)
            aside = cache / f".unpack-{os.getpid()}"
            with zipfile.ZipFile(cache / f"{unpacked.name}.zip") as archive:
                archive.extractall(aside)
            for script in (aside / unpacked.name / "bin").iterdir():
                script.chmod(0o755)
            (aside / unpacked.name).rename(unpacked)
            shutil.rmtree(aside)
            (cache / f"{unpacked.name}.zip").unlink()
    return unpacked


def java_home() -> Path:
    """Return the folder of a Java that is new enough; CI installs the Debian package where there is none.

    Raises:
        UnavailableError: there is none.
    """
    found = _java_home()
    if found is None:
        _install("java")
        found = _java_home()
    if found is None:
        raise UnavailableError(
            f"no Java {_OLDEST_JAVA} or newer: install {_PACKAGES['java']}, or set ES_JAVA_HOME"
        )
    return found


def _java_home() -> Path | None:
    on_path = shutil.which("java")
    candidates = [Path(os.environ[name]) for name in ("ES_JAVA_HOME", "JAVA_HOME") if os.environ.get(name)]
    candidates += [Path(on_path).resolve().parents[1]] if on_path else []
    candidates += sorted(Path("/usr/lib/jvm").glob("*"))
    for home in candidates:
        java = home / "bin" / "java"
        if not java.exists():
            continue
        said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
        version = re.search(r'version "(\d+)', said)
        if version and int(version[1]) >= _OLDEST_JAVA:
            return home
    return None


def _fetch(cache: Path) -> None:
    if not shutil.which("mvn"):
        _install("mvn")
    if not shutil.which("mvn"):
        raise UnavailableError(f"no Maven to fetch the Elasticsearch node with: install {_PACKAGES['mvn']}")
    for goal in (f"{_PLUGIN}:get -Dtransitive=false", f"{_PLUGIN}:copy -DoutputDirectory={cache}"):
        done = subprocess.run(
            ["mvn", "-B", "-q", *goal.split(" "), f"-Dartifact={_ARTIFACT}"],
            capture_output=True,
            text=True,
            check=False,
            cwd=cache,
        )
        if done.returncode:
            raise UnavailableError(
                f"Maven cannot fetch {_ARTIFACT}: {done.stdout[-500:]}{done.stderr[-500:]}"
            )


def _install(program: str) -> None:
    """Install a Debian package, where that is this machine's own and nobody else's: in CI, as root."""
    if os.environ.get("CI") == "true" and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", _PACKAGES[program]]):
            subprocess.run(["apt-get", "-qq", *command], check=True, env=environment)


def _cache() -> Path:
    if os.geteuid() == 0:
        return Path("/var/cache/flywheel")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flywheel"
