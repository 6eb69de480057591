"""What no run, champion or hold needs is removed when it is old; the rest stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.cli.main import app
from flywheel.common.errors import ArtifactError, ConfigError
from flywheel.config import Config
from flywheel.config.everywhere import configs
from flywheel.config.schema import ArtifactsConfig
from flywheel.forgetting.prune import PruneError, prune
from flywheel.promotion.champion import Champion
from flywheel.runs.run import Run
from tests.unit.champions import place_hold, put_in_force
from tests.unit.finished_run import adapter_key, config_of, finish, plan_of, write_dataset

WHOSE = ("news_classifier", "desk")
DAY = 86_400.0


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return _config(tmp_path)


def _config(folder: Path, **retention: Any) -> Config:
    return config_of(
        str(folder / "artifacts"),
        f"sqlite:///{folder}/mlflow.db",
        client_id="desk",
        store={"path": str(folder / "records.sqlite")},
        retention={"keep_runs": 2, "runs_days": 30, **retention},
    )


def night(config: Config, number: int, seed: int, *, is_over: bool = True) -> Run:
    """Leave a night whose data set is of a seed, and nothing of which was scored."""
    plan = plan_of(config, f"night-{number}", day=number)
    plan = plan.model_copy(update={"created_at": f"2019-03-{number:02d}T00:00:00+00:00"})
    run = finish(plan, data_seed=seed, f1={("1b", 5): 0.9})
    if is_over:
        run.root.write_json(f"{run.path}/stages/promote.json", {"result": {}})
    return run


def champion_of(run: Run, seed: int) -> Champion:
    dataset = key_of("dataset", 40, seed)
    data: dict[str, Any] = dict.fromkeys(("parameters", "evaluation", "score_ci95"), None) | {
        "workload_id": WHOSE[0],
        "client_id": WHOSE[1],
        "student": "1b",
        "model_name": "meta/llama-1b",
        "weights": "meta/llama-1b",
        "size": 5,
        "adapter": adapter_key("1b", 5, dataset),
        "adapter_path": f"adapters/{adapter_key('1b', 5, dataset)}",
        "dataset": dataset,
        "metric": "f1_weighted",
        "score": 0.9,
        "run_id": run.run_id,
        "cutoff": 1551484800,
        "promoted_at": "2019-03-02T00:00:00+00:00",
        "reason": "best",
    }
    return Champion.model_validate(data)


def age(folder: Path, days: float) -> None:
    """Make everything in a folder so old."""
    then = time.time() - days * DAY
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            os.utime(path, (then, then))


def there(config: Config) -> dict[str, set[str]]:
    root = ArtifactRoot(config.artifacts.root)
    return {kind: set(root.list(kind)) for kind in ("runs", "datasets", "adapters")}


def dataset(seed: int) -> str:
    return key_of("dataset", 40, seed)


def test_old_runs_go_with_what_they_alone_need(config: Config, tmp_path: Path) -> None:
    for number, seed in ((2, 2), (3, 3), (4, 4), (5, 5), (6, 3)):
        night(config, number, seed)
    root = ArtifactRoot(config.artifacts.root)
    age(tmp_path / "artifacts", 40)
    before = there(config)
    assert len(before["datasets"]) == 4
    listed = prune(config, remove=False)
    assert there(config) == before
    removed = prune(config, remove=True)
    assert listed.items == removed.items and listed.bytes > 0
    # Of the five the two latest stay, and with them what night 3 shares with night 6.
    assert there(config) == {
        "runs": {"night-5", "night-6"},
        "datasets": {dataset(5), dataset(3)},
        "adapters": {adapter_key("1b", 5, dataset(seed)) for seed in (5, 3)},
    }
    assert root.find("datasets", dataset(3))
    assert not any(prune(config, remove=True).items.values())


@pytest.mark.parametrize("who", ["champion", "former", "hold", "unfinished", "young"])
def test_what_a_champion_a_hold_or_a_run_under_way_needs_stays(
    config: Config, tmp_path: Path, who: str
) -> None:
    first = night(config, 1, 1, is_over=who != "unfinished")
    last = [night(config, number, number) for number in (2, 3, 4)]
    root = ArtifactRoot(config.artifacts.root)
    if who in ("champion", "former"):
        put_in_force(root, champion_of(first, 1))
    if who == "former":
        put_in_force(root, champion_of(last[-1], 4))
    if who == "hold":
        place_hold(
            root,
            *WHOSE,
            dataset=dataset(1),
            adapter=adapter_key("1b", 5, dataset(1)),
            by="Ada",
            why="rejected",
        )
    age(tmp_path / "artifacts", 40)
    if who == "unfinished":
        (tmp_path / "artifacts" / first.path / "jobs/1b/base_eval.progress.json").write_text("{}")
    if who == "young":
        age(tmp_path / "artifacts" / first.path, 20)
    prune(config, remove=True)
    left = there(config)
    stays = {"night-1"} if who != "hold" else set()  # the run of a hold is needed by nobody, its data are
    assert left["runs"] == {"night-3", "night-4"} | stays
    found = {dataset(2)} if who == "unfinished" else set()  # it may find that, as long as it is under way
    assert left["datasets"] == {dataset(1), dataset(3), dataset(4)} | found
    assert adapter_key("1b", 5, dataset(1)) in left["adapters"]


def test_what_nothing_names_goes_when_it_is_old_enough(config: Config, tmp_path: Path) -> None:
    run = night(config, 2, 2)
    root, folder = ArtifactRoot(config.artifacts.root), tmp_path / "artifacts"
    old, young = write_dataset(root, seed=8), write_dataset(root, seed=9)
    with root.build("evaluations", key_of("baseline")) as made:  # named by nothing, made of what stays
        (made / "of.json").write_text(f'{{"dataset": "{dataset(2)}"}}')
    with root.scratch("adapters", key_of("stopped")) as scratch:
        (scratch / "state").write_text("1")
    half = folder / "datasets" / f".{key_of('half')}.12ab34cd"
    half.mkdir()
    (half / "train.jsonl").write_text("{}\n")
    for name in ("labelled.jsonl.gz", "label.quarantine.jsonl", ".label.quarantine.jsonl.123", "report.json"):
        (folder / run.path / name).write_text("x")
    root.write_bytes("quarantine/records-1.jsonl", b"{}\n")
    age(folder, 40)
    age(folder / "datasets" / young, 1)
    prune(config, remove=True)
    left = there(config)["datasets"]
    assert left == {dataset(2), young} and old not in left
    assert root.find("evaluations", key_of("baseline"))
    assert not half.exists() and root.list("scratch/adapters") == [] and root.list("quarantine") == []
    assert not {name for name in root.list(run.path) if "label" in name}
    assert root.exists(f"{run.path}/report.json") and root.exists(f"{run.path}/plan.json")


def test_what_is_begun_while_it_is_looked_for_keeps_what_it_needs(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ArtifactRoot(config.artifacts.root)
    wanted = write_dataset(root, seed=7)
    age(tmp_path / "artifacts", 40)
    from flywheel.forgetting import prune as room

    look: Callable[..., Any] = room._unneeded
    looks = []

    def looked(house: Any) -> Any:
        found = look(house)
        if not looks:
            night(config, 2, 7)  # it finds the data set, and writes down that it does
        looks.append(found)
        return found

    monkeypatch.setattr(room, "_unneeded", looked)
    assert not any(prune(config, remove=True).items.values())
    assert [item.id for item in looks[0]["artifacts"]] == [f"datasets/{wanted}"]
    assert root.find("datasets", wanted)


def test_behind_a_url_it_is_the_same(memory_root: str, tmp_path: Path) -> None:
    config = _config(tmp_path).model_copy(
        update={"artifacts": ArtifactsConfig(root=memory_root), "client_id": "desk"}
    )
    for number, seed in ((2, 2), (3, 3), (4, 4), (5, 3)):
        night(config, number, seed)
    root = ArtifactRoot(memory_root)
    for file in root.fs.store.values():
        file.created = file.modified = datetime.now(UTC) - timedelta(days=40)
    removed = prune(config, remove=True)
    assert {item.id for item in removed.items["runs"]} == {"runs/night-2", "runs/night-3"}
    assert there(config)["runs"] == {"night-4", "night-5"}
    assert there(config)["datasets"] == {dataset(3), dataset(4)}
    assert not any(prune(config, remove=True).items.values())


def test_a_damaged_champion_stops_it_before_anything_goes(config: Config, tmp_path: Path) -> None:
    first = night(config, 1, 1)
    root = ArtifactRoot(config.artifacts.root)
    put_in_force(root, champion_of(first, 1))
    for number in (2, 3, 4):
        night(config, number, number)
    (path,) = (tmp_path / "artifacts/champions").rglob("champion.json")
    path.write_text('{"half of')
    age(tmp_path / "artifacts", 40)
    before = there(config)
    with pytest.raises(ArtifactError, match=r"champion\.json"):
        prune(config, remove=True)
    assert there(config) == before


def test_one_process_prunes_at_a_time(config: Config, tmp_path: Path) -> None:
    night(config, 2, 2)
    with FileLock(tmp_path / "artifacts/.prune.lock"), pytest.raises(PruneError, match="already"):
        prune(config, remove=True)


def test_without_ages_no_run_and_no_copy_goes(tmp_path: Path) -> None:
    config = _config(tmp_path, runs_days=None, copies_days=None)
    for number in (2, 3, 4, 5):
        night(config, number, number)
    age(tmp_path / "artifacts", 400)
    assert not any(prune(config, remove=False).items.values())


def test_the_command_only_lists_without_a_yes(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(ArtifactRoot(config.artifacts.root), seed=8)
    age(tmp_path / "artifacts", 40)
    monkeypatch.setattr("flywheel.config.everywhere.configs", lambda *_: [config])
    listed = CliRunner().invoke(app, ["prune"])
    assert listed.exit_code == 0 and f"datasets/{dataset(8)}" in listed.output
    assert "nobody needs 1 of artifacts" in listed.output and there(config)["datasets"] == {dataset(8)}
    assert "removed 1 of artifacts" in CliRunner().invoke(app, ["prune", "--yes"]).output
    assert there(config)["datasets"] == set()


def test_experiments_that_keep_their_data_elsewhere_are_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(tmp_path / "config.yaml"))
    (tmp_path / "config.yaml").write_text("nims: [{model_name: test/1b}]\n")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/same.yaml").write_text("sizes: [7]\n")
    (tmp_path / "experiments/wrong.yaml").write_text("size: [7]\n")
    (tmp_path / "experiments/apart.yaml").write_text("artifacts: {root: apart}\nstore: {path: a.sqlite}\n")
    places = [config.artifacts.root for config in configs(leave_out_wrong=True)]
    assert places == ["artifacts", "apart"]
    with pytest.raises(ConfigError, match=r"wrong\.yaml, line 1"):
        configs()
