"""The champion file: replaced whole, one for each workload and client, with a history."""

from pathlib import Path

import pytest

from flywheel.artifacts import ArtifactRoot
from flywheel.champion import (
    Champion,
    champion_folder,
    champion_history,
    read_champion,
    replace_champion,
)
from flywheel.errors import ArtifactError


def champion(**changes: object) -> Champion:
    values: dict[str, object] = {
        "workload_id": "news",
        "client_id": "desk",
        "student": "1b",
        "model_name": "meta/llama-1b",
        "weights": "/weights/1b",
        "size": 5000,
        "parameters": 1_240_000_000,
        "adapter": "a1",
        "adapter_path": "adapters/a1",
        "dataset": "d1",
        "evaluation": "e1",
        "f1_weighted": 0.93,
        "f1_weighted_ci95": (0.91, 0.95),
        "run_id": "night-1",
        "cutoff": 1551484800,
        "promoted_at": "2019-03-02T02:10:00+00:00",
        "reason": "cheap and good",
    }
    return Champion.model_validate(values | changes)


@pytest.fixture(params=["folder", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactRoot:
    return ArtifactRoot(
        str(tmp_path) if request.param == "folder" else request.getfixturevalue("memory_root")
    )


def test_there_is_none_before_the_first(root: ArtifactRoot) -> None:
    assert read_champion(root, "news", "desk") is None
    assert champion_history(root, "news", "desk") == []


def test_the_next_replaces_it_and_both_are_in_the_history(root: ArtifactRoot) -> None:
    first = champion()
    second = champion(adapter="a2", promoted_at="2019-03-03T02:10:00+00:00")
    for one in (first, second):
        replace_champion(root, one)
    assert read_champion(root, "news", "desk") == second
    assert champion_history(root, "news", "desk") == [first, second]
    assert read_champion(root, "news", "other") is None


def test_putting_the_same_in_force_again_changes_nothing(root: ArtifactRoot) -> None:
    replace_champion(root, champion())
    replace_champion(root, champion())
    assert len(champion_history(root, "news", "desk")) == 1


def test_a_retry_completes_a_history_that_a_kill_cut_short(tmp_path: Path) -> None:
    root = ArtifactRoot(str(tmp_path))
    replace_champion(root, champion())
    for path in (tmp_path / champion_folder("news", "desk") / "history").iterdir():
        path.unlink()
    replace_champion(root, champion())
    assert champion_history(root, "news", "desk") == [champion()]


def test_no_file_is_left_beside_the_champion(tmp_path: Path) -> None:
    root = ArtifactRoot(str(tmp_path))
    replace_champion(root, champion())
    folder = tmp_path / champion_folder("news", "desk")
    assert sorted(path.name for path in folder.iterdir()) == ["champion.json", "history"]


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    root = ArtifactRoot(str(tmp_path))
    replace_champion(root, champion())
    path = tmp_path / champion_folder("news", "desk") / "champion.json"
    for text, message in (("{", "not valid JSON"), ("{}", "not a champion")):
        path.write_text(text)
        with pytest.raises(ArtifactError, match=rf"champion\.json: {message}"):
            read_champion(root, "news", "desk")


def test_ids_never_share_a_folder_or_leave_the_root() -> None:
    ids = ["a/b", "a-b", "a.b", "..", ".", "a%2Fb", "a b", "A", "x" * 256, "x" * 255 + "y", "é"]
    folders = {champion_folder(one, other) for one in ids for other in ids}
    assert len(folders) == len(ids) ** 2
    for folder in folders:
        parts = folder.split("/")
        assert len(parts) == 3
        assert all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
