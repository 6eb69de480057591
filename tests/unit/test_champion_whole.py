"""A champion is whole: its prompt, classes, adapter and base weights are its own, whatever becomes of its run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flywheel.artifacts.root import ArtifactRoot
from flywheel.cli.main import app
from flywheel.common.errors import ArtifactError
from flywheel.config import Config
from flywheel.promotion.champion import Champion, champion_history, read_champion
from flywheel.promotion.restore import restore
from flywheel.promotion.whole import load_champion
from flywheel.runs.run import Run
from flywheel.stages import pipeline as wheel
from flywheel.web import deletion, promotion
from flywheel.workloads.workload import Workload
from tests.unit.champions import User, edit_last, without_services
from tests.unit.finished_run import WORKLOAD, config_of, finish, plan_of

OWN = ("news_classifier", "default")


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    without_services(monkeypatch)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    made = config_of(str(tmp_path / "artifacts"), "sqlite:////nowhere/mlflow.db")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(made.model_dump(mode="json")))
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(tmp_path / "config.yaml"))
    return made


@pytest.fixture
def root(config: Config) -> ArtifactRoot:
    return ArtifactRoot(config.artifacts.root)


def night(config: Config, number: int, data: int) -> Run:
    run = finish(plan_of(config, f"night-{number}", number + 1), data_seed=data)
    _name_a_folder(run)
    wheel.score(run)
    assert wheel.promote(run).promoted
    return run


def _name_a_folder(run: Run) -> None:
    """Have the adapters name their base model as one trained from a local folder does."""
    root = run.root
    for key in root.list("adapters"):
        if not (Path(root.url) / "adapters" / key / "adapter_model.safetensors").exists():
            root.remove("adapters", key)
            with root.build("adapters", key) as folder:
                (folder / "adapter_config.json").write_text(
                    '{"base_model_name_or_path": "/home/one/weights"}'
                )
                (folder / "adapter_model.safetensors").write_bytes(key.encode())


def standing(root: ArtifactRoot) -> Champion:
    found = read_champion(root, *OWN)
    assert found is not None
    return found


def test_a_champion_has_the_prompt_and_classes_of_its_day_its_adapter_and_its_base(
    config: Config, root: ArtifactRoot, tmp_path: Path
) -> None:
    run = night(config, 1, data=1)
    loaded = load_champion(root, *OWN)
    assert loaded is not None
    workload = Workload.load(WORKLOAD)
    assert loaded.workload == workload
    assert loaded.workload.messages("Acme pays") == workload.messages("Acme pays")
    assert loaded.whole.classes == workload.classes
    assert loaded.whole.workload_version == workload.sha256
    assert (loaded.whole.student_prompt, loaded.whole.base) == ("full", "meta/llama-1b")
    assert (loaded.adapter / "adapter_model.safetensors").read_bytes() == loaded.champion.adapter.encode()
    # Not the folder of the machine that trained it.
    assert json.loads((loaded.adapter / "adapter_config.json").read_text()) == {
        "base_model_name_or_path": "meta/llama-1b"
    }
    shown = CliRunner().invoke(app, ["champion", "show"]).output
    assert f"1b @ 25 of run {run.run_id}" in shown
    assert f"version {workload.version}; asked the whole prompt" in shown


def test_the_hash_of_base_weights_in_a_folder_is_recorded(
    config: Config, root: ArtifactRoot, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"w")
    data: dict[str, Any] = config.model_dump(mode="json")
    for student in data["nims"]:
        student["weights"] = str(weights)
    night(Config.model_validate(data), 1, data=1)
    whole = standing(root).whole
    assert whole is not None
    assert len(whole.base_revision) == 32


def test_the_base_is_the_one_that_the_training_wrote_down(config: Config, root: ArtifactRoot) -> None:
    run = finish(plan_of(config, "night-1", 2), data_seed=1)
    wheel.score(run)
    for key in root.list("adapters"):
        root.remove("adapters", key)
        with root.build("adapters", key) as folder:
            (folder / "result.json").write_text(
                json.dumps({"base_revision": "c" * 40, "base_sha256": "d" * 32})
            )
    assert wheel.promote(run).promoted
    whole = standing(root).whole
    assert whole is not None
    assert (whole.base_revision, whole.base_sha256) == ("c" * 40, "d" * 32)


def test_a_champion_outlives_its_run_and_its_adapters(config: Config, root: ArtifactRoot) -> None:
    run = night(config, 1, data=1)
    before = standing(root)
    deletion.remove_files(run, run.plan)
    shutil.rmtree(Path(root.url) / "adapters")
    loaded = load_champion(root, *OWN)
    assert loaded is not None
    assert loaded.champion == before
    assert restore(root, *OWN) == []


def test_the_next_night_measures_a_champion_whose_adapter_was_removed(
    config: Config, root: ArtifactRoot
) -> None:
    night(config, 1, data=1)
    key = standing(root).adapter
    root.remove("adapters", key)
    run = finish(plan_of(config, "night-2", 3), data_seed=2)
    assert wheel.champion_spec(run).adapter == key
    assert (root.fetch("adapters", key) / "adapter_model.safetensors").read_bytes() == key.encode()


def test_a_roll_back_brings_the_adapter_back_that_was_removed(config: Config, root: ArtifactRoot) -> None:
    night(config, 1, data=1)
    first = standing(root)
    night(config, 2, data=2)
    root.remove("adapters", first.adapter)
    back, _ = promotion.roll_back(User(), root, *OWN, "")
    assert back.adapter == first.adapter
    assert root.find("adapters", first.adapter)
    assert back.whole == first.whole


@pytest.mark.parametrize("change", ["adapter/adapter_model.safetensors", "whole.json", "manifest"])
def test_a_damaged_copy_is_named_and_made_again_from_the_run(
    config: Config, root: ArtifactRoot, change: str
) -> None:
    night(config, 1, data=1)
    champion = standing(root)
    assert champion.whole is not None
    folder = Path(root.url) / champion.whole.path
    if change == "manifest":  # by one who knows how, the hash in the manifest with the file
        shutil.rmtree(folder)
        with root.build(*champion.whole.path.rsplit("/", 1)) as made:
            (made / "whole.json").write_text("{}")
    else:
        data = (folder / change).read_bytes()
        (folder / change).write_bytes(bytes(len(data)))
    with pytest.raises(ArtifactError, match="is damaged: `flywheel champion restore` makes it whole again"):
        load_champion(root, *OWN)
    said = CliRunner().invoke(app, ["champion", "restore"]).output
    assert "1b @ 25 of run night-1 is whole again" in said
    assert load_champion(root, *OWN) is not None
    assert standing(root) == champion


def test_a_damaged_copy_without_its_run_is_an_error_that_says_what_is_left_to_do(
    config: Config, root: ArtifactRoot
) -> None:
    run = night(config, 1, data=1)
    champion = standing(root)
    assert champion.whole is not None
    deletion.remove_files(run, run.plan)
    (Path(root.url) / champion.whole.path / "whole.json").write_text("{}")
    with pytest.raises(ArtifactError, match="its run is gone, too: put the copy back from a backup"):
        restore(root, *OWN)


def test_a_champion_of_before_is_completed_from_its_run(config: Config, root: ArtifactRoot) -> None:
    night(config, 1, data=1)
    edit_last(root, *OWN, champion={"whole": None})
    with pytest.raises(ArtifactError, match="was promoted by an older flywheel, without its prompt"):
        load_champion(root, *OWN)
    (said,) = restore(root, *OWN)
    assert said.startswith("1b @ 25 of run night-1 is whole again")
    loaded = load_champion(root, *OWN)
    assert loaded is not None
    assert champion_history(root, *OWN) == [loaded.champion]


def test_promoting_an_adapter_that_is_gone_is_refused(config: Config, root: ArtifactRoot) -> None:
    run = finish(plan_of(config, "night-1", 2), data_seed=1)
    wheel.score(run)
    shutil.rmtree(Path(root.url) / "adapters")
    with pytest.raises(ArtifactError, match="no such artifact"):
        wheel.promote(run)
    assert read_champion(root, *OWN) is None
