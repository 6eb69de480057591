"""The champion: one for each workload and client, with each decision there was; damage is never passed over."""

import os
from pathlib import Path

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.promotion.champion import (
    Champion,
    champion_folder,
    champion_history,
    decisions,
    read_champion,
    read_state,
)
from flywheel.promotion.restore import restore
from flywheel.promotion.timeline import Timeline
from flywheel.promotion.transitions import complete
from tests.unit.champions import place_hold, put_in_force


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
        "metric": "f1_weighted",
        "score": 0.93,
        "score_ci95": (0.91, 0.95),
        "run_id": "night-1",
        "cutoff": 1551484800,
        "promoted_at": "2019-03-02T02:10:00+00:00",
        "reason": "cheap and good",
    }
    return Champion.model_validate(values | changes)


OWN = ("news", "desk")


@pytest.fixture(params=["folder", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactRoot:
    return ArtifactRoot(
        str(tmp_path) if request.param == "folder" else request.getfixturevalue("memory_root")
    )


def adapters(root: ArtifactRoot) -> list[str]:
    return [one.adapter for one in champion_history(root, *OWN)]


def test_there_is_none_before_the_first(root: ArtifactRoot) -> None:
    assert read_champion(root, *OWN) is None
    assert champion_history(root, *OWN) == []


def test_the_next_replaces_it_and_both_are_in_the_history(root: ArtifactRoot) -> None:
    first = put_in_force(root, champion())
    second = put_in_force(root, champion(adapter="a2"))
    assert read_champion(root, *OWN) == second
    assert champion_history(root, *OWN) == [first, second]
    assert read_champion(root, "news", "other") is None
    assert root.read_json(f"{champion_folder(*OWN)}/champion.json")["adapter"] == "a2"


def test_what_a_kill_left_out_of_a_decision_is_completed_before_the_next(tmp_path: Path) -> None:
    root, folder = ArtifactRoot(str(tmp_path)), tmp_path / champion_folder(*OWN)
    put_in_force(root, champion())
    put_in_force(root, champion(adapter="a2"), by="Ada")
    (folder / "kept/0000000002.json").unlink()
    (entry,) = (folder / "timeline").iterdir()
    entry.unlink()
    root.write_json(f"{champion_folder(*OWN)}/champion.json", {"sequence": 1})
    complete(root, *OWN, read_state(root, *OWN))
    assert (folder / "kept/0000000002.json").exists()
    assert entry.exists()
    assert root.read_json(f"{champion_folder(*OWN)}/champion.json")["adapter"] == "a2"


def test_no_file_is_left_beside_the_champion(tmp_path: Path) -> None:
    root, folder = ArtifactRoot(str(tmp_path)), tmp_path / champion_folder(*OWN)
    put_in_force(root, champion())
    assert sorted(path.name for path in folder.iterdir()) == ["champion.json", "decisions", "kept"]
    assert [path.name for path in (folder / "decisions").glob("[!.]*")] == ["0000000001.json"]


def test_what_killed_writers_left_aside_breaks_nothing_and_goes(tmp_path: Path) -> None:
    root, folder = ArtifactRoot(str(tmp_path)), tmp_path / champion_folder(*OWN)
    put_in_force(root, champion())
    left = [
        folder / "decisions/.0000000002.json.a463ac52.aside",
        folder / "decisions/0000000002.json.a463ac52",
        folder / "champion.json.a463ac52",
    ]
    for path in left:
        path.write_text('{"half')
        os.utime(path, (0, 0))
    just_now = folder / "decisions/.0000000002.json.b463ac52.aside"  # of one who is writing
    just_now.write_text('{"half')
    assert read_champion(root, *OWN) is not None
    put_in_force(root, champion(adapter="a2"))
    assert adapters(root) == ["a1", "a2"]
    assert [path for path in left if path.exists()] == []
    assert just_now.exists()


@pytest.mark.parametrize("text", ["", "{", "{}", "7"])
def test_a_damaged_decision_is_an_error_that_says_how_to_restore_it_and_is_restored(
    tmp_path: Path, text: str
) -> None:
    root, folder = ArtifactRoot(str(tmp_path)), tmp_path / champion_folder(*OWN)
    first, second = put_in_force(root, champion()), put_in_force(root, champion(adapter="a2"))
    path = folder / "decisions/0000000002.json"
    path.write_text(text)
    for read in (read_champion, champion_history, read_state):
        with pytest.raises(
            ArtifactError, match=r"decisions/0000000002\.json: .*; `flywheel champion restore`"
        ):
            read(root, *OWN)
    with pytest.raises(ArtifactError, match="flywheel champion restore"):
        put_in_force(root, champion(adapter="a3"))
    assert path.read_text() == text  # never remade by itself
    (said,) = restore(root, *OWN)
    assert said.endswith("decisions/0000000002.json: put back from its copy")
    assert read_champion(root, *OWN) == second
    assert champion_history(root, *OWN) == [first, second]
    assert [damaged.read_text() for damaged in (folder / "damaged").iterdir()] == [text]
    assert restore(root, *OWN) == []


def test_a_decision_that_says_something_else_than_was_written_is_damaged(root: ArtifactRoot) -> None:
    put_in_force(root, champion())
    path = f"{champion_folder(*OWN)}/decisions/0000000001.json"
    content = root.read_json(path)
    root.write_json(path, {**content, "champion": {**content["champion"], "adapter": "a7"}})
    with pytest.raises(ArtifactError, match=r"0000000001\.json: damaged, its digest is another"):
        read_champion(root, *OWN)


def test_a_person_s_entry_of_the_timeline_that_is_damaged_is_written_anew(root: ArtifactRoot) -> None:
    put_in_force(root, champion(), by="Ada")
    put_in_force(root, champion(adapter="a2"), by="Ada")
    line = Timeline(root, *OWN)
    before, damaged = line.entries(), f"{line.folder}/{line.names()[0]}"
    root.write_json(damaged, {"half": 1})
    with pytest.raises(ArtifactError, match="remove it; `flywheel champion restore` writes it anew"):
        line.entries()
    root.discard(damaged)
    restore(root, *OWN)
    assert [entry.champion for entry in line.entries()] == [entry.champion for entry in before]


@pytest.mark.parametrize("gone", [[1], [2], [1, 2, 3], [3]])
def test_decisions_that_are_missing_are_named_and_put_back(root: ArtifactRoot, gone: list[int]) -> None:
    for name in ("a1", "a2", "a3"):
        put_in_force(root, champion(adapter=name))
    for number in gone:
        root.discard(f"{champion_folder(*OWN)}/decisions/{number:010}.json")
    with pytest.raises(ArtifactError, match="flywheel champion restore"):
        put_in_force(root, champion(adapter="a4"))
    assert len(restore(root, *OWN)) == len(gone)
    assert adapters(root) == ["a1", "a2", "a3"]
    assert put_in_force(root, champion(adapter="a4")) == read_champion(root, *OWN)


def test_a_decision_without_a_whole_copy_is_given_up_only_at_a_person_s_word(root: ArtifactRoot) -> None:
    put_in_force(root, champion())
    hold = place_hold(root, *OWN, dataset=None, adapter="a9", by="Ada")
    put_in_force(root, champion(adapter="a2"))
    for folder in ("decisions", "kept"):
        root.write_json(f"{champion_folder(*OWN)}/{folder}/0000000003.json", {"half": 1})
    with pytest.raises(
        ArtifactError, match="go on with the state before it: `flywheel champion restore --give"
    ):
        restore(root, *OWN)
    said = restore(root, *OWN, give_up=True, by="Ada")
    assert "given up" in said[0]
    state = read_state(root, *OWN)
    assert state is not None
    assert (state.sequence, state.kind, state.by, state.hold) == (3, "lost", "Ada", hold)
    assert state.champion is not None
    assert state.champion.adapter == "a1"
    put_in_force(root, champion(adapter="a3"))
    assert adapters(root) == ["a1", "a3"]
    assert root.read_json(f"{champion_folder(*OWN)}/champion.json")["adapter"] == "a3"


def test_one_in_the_middle_is_given_up_without_those_after_it(root: ArtifactRoot) -> None:
    for name in ("a1", "a2", "a3"):
        put_in_force(root, champion(adapter=name))
    for folder in ("decisions", "kept"):
        root.discard(f"{champion_folder(*OWN)}/{folder}/0000000002.json")
    restore(root, *OWN, give_up=True)
    assert adapters(root) == ["a1", "a3"]
    assert [one.kind for one in decisions(root, *OWN)] == ["promoted", "lost", "promoted"]


def test_a_decision_that_was_taken_from_elsewhere_is_found(root: ArtifactRoot) -> None:
    for name in ("a1", "a2"):
        put_in_force(root, champion(adapter=name))
        put_in_force(root, champion(adapter=f"{name}'", client_id="other"))
    there = root.read_json(f"{champion_folder('news', 'other')}/decisions/0000000001.json")
    root.write_json(f"{champion_folder(*OWN)}/decisions/0000000001.json", there)
    with pytest.raises(ArtifactError, match="not the decision that the next one followed"):
        champion_history(root, *OWN)
    restore(root, *OWN)
    assert adapters(root) == ["a1", "a2"]


def test_ids_never_share_a_folder_or_leave_the_root() -> None:
    ids = ["a/b", "a-b", "a.b", "..", ".", "a%2Fb", "a b", "A", "x" * 256, "x" * 255 + "y", "é"]
    folders = {champion_folder(one, other) for one in ids for other in ids}
    assert len(folders) == len(ids) ** 2
    for folder in folders:
        parts = folder.split("/")
        assert len(parts) == 3
        assert all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
