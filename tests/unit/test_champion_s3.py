"""Decisions on a champion behind s3://, through s3fs and HTTP, against a server with conditional writes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel.artifacts import create_once as room
from flywheel.artifacts.create_once import create_once
from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.promotion.champion import champion_folder, champion_history, decisions, read_champion
from tests.s3_server import S3Server, s3_server
from tests.unit.champions import put_in_force
from tests.unit.test_champion import OWN, champion

s3fs = pytest.importorskip("s3fs")
PROJECT = Path(__file__).parents[2]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3Server]:
    with s3_server() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.server_address[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(room, "_tried", set())
        s3fs.S3FileSystem.clear_instance_cache()
        yield running
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def root(server: S3Server) -> ArtifactRoot:
    return ArtifactRoot("s3://bucket/flywheel")


def test_decisions_follow_each_other(root: ArtifactRoot, server: S3Server) -> None:
    first = put_in_force(root, champion())
    second = put_in_force(root, champion(adapter="a2"), by="Ada")
    assert read_champion(root, *OWN) == second
    assert champion_history(root, *OWN) == [first, second]
    there = [key for key in server.objects if "/decisions/" in key]
    assert there == [f"bucket/flywheel/{champion_folder(*OWN)}/decisions/{n:010}.json" for n in (1, 2)]


def test_a_name_is_taken_once(root: ArtifactRoot, server: S3Server) -> None:
    assert create_once(root, "champions/1.json", b"one")
    assert not create_once(root, "champions/1.json", b"two")
    assert server.objects["bucket/flywheel/champions/1.json"] == b"one"


def test_what_another_host_decided_is_seen_and_not_written_over(root: ArtifactRoot) -> None:
    elsewhere = ArtifactRoot("s3://bucket/flywheel")
    elsewhere.fs = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    put_in_force(root, champion())
    assert read_champion(elsewhere, *OWN) is not None
    put_in_force(root, champion(adapter="a2"))
    put_in_force(elsewhere, champion(adapter="a3"))
    put_in_force(root, champion(adapter="a4"))
    assert [one.adapter for one in champion_history(elsewhere, *OWN)] == ["a1", "a2", "a3", "a4"]


def test_a_decision_whose_answer_was_lost_is_taken_once(root: ArtifactRoot, server: S3Server) -> None:
    put_in_force(root, champion())
    server.drops = 1  # s3fs asks again, and is told that the name is taken
    put_in_force(root, champion(adapter="a2"))
    assert server.drops == 0
    assert [one.adapter for one in champion_history(root, *OWN)] == ["a1", "a2"]


def test_a_store_that_passes_over_the_condition_is_refused(root: ArtifactRoot, server: S3Server) -> None:
    server.heeds_conditions = False
    with pytest.raises(ArtifactError, match="writes over a file in spite of `If-None-Match"):
        put_in_force(root, champion())
    assert read_champion(root, *OWN) is None


DECIDE = """
import sys
sys.path[:0] = ["include", "."]
from flywheel.artifacts.root import ArtifactRoot
from tests.unit.champions import put_in_force
from tests.unit.test_champion import champion
root = ArtifactRoot("s3://bucket/flywheel")
for number in range(8):
    put_in_force(root, champion(adapter=f"{sys.argv[1]}-{number}"), by=sys.argv[1])
"""


def test_of_many_decisions_at_once_by_processes_none_is_lost(root: ArtifactRoot) -> None:
    command = [sys.executable, "-c", DECIDE]
    deciding = [subprocess.Popen([*command, name], cwd=PROJECT) for name in ("Ada", "Bob")]
    assert [process.wait() for process in deciding] == [0, 0]
    there = decisions(root, *OWN)
    assert {one.champion.adapter for one in there if one.champion} == {
        f"{name}-{number}" for name in ("Ada", "Bob") for number in range(8)
    }
    assert [one.sequence for one in there] == list(range(1, 17))
