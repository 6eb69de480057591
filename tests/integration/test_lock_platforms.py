"""The locks hold the hash of a wheel of every package for each Python and machine that is promised.

Resolved for the machine, not run on it: uv asks the index which wheels there are and downloads none. Skipped where
no package index answers.
"""

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

PROJECT = Path(__file__).parents[2]
UV = PROJECT / ".tools/bin/uv"
PYTHONS = ((3, 11), (3, 12), (3, 13))
# torch has no wheel for an older macOS, nor for an older glibc than that of Debian 11 and RHEL 8.
MACOS, GLIBC = (14, 0), 28
MACHINES = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")
# Left out is what is made for one machine, as it says: a vLLM for CPUs, Linux on x86.
LOCKS = sorted(set(PROJECT.glob("requirements*.txt")) - {PROJECT / "requirements-vllm.txt"})
NO_INDEX = re.compile(r"dns error|error sending request|timed out|[Cc]onnection", re.MULTILINE)

pytestmark = pytest.mark.skipif(not UV.exists(), reason="no uv in .tools: make install")


def planned(python: tuple[int, int], machine: str) -> list[dict[str, Any]]:
    """Return what a machine would install of all locks: name, version and wheels of each package."""
    options = ["pip", "compile", "--quiet", "--format", "pylock.toml", "--no-deps", "--only-binary", ":all:"]
    where = ["--python-version", f"{python[0]}.{python[1]}", "--python-platform", machine]
    done = subprocess.run(
        [str(UV), *options, *where, *map(str, LOCKS)],
        env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": f"{MACOS[0]}.{MACOS[1]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and NO_INDEX.search(done.stderr):
        pytest.skip(f"no package index answers: {done.stderr.strip().splitlines()[-1][:200]}")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = tomllib.loads(done.stdout)["packages"]
    return found


def tags_of(python: tuple[int, int], machine: str) -> set[Tag]:
    if machine.endswith("darwin"):
        platforms = list(mac_platforms(MACOS, "arm64"))
    else:
        arch = machine.partition("-")[0]
        platforms = [f"manylinux_2_{minor}_{arch}" for minor in range(GLIBC, 4, -1)]
        platforms += [f"{old}_{arch}" for old in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    return {*cpython_tags(python, platforms=platforms), *compatible_tags(python, platforms=platforms)}


def without_a_hash(packages: list[dict[str, Any]], tags: set[Tag], hashes: set[str]) -> Iterator[str]:
    """Yield the packages of which the locks hold no wheel that fits."""
    for package in packages:
        for wheel in package.get("wheels", ()):
            name = wheel["url"].rpartition("/")[2].replace("%2B", "+")
            if wheel["hashes"]["sha256"] in hashes and parse_wheel_filename(name)[3] & tags:
                break
        else:
            yield f"{package['name']}=={package['version']}"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS, ids=lambda python: f"{python[0]}.{python[1]}")
def test_each_package_has_a_wheel_whose_hash_is_in_the_locks(python: tuple[int, int], machine: str) -> None:
    packages = planned(python, machine)
    assert len(packages) > 250 and {"apache-airflow", "torch"} <= {package["name"] for package in packages}
    hashes = set(re.findall(r"--hash=sha256:(\w+)", "".join(lock.read_text() for lock in LOCKS)))
    missing = list(without_a_hash(packages, tags_of(python, machine), hashes))
    assert not missing, f"{missing}: scripts/lock.sh makes the locks anew"
    assert len(list(without_a_hash(packages, tags_of(python, machine), set()))) == len(packages)
