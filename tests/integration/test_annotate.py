"""A labelled history by the real students: killed, on a full disk, by the command line and by the DAG."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from examples.wheel import backfill
from flywheel.annotation.manifest import read_manifest
from flywheel.artifacts.root import ArtifactRoot
from flywheel.artifacts.root_files import RootFiles
from flywheel.promotion.timeline import Timeline
from tests.unit.backfilled import NIGHTS, WORKLOAD, annotate_config, night_config, write_demo

TEXTS = 2400
REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with headlines and the champions of two backfilled nights."""
    folder = tmp_path_factory.mktemp("history")
    write_demo(folder, TEXTS)
    backfill(night_config(folder), NIGHTS)
    return folder


@pytest.fixture
def folder(made: Path) -> Path:
    """The same folder without an output."""
    for name in ("annotations", "scratch"):
        shutil.rmtree(made / "artifacts" / name, ignore_errors=True)
    (made / "config.yaml").write_text(yaml.safe_dump(annotate_config(made)))
    return made


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "flywheel.cli.main", "annotate", *arguments]


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "FLYWHEEL_CONFIG": str(folder / "config.yaml"),
        "PYTHONPATH": str(REPO / "include"),
        "OMP_NUM_THREADS": "1",
        "FLYWHEEL_FORK_SERVER": "0",
    }


def run(folder: Path, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *arguments),
        env=environment(folder),
        cwd=REPO,
        text=True,
        capture_output=True,
        **settings,
    )


SPAN = ("--from", "2024-01-01", "--to", "2024-04-01")


def out(folder: Path) -> Path:
    return folder / "artifacts/annotations/news_classifier/desk/point_in_time"


def files(folder: Path) -> dict[str, bytes]:
    there = out(folder)
    return {
        str(path.relative_to(there)): path.read_bytes() for path in sorted(there.rglob("*")) if path.is_file()
    }


def test_the_champions_of_backfilled_nights_label_what_comes_after_and_it_is_proved(folder: Path) -> None:
    assert len(Timeline(ArtifactRoot(str(folder / "artifacts")), WORKLOAD.id, "desk").counting()) == 2
    done = run(folder, *SPAN)
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = read_manifest(RootFiles(str(out(folder))))
    assert manifest is not None
    assert manifest.rows == TEXTS
    assert 0.7 < manifest.labelled / TEXTS < 0.95  # from the middle of January on
    assert len(manifest.champions) == 2
    proved = run(folder, "--check", str(out(folder)))
    assert proved.returncode == 0, proved.stdout
    assert "0 rows ahead" in proved.stdout


def child(folder: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tests.integration.annotate_child",
        str(folder / "config.yaml"),
        *SPAN[1::2],
    ]


def once(folder: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        child(folder), env=environment(folder), cwd=REPO, text=True, capture_output=True, **settings
    )


@pytest.mark.timeout(900)
def test_ten_kills_lose_and_double_nothing_and_leave_the_same_bytes(folder: Path) -> None:
    started = time.monotonic()
    assert once(folder).returncode == 0
    whole = time.monotonic() - started
    undisturbed = files(folder)
    assert pq.read_table(out(folder) / "rows").num_rows == TEXTS
    shutil.rmtree(folder / "artifacts/annotations")
    rng, kills, ended = random.Random(5), 0, False
    while kills < 10 or not ended:
        process = subprocess.Popen(
            child(folder), env=environment(folder), cwd=REPO, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=rng.uniform(0.3, 0.9) * whole if kills < 10 else None)
            assert process.returncode == 0
            ended = kills == 10
            if not ended:  # it was faster than the kill: some of it once more
                for path in rng.sample(sorted(out(folder).rglob("*.parquet")), 2):
                    path.unlink()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert files(folder) == undisturbed


def test_a_full_disk_is_said_and_the_next_try_gives_the_same_bytes(folder: Path) -> None:
    assert once(folder).returncode == 0
    undisturbed = files(folder)
    shutil.rmtree(folder / "artifacts/annotations")

    def no_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, resource.RLIM_INFINITY))

    full = once(folder, preexec_fn=no_room)
    assert full.returncode == 1
    assert "File too large" in full.stderr
    assert "start it again" in full.stderr
    assert once(folder).returncode == 0
    assert files(folder) == undisturbed


def test_the_worker_of_the_docs_labels_tables_as_annotate_does(folder: Path) -> None:
    page = (REPO / "docs/annotation.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    root = str(folder / "artifacts")
    names: dict[str, Any] = {}
    exec(block.replace("s3://bucket/flywheel", root).replace("2019-03-01", "2024-02-20"), names)
    assert once(folder).returncode == 0
    rows = pq.read_table(out(folder) / "rows" / "month=2024-02", partitioning=None)
    first = rows.filter(pc.equal(rows["adapter"], rows["adapter"][len(rows) - 1]))
    labelled = names["Label"]()(first.select(["text"]))
    assert labelled["label"].to_pylist() == first["label"].to_pylist()
    batches = list(names["label"](iter(first.select(["text"]).to_batches(max_chunksize=100))))
    assert pa.Table.from_batches(batches).equals(labelled.combine_chunks())
