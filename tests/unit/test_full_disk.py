"""A full disk, a small tmpfs or a limit of a file's size: each writer names its path and what to free."""

import errno
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.aside import AsideFile
from flywheel.common.durable import put_in_place
from flywheel.common.errors import DiskFullError, FlywheelError
from flywheel.common.full_disk import told_when_full
from flywheel.config import Config
from flywheel.runs.run import Run
from flywheel.sources.quarantine import Quarantine
from flywheel.stores.sqlite import SqliteStore
from tests.unit.news_records import news_plan, news_record

MEGABYTE = b"x" * 1_000_000


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_json(folder: Path) -> None:
    ArtifactRoot(str(folder)).write_json("runs/a/plan.json", {"text": "x" * 100_000})


def create(folder: Path) -> None:
    ArtifactRoot(str(folder)).create("runs/a/plan.json", MEGABYTE)


def build(folder: Path) -> None:
    with ArtifactRoot(str(folder)).build("datasets", "k") as made:
        (made / "train.jsonl").write_bytes(MEGABYTE)


def safetensors(folder: Path) -> None:
    with ArtifactRoot(str(folder)).build("adapters", "k") as made:
        save_file({"w": np.zeros(250_000, np.float32)}, made / "adapter_model.safetensors")


def scratch(folder: Path) -> None:
    with ArtifactRoot(str(folder)).scratch("adapters", "k") as made:
        (made / "step-1").write_bytes(MEGABYTE)


def quarantine(folder: Path) -> None:
    with Quarantine(folder / "label.quarantine.jsonl") as file:
        for line in range(1000):
            file.add("f.csv", line, f"{line % 20}: bad", "x" * 500)


def findings(folder: Path) -> None:
    with AsideFile(folder / "found.jsonl", "wb") as file:
        file.count = 1
        file._file.write(MEGABYTE)


WRITERS: list[Callable[[Path], None]] = [
    write_json,
    create,
    build,
    safetensors,
    scratch,
    quarantine,
    findings,
]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_a_writer_names_its_path_and_what_to_free_and_leaves_nothing_half(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.raises(DiskFullError) as told, files_of_at_most(50_000):
        write(tmp_path)
    assert str(told.value).startswith(f"{tmp_path}/"), told.value
    assert "File too large" in str(
        told.value
    ) and "free some space there, such as by `./flywheel prune`" in str(told.value)
    whole = [
        path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size and path.name[0] != "."
    ]
    assert [path.name for path in whole if "scratch" not in path.parts] == []
    write(tmp_path)  # with room it goes on


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 3 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_store_on_a_full_disk_says_so_keeps_what_it_has_and_goes_on_with_room(small_disk: Path) -> None:
    store = SqliteStore(small_disk / "records.sqlite")
    store.write([news_record("Acme beats")])
    (small_disk / "filler").write_bytes(b"")
    with suppress(OSError), open(small_disk / "filler", "ab", buffering=0) as filler:
        while True:
            filler.write(MEGABYTE[:4096])
    with pytest.raises(
        DiskFullError, match=r"records\.sqlite: No space left on device \(0 MB are left there\); free"
    ):
        store.write(news_record(f"Acme {n} {'x' * 3000}") for n in range(1000))
    (small_disk / "filler").unlink()
    assert store.write([news_record("Bolt falls")]).written == 1
    store.close()


def test_a_stage_that_runs_out_of_room_names_the_run_s_folder(small_disk: Path) -> None:
    run = Run.create(news_plan(small_disk))

    def work(folder: Path) -> Config:
        (folder / "big").write_bytes(MEGABYTE * 5)
        return run.plan.config

    with pytest.raises(
        DiskFullError, match=rf"{small_disk}/artifacts/runs/night: No space left on device while curate"
    ):
        run.perform("curate", Config, work)


def test_a_full_folder_of_temporary_files_is_the_one_that_is_named(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(DiskFullError, match=rf"^{small_disk}: No space"), told_when_full(tmp_path):
        os.write(os.open(small_disk / "x", os.O_WRONLY | os.O_CREAT), MEGABYTE * 5)
        raise OSError(errno.ENOSPC, "as a library says it")


def test_another_error_goes_through_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), told_when_full(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    assert issubclass(DiskFullError, FlywheelError) and issubclass(DiskFullError, OSError)


def test_put_in_place_names_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "aside").write_text("x")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("flywheel.common.durable.os.fsync", full)
    with pytest.raises(DiskFullError, match="/target: No space left on device"):
        put_in_place(tmp_path / "aside", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_the_command_line_says_it_in_a_line(small_disk: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "flywheel.cli.main",
            "headlines",
            str(small_disk / "news.csv"),
            "--count",
            "200000",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "No space left on device" in done.stderr and "free some space there" in done.stderr, done.stderr
