"""Compiled kernels are kept in the artifact root, whatever kind of root it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.students.compile_cache import ARCHIVE, VARIABLE, compile_cache


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def compile_kernel(name: str) -> None:
    folder = Path(os.environ[VARIABLE]) / name
    folder.mkdir()
    (folder / "kernel.cubin").write_text(name)


def kernels() -> list[str]:
    return sorted(path.name for path in Path(os.environ[VARIABLE]).iterdir())


def test_a_folder_as_root_holds_the_cache_itself(tmp_path: Path) -> None:
    root = ArtifactRoot(str(tmp_path / "artifacts"))
    with compile_cache(root, "cuda"):
        compile_kernel("norm")
    assert VARIABLE not in os.environ
    assert (tmp_path / "artifacts/cache/triton/norm/kernel.cubin").read_text() == "norm"


def test_behind_a_url_kernels_come_to_a_new_machine_and_go_back(tmp_path: Path) -> None:
    root = ArtifactRoot(f"memory://compile-cache-{os.getpid()}")
    with compile_cache(root, "cuda"):
        compile_kernel("norm")
        compile_kernel("tmp.pid_7")  # of a process that is still writing
    shutil.rmtree(tmp_path / "cache")
    with compile_cache(root, "cuda"):
        assert kernels() == ["norm"]
        compile_kernel("swiglu")
    shutil.rmtree(tmp_path / "cache")
    with compile_cache(root, "cuda"):
        assert kernels() == ["norm", "swiglu"]


def test_a_damaged_archive_is_no_error(tmp_path: Path) -> None:
    root = ArtifactRoot(f"memory://damaged-cache-{os.getpid()}")
    root.write_bytes(ARCHIVE, b"no archive")
    with compile_cache(root, "cuda"):
        assert kernels() == []


def test_a_set_variable_and_a_job_without_gpu_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ArtifactRoot(str(tmp_path / "artifacts"))
    with compile_cache(root, "cpu"):
        assert VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, "/elsewhere")
    with compile_cache(root, "cuda"):
        assert os.environ[VARIABLE] == "/elsewhere"
    assert os.environ[VARIABLE] == "/elsewhere"
