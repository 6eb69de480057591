"""No path leaves the artifact root, whatever links are in it: reading, writing, listing and removing."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, OutsideError
from flywheel.runs.run import Run
from flywheel.web import archive, predictions, run_files

SECRET = "root:x:0:0"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "report.html").write_text(SECRET)
    (folder / "plan.json").write_text(f'"{SECRET}"')
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactRoot:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = ArtifactRoot(str(tmp_path / "artifacts"))
    root.write_json("runs/r/stages/label.json", {})
    return root


def linked_file(folder: Path, outside: Path) -> str:
    (folder / "runs/r/report.html").symlink_to(outside / "report.html")
    return "runs/r/report.html"


def linked_folder(folder: Path, outside: Path) -> str:
    (folder / "runs/linked").symlink_to(outside)
    return "runs/linked/report.html"


def linked_kind(folder: Path, outside: Path) -> str:
    (folder / "adapters").symlink_to(outside)
    return "adapters/report.html"


def link_to_a_link(folder: Path, outside: Path) -> str:
    (folder / "hop").symlink_to(outside)
    (folder / "runs/r/deep").symlink_to("../../hop")
    return "runs/r/deep/report.html"


def link_that_stays_inside(folder: Path, outside: Path) -> str:
    (folder / "runs/r/report.html").symlink_to("stages/label.json")
    return "runs/r/report.html"


LINKS = (linked_file, linked_folder, linked_kind, link_to_a_link, link_that_stays_inside)


@pytest.mark.parametrize("link", LINKS)
def test_a_link_is_not_followed_by_whatever_reads(
    root: ArtifactRoot, outside: Path, link: Callable[[Path, Path], str], tmp_path: Path
) -> None:
    path = link(Path(root.url), outside)
    target = tmp_path / "copy"
    for read in (
        root.read_bytes,
        root.read_json,
        root.exists,
        root.open,
        lambda path: root.get_file(path, target),
    ):
        with pytest.raises(OutsideError, match="a symbolic link, which is not followed"):
            read(path)
    assert not target.exists()
    assert SECRET.encode() not in b"".join(map(root.read_bytes, root.files_below("runs")))


@pytest.mark.parametrize("link", [linked_folder, linked_kind, link_to_a_link])
def test_a_linked_folder_is_neither_listed_nor_written_nor_emptied(
    root: ArtifactRoot, outside: Path, link: Callable[[Path, Path], str]
) -> None:
    path = link(Path(root.url), outside)
    folder = path.rpartition("/")[0]
    for use in (
        root.list,
        lambda folder: root.write_json(f"{folder}/new.json", 1),
        lambda folder: root.create(f"{folder}/new.json", b""),
        lambda folder: root.discard(f"{folder}/report.html"),
        lambda folder: root.remove_tree(f"{folder}/report.html"),
    ):
        with pytest.raises(OutsideError):
            use(folder)
    assert sorted(os.listdir(outside)) == ["plan.json", "report.html"]


def test_removing_a_link_or_what_has_links_in_it_leaves_what_they_lead_to(
    root: ArtifactRoot, outside: Path
) -> None:
    path = linked_file(Path(root.url), outside)
    linked_folder(Path(root.url), outside)
    root.discard(path)
    root.remove_tree("runs/linked")
    (Path(root.url) / "runs/r/x").symlink_to(outside)
    root.remove_tree("runs")
    assert root.list("runs") == []
    assert sorted(os.listdir(outside)) == ["plan.json", "report.html"]


def test_a_link_in_a_files_place_is_replaced_and_not_written_through(
    root: ArtifactRoot, outside: Path
) -> None:
    path = linked_file(Path(root.url), outside)
    root.write_bytes(path, b"mine")
    assert (root.read_bytes(path), (outside / "report.html").read_text()) == (b"mine", SECRET)


@pytest.mark.parametrize(
    "path",
    [
        "../outside/report.html",
        "runs/../../outside/report.html",
        "runs/r/..",
        "/etc/hostname",
        "runs//r",
        "runs/./r",
        "runs/r/",
        "runs/r\0",
    ],
)
@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_a_path_that_leaves_the_root_or_is_none_is_refused(
    root: ArtifactRoot, outside: Path, path: str, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "memory":
        root = ArtifactRoot(request.getfixturevalue("memory_root"))
    for use in (root.read_bytes, root.exists, root.discard, root.remove_tree, root.list, root.files_below):
        with pytest.raises(OutsideError, match="stays in the artifact root"):
            use(path)
    with pytest.raises(OutsideError):
        root.write_bytes(path, b"")


@pytest.mark.parametrize("path", ["..%2foutside%2freport.html", "%2e%2e/outside/report.html", "..\\outside"])
def test_an_encoded_path_is_the_name_of_something_that_is_not_there(
    root: ArtifactRoot, outside: Path, path: str
) -> None:
    assert not root.exists(path)


def test_a_pipe_or_a_socket_is_refused_and_waits_for_nobody(root: ArtifactRoot) -> None:
    os.mkfifo(Path(root.url) / "runs/pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        before = os.getcwd()
        os.chdir(Path(root.url) / "runs")  # the whole path may be too long for a socket's
        listening.bind("socket")
        os.chdir(before)
    for name in ("pipe", "socket"):
        with pytest.raises(OutsideError, match="no plain file"):
            root.read_bytes(f"runs/{name}")


def test_the_root_itself_may_be_a_link(root: ArtifactRoot, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root.url)
    assert ArtifactRoot(str(tmp_path / "link")).read_json("runs/r/stages/label.json") == {}


@pytest.mark.parametrize("link", [linked_file, linked_folder])
def test_the_api_serves_no_link(
    root: ArtifactRoot,
    outside: Path,
    link: Callable[[Path, Path], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run(root, link(Path(root.url), outside).split("/")[1])
    assert run_files.read_bytes(run, "report.html") is None
    assert "not served" in caplog.text
    (Path(root.url) / "runs/r/plan.json").symlink_to(outside / "plan.json")
    assert run_files.read_json(run, "plan.json") is None


def test_an_artifact_with_a_link_in_it_is_damaged(root: ArtifactRoot, outside: Path) -> None:
    for kind in ("adapters", "evaluations"):
        with root.build(kind, "k") as folder:
            (folder / "predictions.jsonl").write_text("{}\n")
        assert list(archive.files_of(root, kind, "k")) == ["predictions.jsonl"]
        (outside / "predictions.jsonl").write_text("{}\n")
        file = Path(root.url) / kind / "k/predictions.jsonl"
        file.unlink()
        file.symlink_to(outside / "predictions.jsonl")
        assert not root.find(kind, "k")
    with pytest.raises(ArtifactError):
        list(predictions.lines_of(root, "k"))
    with pytest.raises(ArtifactError):
        archive.files_of(root, "adapters", "k")
    with pytest.raises(OutsideError):
        b"".join(archive.tar(root, "adapters", "k", "f", {"predictions.jsonl": 3}))


def test_a_stage_does_not_write_into_a_run_that_is_a_link(root: ArtifactRoot, outside: Path) -> None:
    linked_folder(Path(root.url), outside)
    with pytest.raises(OutsideError), Run(root, "linked").folder() as folder:
        (folder / "new").touch()
    assert not (outside / "new").exists()


@pytest.mark.parametrize("name", ["label.json", "jobs/x/deep.json"])
def test_a_stage_does_not_write_through_a_link_that_somebody_put_into_its_run(
    root: ArtifactRoot, outside: Path, name: str
) -> None:
    path = Path(root.url) / "runs/r" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside / "report.html")
    with pytest.raises(OutsideError, match=rf"{name}: a symbolic link"), Run(root, "r").folder() as folder:
        (folder / name).write_text("overwritten")
    assert (outside / "report.html").read_text() == SECRET


def test_a_build_or_a_scratch_folder_goes_through_no_link(root: ArtifactRoot, outside: Path) -> None:
    linked_kind(Path(root.url), outside)
    (Path(root.url) / "scratch").symlink_to(outside)
    with pytest.raises(OutsideError), root.build("adapters", "k"):
        pass
    with pytest.raises(OutsideError), root.scratch("adapters", "k"):
        pass
    assert sorted(os.listdir(outside)) == ["plan.json", "report.html"]


@pytest.mark.parametrize("name", ["../../evil", "/evil"])
def test_the_key_of_an_object_that_is_no_path_is_not_copied_here(
    memory_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = ArtifactRoot(memory_root)
    monkeypatch.setattr(root.fs, "find", lambda path, **more: [f"{path}/{name}", f"{path}/good"])
    assert root.files_below("runs/r") == ["runs/r/good"]
