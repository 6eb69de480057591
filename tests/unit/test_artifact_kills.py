"""SIGKILL at random moments of what writes to an artifact root: never half a file, and a retry makes it whole."""

import os
import subprocess
import sys
from pathlib import Path

import orjson

from flywheel.artifacts.root import ArtifactRoot

KILLS = 100

# One process writes and is killed, then the next; each is forked, as a start of Python takes a second.
DRIVER = """
import os, random, select, signal, sys
from flywheel.artifacts.root import ArtifactRoot

url, kills = sys.argv[1], int(sys.argv[2])
LONG = "x" * 3_000_000  # so that writing it takes as long as the rest

def work():
    root = ArtifactRoot(url)
    for turn in range(1_000_000):
        root.write_json(f"runs/r{turn % 3}/plan.json", [turn, LONG, turn])
        with root.build("datasets", f"k{random.randrange(40)}") as folder:
            (folder / "sub").mkdir()
            for name in ("train.jsonl", "sub/val.jsonl"):
                (folder / name).write_text(LONG[: random.randrange(1, len(LONG))])
        if turn % 5 == 4:
            root.remove("datasets", f"k{random.randrange(40)}")
        with root.scratch("adapters", "a") as scratch:
            (scratch / "step").write_text("1")
        os.write(told, b".")

random.seed(15)
for kill in range(kills):
    hears, told = os.pipe()
    child = os.fork()
    if child == 0:
        random.seed(kill)
        work()
    os.close(told)
    os.read(hears, 1)  # it is in the middle of its work
    select.select([], [], [], random.random() * 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(hears)
    root = ArtifactRoot(url)
    for name in root.list("runs"):
        for file in root.list(f"runs/{name}"):
            if file.endswith(".json"):
                first, _, last = root.read_json(f"runs/{name}/{file}")
                assert first == last, (kill, name)
    for key in root.list("datasets"):
        if not key.startswith(".") and "manifest.json" in root.list(f"datasets/{key}"):
            root.fetch("datasets", key)
"""


def test_a_kill_at_any_moment_leaves_no_half_file_and_a_retry_makes_it_whole(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    home = tmp_path / "artifacts"
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(home), str(KILLS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    root = ArtifactRoot(str(home))
    for number in range(40):
        with root.build("datasets", f"k{number}") as folder:
            (folder / "train.jsonl").write_text("whole")
        assert root.lookup("datasets", f"k{number}") is not None
    asides = [path for path in (home / "runs").rglob(".*") if path.is_file()]
    for path in asides:
        os.utime(path, (1, 1))
    for name in root.list("runs"):
        root.write_json(f"runs/{name}/plan.json", [1])
        assert orjson.loads((home / "runs" / name / "plan.json").read_bytes()) == [1]
    assert {path.name for path in (home / "runs").rglob("*") if path.is_file()} == {"plan.json"}


def test_what_a_write_is_still_at_is_not_swept(tmp_path: Path) -> None:
    root = ArtifactRoot(str(tmp_path))
    root.write_bytes("runs/r/.plan.json.0123abcd", b"half")
    root.write_bytes("runs/r/.label.json.0123abcd", b"of another file")
    os.utime(tmp_path / "runs/r/.label.json.0123abcd", (1, 1))
    root.write_json("runs/r/plan.json", [1])
    assert root.list("runs/r") == [".label.json.0123abcd", ".plan.json.0123abcd", "plan.json"]
