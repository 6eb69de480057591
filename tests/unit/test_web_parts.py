"""Parts of the API that need no server: archives, idempotency, deletion, the line of champions."""

import io
import shutil
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi import Response
from pydantic import BaseModel

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.promotion.champion import Champion, champion_history, read_champion
from flywheel.runs.names import folder_name, former_folder_name
from flywheel.runs.run import Run
from flywheel.stages import pipeline as wheel
from flywheel.web import archive, deletion, idempotency, promotion, summaries
from flywheel.web.problems import Problem
from tests.unit.finished_run import config_of, finish, plan_of


class User:
    def get_id(self) -> str:
        return "7"

    def get_name(self) -> str:
        return "Ada"


class Given(BaseModel):
    number: int


# -- what lists keep -----------------------------------------------------------------------------------


def test_a_row_of_a_list_is_made_anew_only_where_the_run_or_what_it_found_out_is_another() -> None:
    kept: summaries.KeptRows[int] = summaries.KeptRows()
    made = iter(range(10))

    def line() -> Any:
        return summaries.RunLine.model_construct(run_id="night")

    first, other = line(), line()
    found: Any = object()
    found_more: Any = object()
    assert kept.of(first, found, made.__next__) == kept.of(first, found, made.__next__) == 0
    assert kept.of(first, found_more, made.__next__) == 1
    assert kept.of(other, found_more, made.__next__) == 2
    kept.forget_all_but(set())
    assert kept.of(other, found_more, made.__next__) == 3


# -- archives ------------------------------------------------------------------------------------------


def test_an_archive_is_a_tar_of_the_length_that_was_said(tmp_path: Path) -> None:
    root = ArtifactRoot(str(tmp_path))
    content = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(range(256)) * 5000}
    with root.build("adapters", "k") as folder:
        for name, data in content.items():
            (folder / name).write_bytes(data)
    files = archive.files_of(root, "adapters", "k")
    data = b"".join(archive.tar(root, "adapters", "k", "1b@5", files))
    assert len(data) == archive.tar_bytes("1b@5", files)
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        read = {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]
    assert read == {f"1b@5/{name}": data for name, data in content.items()}


def test_an_archive_holds_nothing_from_outside_of_its_artifact(tmp_path: Path) -> None:
    root = ArtifactRoot(str(tmp_path))
    root.write_json("adapters/k/manifest.json", {"files": {"../../secret": 3}})
    with pytest.raises(ArtifactError, match="outside"):
        archive.files_of(root, "adapters", "k")


# -- idempotency ---------------------------------------------------------------------------------------


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    config = {"nims": [{"model_name": "acme/one"}], "artifacts": {"root": str(tmp_path / "artifacts")}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(tmp_path / "config.yaml"))
    return tmp_path


def test_work_under_the_same_key_is_done_once(configured: Path) -> None:
    done: list[int] = []

    def work() -> Given:
        done.append(1)
        return Given(number=len(done))

    first = idempotency.once(User(), "POST x", "k", Given(number=0), work)
    again: Any = idempotency.once(User(), "POST x", "k", Given(number=0), work)
    assert first.number == 1
    assert isinstance(again, Response)
    assert again.body == b'{"number":1}'
    assert len(done) == 1
    assert idempotency.once(User(), "POST y", "k", Given(number=0), work).number == 2


def test_a_key_stands_for_one_request(configured: Path) -> None:
    idempotency.once(User(), "POST x", "k", Given(number=0), lambda: Given(number=1))
    with pytest.raises(Problem) as refused:
        idempotency.once(User(), "POST x", "k", Given(number=9), lambda: Given(number=1))
    assert refused.value.status == 422


def test_an_error_is_not_kept(configured: Path) -> None:
    def fail() -> Given:
        raise Problem(503, "not now")

    with pytest.raises(Problem):
        idempotency.once(User(), "POST x", "k", Given(number=0), fail)
    assert idempotency.once(User(), "POST x", "k", Given(number=0), lambda: Given(number=1)).number == 1


def test_the_same_request_while_the_first_is_being_done_is_a_conflict(configured: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> Given:
        begun.set()
        go_on.wait(30)
        return Given(number=1)

    first = threading.Thread(target=idempotency.once, args=(User(), "POST x", "k", Given(number=0), slow))
    first.start()
    begun.wait(30)
    with pytest.raises(Problem) as refused:
        idempotency.once(User(), "POST x", "k", Given(number=0), slow)
    go_on.set()
    first.join()
    assert refused.value.status == 409


# -- deletion ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give an artifact root with three scored nights, and a copy of it: scoring takes seconds."""
    folder = tmp_path_factory.mktemp("scored") / "now"
    folder.mkdir()
    config = config_of(str(folder / "artifacts"), f"sqlite:///{folder / 'mlflow.db'}")
    for number, seed in enumerate((1, 1, 2)):
        run = finish(plan_of(config, f"night-{number}", day=2 + number), data_seed=seed)
        wheel.score(run)
    wheel.promote(run)
    shutil.copytree(folder / "artifacts", folder / "then", symlinks=True)
    return folder / "artifacts", folder / "then"


@pytest.fixture
def nights(scored: tuple[Path, Path]) -> list[Run]:
    """Give three scored nights: the first two of the same data, the third of other data and the champion's."""
    folder, then = scored
    shutil.rmtree(folder)
    shutil.copytree(then, folder, symlinks=True)
    root = ArtifactRoot(str(folder))
    return [Run(root, f"night-{number}") for number in range(3)]


def adapters(run: Run) -> list[str]:
    return run.root.list("adapters")


def test_what_another_run_uses_stays(nights: list[Run]) -> None:
    before = adapters(nights[0])
    assert deletion.remove_files(nights[0], nights[0].plan) == []
    assert adapters(nights[1]) == before
    assert nights[0].root.list("runs") == ["night-1", "night-2"]


def test_what_it_alone_has_made_goes(nights: list[Run]) -> None:
    root = nights[0].root
    deletion.remove_files(nights[0], nights[0].plan)
    removed = deletion.remove_files(nights[1], nights[1].plan)
    assert {kind for kind, _ in removed} == {"adapters", "datasets", "evaluations"}
    assert len(adapters(nights[2])) == 9
    assert len(root.list("datasets")) == 1


def test_the_champions_adapter_stays_and_the_others_of_its_run_go(nights: list[Run]) -> None:
    root = nights[2].root
    champion = read_champion(root, "news_classifier", nights[2].plan.client_id)
    assert champion is not None
    deletion.remove_files(nights[2], nights[2].plan)
    assert root.find("adapters", champion.adapter)
    assert root.find("datasets", str(champion.dataset))
    assert len(adapters(nights[0])) == 9 + 1


def test_nothing_of_a_dataset_goes_while_a_run_on_it_is_not_scored(nights: list[Run]) -> None:
    finish(plan_of(nights[2].plan.config, "going", day=5), data_seed=2, f1={("1b", 999): 0.0})
    assert deletion.remove_files(nights[2], nights[2].plan) == []


def test_what_is_no_key_of_an_artifact_is_not_removed(nights: list[Run], tmp_path: Path) -> None:
    run = nights[2]
    (tmp_path / "precious").write_text("x")
    curated = run.root.read_json(f"{run.path}/stages/curate.json")
    curated["result"]["dataset"] = f"../../{'../' * 9}{tmp_path}"
    run.root.write_json(f"{run.path}/stages/curate.json", curated)
    deletion.remove_files(run, run.plan)
    assert (tmp_path / "precious").exists()


def test_latest_then_names_the_run_that_was_scored_last(nights: list[Run]) -> None:
    from flywheel.report.files import latest_path

    deletion.remove_files(nights[2], nights[2].plan)
    assert latest_path(nights[0].root) == "runs/night-1"


@pytest.mark.parametrize("run_id", [".", "..", "..."])
def test_no_run_id_leads_out_of_the_folder_of_runs(run_id: str) -> None:
    assert folder_name(run_id).startswith("-") and "/" not in folder_name(run_id)
    assert set(former_folder_name(run_id)) == {"-"}


# -- champions -----------------------------------------------------------------------------------------


def champion(adapter: str) -> Champion:
    return Champion.model_construct(adapter=adapter)


@pytest.mark.parametrize(
    ("history", "standing", "before"),
    [
        ("a", "a", None),
        ("ab", "b", "a"),
        ("aba", "a", None),
        ("abcb", "b", "a"),
        ("abcba", "a", None),
        ("abab", "b", "a"),
        ("abbc", "c", "b"),
    ],
)
def test_rolling_back_twice_goes_back_twice(history: str, standing: str, before: str | None) -> None:
    found = promotion.champion_before([champion(name) for name in history], champion(standing))
    assert (found.adapter if found else None) == before


def test_a_promotion_and_its_rollback_are_in_the_history(
    nights: list[Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from flywheel.report import read_report
    from flywheel.web import airflow_actions

    told: list[str] = []
    monkeypatch.setattr(airflow_actions, "tell_of_champion", lambda user, champion, why: told.append(why))
    config = yaml.safe_dump(nights[0].plan.config.model_dump(mode="json"))
    (tmp_path / "config.yaml").write_text(config)
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(tmp_path / "config.yaml"))
    run, root = nights[0], nights[0].root
    whose = (root, "news_classifier", run.plan.client_id)
    before = read_champion(*whose)
    assert before is not None
    made, warnings = promotion.promote(User(), run.plan, read_report(root, run.run_id), "8b", 25, "try it")
    assert (made.student, made.comment, warnings) == ("8b", "try it", [])
    back, _ = promotion.roll_back(User(), *whose, "no")
    assert back.adapter == before.adapter
    assert read_champion(*whose) == back
    assert [one.adapter for one in champion_history(*whose)] == [before.adapter, made.adapter, before.adapter]
    assert told == ["promote", "rollback"]
