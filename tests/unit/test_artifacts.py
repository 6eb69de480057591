"""The artifact root: whole or not at all, found again, the same in a folder and behind a URL."""

import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.common.errors import ArtifactError, DiskFullError


@pytest.fixture(params=["folder", "memory"])
def root(request, tmp_path: Path, monkeypatch) -> ArtifactRoot:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "folder":
        return ArtifactRoot(str(tmp_path / "artifacts"))
    return ArtifactRoot(request.getfixturevalue("memory_root"))


def build(root: ArtifactRoot, key: str = "k", text: str = "hello") -> None:
    with root.build("datasets", key) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "train.jsonl").write_text(text)


def test_what_was_built_is_found_and_fetched(root: ArtifactRoot) -> None:
    assert not root.find("datasets", "k")
    build(root)
    assert root.find("datasets", "k")
    assert (root.fetch("datasets", "k") / "sub" / "train.jsonl").read_text() == "hello"


def test_a_build_that_fails_leaves_nothing(root: ArtifactRoot) -> None:
    with pytest.raises(ValueError, match="stop"), root.build("datasets", "k") as folder:
        (folder / "half").write_text("x")
        raise ValueError("stop")
    assert not root.find("datasets", "k")
    assert root.list("datasets") == []


def test_the_first_of_two_builds_of_one_key_stays(root: ArtifactRoot) -> None:
    build(root)
    build(root)
    assert [name for name in root.list("datasets") if not name.startswith(".")] == ["k"]


def test_fetching_what_is_not_there_says_so(root: ArtifactRoot) -> None:
    with pytest.raises(ArtifactError, match="no such artifact"):
        root.fetch("datasets", "k")


def test_a_damaged_artifact_is_named(tmp_path: Path) -> None:
    root = ArtifactRoot(str(tmp_path))
    build(root)
    (tmp_path / "datasets/k/sub/train.jsonl").write_text("hell")
    with pytest.raises(ArtifactError, match=r"train\.jsonl: damaged: 4 bytes, expected 5"):
        root.fetch("datasets", "k")


def test_a_removed_artifact_is_gone_and_can_be_built_again(root: ArtifactRoot) -> None:
    build(root)
    root.remove("datasets", "k")
    assert not root.find("datasets", "k")
    root.remove("datasets", "k")
    build(root)
    assert root.find("datasets", "k")


def test_an_unfinished_leftover_is_replaced(tmp_path: Path) -> None:
    leftover = tmp_path / "datasets" / "k"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("x")
    root = ArtifactRoot(str(tmp_path))
    build(root)
    assert not (root.fetch("datasets", "k") / "half").exists()


def test_what_a_killed_build_left_is_swept_once_it_is_old(tmp_path: Path) -> None:
    old, young = tmp_path / "datasets/.k.1", tmp_path / "datasets/.k.2"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (1, 1))
    build(ArtifactRoot(str(tmp_path)), "other")
    assert (old.exists(), young.exists()) == (False, True)


def test_json_files_round_trip_and_a_missing_one_is_named(root: ArtifactRoot) -> None:
    root.write_json("runs/a/plan.json", {"b": [1, None]})
    assert root.exists("runs/a/plan.json")
    assert root.read_json("runs/a/plan.json") == {"b": [1, None]}
    assert root.list("runs/a") == ["plan.json"]
    with pytest.raises(ArtifactError, match=r"none\.json: no such file"):
        root.read_json("runs/none.json")


def test_a_file_that_is_not_json_is_named(root: ArtifactRoot) -> None:
    root.write_bytes("runs/a.json", b"{")
    with pytest.raises(ArtifactError, match=r"a\.json: not valid JSON"):
        root.read_json("runs/a.json")


def test_checkpoints_outlive_their_process_and_are_discarded_at_the_end(root: ArtifactRoot) -> None:
    with root.scratch("adapters", "k") as folder:
        (folder / "step-1").write_text("x")
        root.save_scratch("adapters", "k")
    with root.scratch("adapters", "k") as folder:
        assert (folder / "step-1").read_text() == "x"
    root.discard_scratch("adapters", "k")
    with root.scratch("adapters", "k") as folder:
        assert list(folder.iterdir()) == []


def test_checkpoints_behind_a_url_reach_another_machine(
    memory_root: str, tmp_path: Path, monkeypatch
) -> None:
    root = ArtifactRoot(memory_root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    with root.scratch("adapters", "k") as folder:
        (folder / "step-1").write_text("x")
        root.save_scratch("adapters", "k")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    with root.scratch("adapters", "k") as folder:
        assert (folder / "step-1").read_text() == "x"


def _hold(url: str) -> None:
    with ArtifactRoot(url).scratch("adapters", "k"):
        Path(url, "held").touch()
        time.sleep(60)


def test_a_killed_job_gives_up_its_checkpoints(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(tmp_path),))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with ArtifactRoot(str(tmp_path)).scratch("adapters", "k"):
        pass


def test_an_unknown_scheme_is_a_clear_error() -> None:
    with pytest.raises(ArtifactError, match=r"artifacts\.root 'nope://x'"):
        ArtifactRoot("nope://x")


def test_keys_do_not_depend_on_the_order_of_fields() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    assert len(key_of("x")) == 20


# -- verified ------------------------------------------------------------------------------------------


def stored(root: ArtifactRoot, name: str) -> bytes:
    return root.read_bytes(f"datasets/k/{name}")


@pytest.mark.parametrize(
    ("bytes_now", "said"),
    [(b"hellO", "SHA-256"), (b"", "0 bytes, expected 5"), (None, "missing")],
    ids=["other bytes of the same size", "empty", "gone"],
)
def test_a_damaged_artifact_counts_as_missing_and_is_made_again(
    root: ArtifactRoot, bytes_now: bytes | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    build(root)
    if bytes_now is None:
        root.discard("datasets/k/sub/train.jsonl")
    else:
        root.write_bytes("datasets/k/sub/train.jsonl", bytes_now)
    assert root.lookup("datasets", "k") is None
    assert "sub/train.jsonl" in caplog.text and said in caplog.text and "made again" in caplog.text
    with pytest.raises(ArtifactError, match=r"sub/train\.jsonl.*run curate again"):
        root.fetch("datasets", "k")
    # Behind a URL, looking whether it is there reads no bytes.
    assert root.find("datasets", "k") == (not root.is_folder and said == "SHA-256")
    build(root)
    assert root.find("datasets", "k")
    assert (root.fetch("datasets", "k") / "sub" / "train.jsonl").read_text() == "hello"
    assert stored(root, "sub/train.jsonl") == b"hello"


def test_bytes_that_were_changed_in_place_with_their_times_put_back_are_found(
    tmp_path: Path, monkeypatch
) -> None:
    from flywheel.artifacts import manifests

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(manifests, "_TICK", -(10**18))  # as if the files had been written long ago
    root = ArtifactRoot(str(tmp_path / "artifacts"))
    build(root)
    file = tmp_path / "artifacts/datasets/k/sub/train.jsonl"
    before = file.stat()
    root.fetch("datasets", "k")
    with file.open("r+b") as opened:
        opened.write(b"HELLO")
    while file.stat().st_ctime_ns == before.st_ctime_ns or file.stat().st_mtime_ns != before.st_mtime_ns:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not root.find("datasets", "k")


def test_bytes_are_hashed_once_a_machine_and_again_after_a_write(tmp_path: Path, monkeypatch) -> None:
    from flywheel.artifacts import manifests

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(manifests, "_TICK", -(10**18))  # as if the files had been written long ago
    root = ArtifactRoot(str(tmp_path / "artifacts"))
    build(root)
    hashed: list[str] = []
    monkeypatch.setattr(manifests, "_sha256", lambda base, path: hashed.append(path))
    assert root.find("datasets", "k") and root.lookup("datasets", "k")
    assert hashed == []  # whoever made it has hashed it
    file = tmp_path / "artifacts/datasets/k/sub/train.jsonl"
    os.utime(file, (1, 1))
    with pytest.raises(TypeError):  # None is no hash
        root.find("datasets", "k")
    assert hashed == ["datasets/k/sub/train.jsonl"]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    assert root.find("datasets", "k")


def test_a_file_that_was_written_in_this_moment_is_hashed_again(tmp_path: Path, monkeypatch) -> None:
    """Within one tick of the clock a second write leaves the times as they are."""
    from flywheel.artifacts import manifests

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(manifests, "_TICK", 10**18)
    root = ArtifactRoot(str(tmp_path / "artifacts"))
    build(root)
    assert root.find("datasets", "k")
    assert not list(tmp_path.glob("cache/flywheel/verified/*"))


@pytest.mark.parametrize("size", [5, 4])
def test_a_manifest_of_sizes_alone_is_still_read(root: ArtifactRoot, size: int) -> None:
    build(root)
    root.write_json("datasets/k/manifest.json", {"files": {"sub/train.jsonl": size}})
    assert root.find("datasets", "k") == (size == 5)
    assert (root.lookup("datasets", "k") is not None) == (size == 5)


@pytest.mark.parametrize("name", ["../../runs/secret", "/etc/hostname", "a/../../x", "a//b"])
def test_a_manifest_that_names_a_file_outside_is_damaged(root: ArtifactRoot, name: str) -> None:
    build(root)
    root.write_bytes("runs/secret", b"")
    root.write_json("datasets/k/manifest.json", {"files": {name: 0}})
    assert root.lookup("datasets", "k") is None
    with pytest.raises(ArtifactError, match="outside of the artifact"):
        root.fetch("datasets", "k")


@pytest.mark.parametrize("manifest", [b"", b"[]", b'{"files": []}', b'{"files": {"a": -1}}', b'{"files": 3}'])
def test_a_manifest_that_is_none_is_a_damaged_artifact(root: ArtifactRoot, manifest: bytes) -> None:
    build(root)
    root.write_bytes("datasets/k/manifest.json", manifest)
    assert not root.find("datasets", "k")
    build(root)
    assert root.lookup("datasets", "k") is not None


def test_a_digest_is_of_all_bytes_and_tells_a_changed_manifest(root: ArtifactRoot) -> None:
    build(root)
    digest = root.digest("datasets", "k")
    assert (len(digest), root.fetch("datasets", "k", digest).name) == (64, "k")
    sizes = {"files": {"sub/train.jsonl": 5}}
    root.write_json("datasets/k/manifest.json", sizes)  # as flywheel 0.1.0 wrote it
    assert root.digest("datasets", "k") == digest
    root.write_bytes("datasets/k/sub/train.jsonl", b"HELLO")
    root.write_json("datasets/k/manifest.json", {**sizes, "comment": "other hashes, to suit"})
    root.fetch("datasets", "k")
    with pytest.raises(ArtifactError, match="not the artifact that was meant"):
        root.fetch("datasets", "k", digest)


def test_a_damaged_copy_of_what_is_behind_a_url_is_copied_again(
    memory_root: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = ArtifactRoot(memory_root)
    build(root)
    copy = root.fetch("datasets", "k") / "sub" / "train.jsonl"
    copy.write_text("hellO")
    assert root.fetch("datasets", "k").joinpath("sub/train.jsonl").read_text() == "hello"


def test_a_copy_follows_what_was_made_again_behind_the_url(
    memory_root: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = ArtifactRoot(memory_root)
    build(root)
    root.fetch("datasets", "k")
    root.remove("datasets", "k")
    build(root, text="another")
    assert root.fetch("datasets", "k").joinpath("sub/train.jsonl").read_text() == "another"


# -- durable -------------------------------------------------------------------------------------------


def spied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return what is synced and renamed from now on, in order, by name in the root."""
    seen: list[str] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def sync(file: int) -> None:
        path = os.readlink(f"/proc/self/fd/{file}")
        seen.append(f"sync {Path(path).relative_to(tmp_path)}")
        fsync(file)

    def renamed(old, new, **folders) -> None:
        rename(old, new, **folders)
        seen.append(f"rename to {Path(new).name}")

    def replaced(old, new) -> None:
        replace(old, new)
        seen.append(f"rename to {Path(new).name}")

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "replace", replaced)
    return seen


def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(tmp_path: Path, monkeypatch) -> None:
    root = ArtifactRoot(str(tmp_path))
    root.write_json("runs/r/plan.json", 1)
    seen = spied(monkeypatch, tmp_path)
    root.write_json("runs/r/plan.json", 2)
    assert [re.sub(r"[0-9a-f]{8}$", "ASIDE", one) for one in seen] == [
        "sync runs/r/.plan.json.ASIDE",
        "rename to plan.json",
        "sync runs/r",
    ]


def test_all_files_and_folders_of_an_artifact_are_synced_before_it_has_its_name(
    tmp_path: Path, monkeypatch
) -> None:
    root = ArtifactRoot(str(tmp_path))
    root.remove("datasets", "none")
    build(root, "other")
    seen = spied(monkeypatch, tmp_path)
    build(root)
    named = [re.sub(r"\.k\.[0-9a-f]{8}", "ASIDE", one) for one in seen]
    at = named.index("rename to k")
    assert sorted(named[:at]) == [
        "sync datasets/ASIDE",
        "sync datasets/ASIDE/manifest.json",
        "sync datasets/ASIDE/sub",
        "sync datasets/ASIDE/sub/train.jsonl",
    ]
    assert named.index("sync datasets/ASIDE/sub/train.jsonl") < named.index("sync datasets/ASIDE/sub")
    assert named[at + 1] == "sync datasets"


def test_what_a_stage_puts_in_place_is_synced_around_the_rename(tmp_path: Path, monkeypatch) -> None:
    from flywheel.common.durable import put_in_place
    from flywheel.sources.quarantine import Quarantine

    seen = spied(monkeypatch, tmp_path)
    (tmp_path / "aside").write_text("x")
    put_in_place(tmp_path / "aside", tmp_path / "target")
    assert seen == ["sync aside", "rename to target", "sync ."]
    with Quarantine(tmp_path / "label.quarantine.jsonl") as quarantine:
        quarantine.add("f", 1, "bad")
    assert seen[-2:] == ["rename to label.quarantine.jsonl", "sync ."]


def test_a_full_disk_is_said_with_its_folder_and_what_to_free(tmp_path: Path) -> None:
    root = ArtifactRoot(str(tmp_path))
    with (
        pytest.raises(
            DiskFullError, match=r"datasets: No space left on device while datasets/k .*flywheel prune"
        ),
        root.build("datasets", "k"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert not root.find("datasets", "k")
