"""Artifacts behind s3://, through s3fs and HTTP: found, verified, made again, and listed without what leads out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel.artifacts.root import ArtifactRoot
from tests.s3_server import S3Server, s3_server

s3fs = pytest.importorskip("s3fs")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3Server]:
    with s3_server() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.server_address[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        s3fs.S3FileSystem.clear_instance_cache()
        yield running
        s3fs.S3FileSystem.clear_instance_cache()


def build(root: ArtifactRoot) -> None:
    with root.build("adapters", "k") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "weights").write_text("hello")


@pytest.mark.parametrize("damage", [b"hellO", b"", None], ids=["other bytes", "empty", "gone"])
def test_a_damaged_artifact_is_made_again_and_another_machines_copy_follows(
    server: S3Server, damage: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, name = ArtifactRoot("s3://bucket/flywheel"), "bucket/flywheel/adapters/k/sub/weights"
    assert root.lookup("adapters", "k") is None
    build(root)
    assert root.find("adapters", "k")
    if damage is None:
        del server.objects[name]
    else:
        server.objects[name] = damage
    assert root.find("adapters", "k") == (damage == b"hellO")
    assert root.lookup("adapters", "k") is None
    build(root)
    assert server.objects[name] == b"hello"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert (root.fetch("adapters", "k") / "sub" / "weights").read_text() == "hello"
    assert root.fetch("adapters", "k", root.digest("adapters", "k")).is_relative_to(tmp_path / "another")


def test_checkpoints_reach_another_machine(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ArtifactRoot("s3://bucket/flywheel")
    with root.scratch("adapters", "k") as folder:
        (folder / "step").write_text("1")
        root.save_scratch("adapters", "k")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    with root.scratch("adapters", "k") as folder:
        assert (folder / "step").read_text() == "1"


def test_the_key_of_an_object_that_leads_out_is_passed_over(server: S3Server, tmp_path: Path) -> None:
    root = ArtifactRoot("s3://bucket/flywheel")
    root.write_json("runs/r/plan.json", 1)
    server.objects["bucket/flywheel/runs/r/../../../evil"] = b"x"
    assert root.files_below("runs/r") == ["runs/r/plan.json"]
    root.get_tree("runs/r", tmp_path / "copy")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["plan.json"]
