"""Promotion: the cheapest good candidate goes into production, once; else what is there stays."""

from pathlib import Path
from typing import Any

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.config import Config
from flywheel.promotion.champion import RegistryEntry, champion_history, read_champion
from flywheel.promotion.mlflow_client import TrackingError
from flywheel.report import read_report
from flywheel.stages import pipeline as wheel
from flywheel.stages.promote import PromoteResult
from tests.unit.finished_run import TABLE_1, change_plan, config_of, finish, plan_of

WORKLOAD = ("news_classifier", "default")
LOWER = {pair: value - 0.03 for pair, value in TABLE_1.items()}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """MLflow by a stand-in, which has its own tests; gives the adapters that were registered."""
    adapters: list[str] = []

    def register(plan: Any, row: Any, reason: str) -> RegistryEntry:
        adapters.append(row.adapter)
        return RegistryEntry(model="m", version=str(len(set(adapters))))

    def track(*_: object) -> None:
        raise TrackingError("not asked for")

    monkeypatch.setattr("flywheel.stages.promote.register", register)
    monkeypatch.setattr("flywheel.stages.score.track", track)
    monkeypatch.setattr("flywheel.stages.score.draw_png", lambda report, path: None)
    return adapters


def turn(config: Config, run_id: str = "night-1", day: int = 2, **arguments: Any) -> PromoteResult:
    """Score and promote a finished run."""
    approved, comment = arguments.pop("approved", True), arguments.pop("comment", "")
    run = finish(plan_of(config, run_id, day), **arguments)
    wheel.score(run)
    return wheel.promote(run, approved=approved, comment=comment)


def test_a_run_whose_split_was_changed_promotes_only_by_a_person(config: Config, root: ArtifactRoot) -> None:
    run = finish(plan_of(config, "asked", 2, approval="automatic"))
    plan = run.plan.model_copy(
        update={"exam_changes": ("data_split_config.eval_size", "data_split_config.limit")}
    )
    change_plan(run, plan)
    wheel.score(run)
    result = wheel.promote(run)
    assert (result.promoted, result.state, result.champion) == (False, "none", None)
    assert "(data_split_config.eval_size, data_split_config.limit)" in result.reason
    by_person = plan.model_copy(update={"approval": "human"})
    change_plan(run, by_person)
    assert wheel.promote(run).promoted


def test_the_first_champion_replaces_the_teacher(config: Config, root: ArtifactRoot) -> None:
    result = turn(config)
    assert (result.promoted, result.state, result.previous, result.worse) == (True, "promoted", None, False)
    champion = read_champion(root, *WORKLOAD)
    assert champion == result.champion
    assert champion is not None
    assert (champion.name, champion.model_name, champion.run_id) == ("1b @ 25", "meta/llama-1b", "night-1")
    assert champion.adapter_path == f"adapters/{champion.adapter}"
    assert root.find("adapters", champion.adapter)
    assert champion.registry == RegistryEntry(model="m", version="1")
    report = read_report(root)
    assert report.champion == report.production
    assert report.verdict[0] == "1b @ 25 is the first champion here."
    page = (Path(root.url) / "latest/report.html").read_text()
    assert "<h1>1b @ 25 is the new champion</h1>" in page


def test_promoting_twice_is_promoting_once(config: Config, root: ArtifactRoot, registered: list[str]) -> None:
    first, second = turn(config), turn(config)
    assert first == second
    assert len(champion_history(root, *WORKLOAD)) == 1
    assert len(set(registered)) == 1


def test_a_retry_after_a_kill_still_tells_what_was_there_before(
    config: Config, root: ArtifactRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn(config)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("flywheel.stages.promote.write_report", killed)
        with pytest.raises(KeyboardInterrupt):
            turn(config, "night-2", 3, data_seed=2)
    result = turn(config, "night-2", 3, data_seed=2)
    assert result.promoted
    assert result.previous is not None
    assert result.previous.run_id == "night-1"
    assert [champion.run_id for champion in champion_history(root, *WORKLOAD)] == ["night-1", "night-2"]


def test_no_candidate_good_enough_keeps_the_champion_and_says_so(config: Config, root: ArtifactRoot) -> None:
    first = turn(config).champion
    result = turn(config, "night-2", 3, data_seed=2, f1={("1b", 25): 0.7, ("3b", 25): 0.8})
    assert (result.promoted, result.state, result.champion) == (False, "none", first)
    assert read_champion(root, *WORKLOAD) == first
    report = read_report(root)
    assert report.champion is None
    assert report.production is not None
    assert report.production.run_id == "night-1"
    assert report.verdict[:2] == [
        "The champion of run night-1, 1b @ 25, stays in production; "
        "its weighted F1 is 0.900, recorded on the eval set of run night-1.",
        "No candidate is shown to be within 0.10 of the teacher, which asks for a weighted F1 of 0.899: "
        "the best, 3b @ 25 reaches 0.800, at least 0.799, with 98.4 % confidence over 2 candidates.",
    ]
    assert (
        "No candidate is good enough; 1b @ 25 stays in production"
        in (Path(root.url) / "latest/report.html").read_text()
    )


def test_without_champion_and_candidate_the_teacher_goes_on(config: Config, root: ArtifactRoot) -> None:
    result = turn(config, f1={("1b", 5): 0.3})
    assert (result.champion, result.state) == (None, "none")
    assert read_champion(root, *WORKLOAD) is None
    assert "the teacher goes on" in result.reason


def test_a_rejection_keeps_the_champion_and_the_comment(config: Config, root: ArtifactRoot) -> None:
    first = turn(config).champion
    result = turn(config, "night-2", 3, data_seed=2, approved=False, comment="too <early>")
    assert (result.promoted, result.state, result.champion) == (False, "rejected", first)
    assert read_champion(root, *WORKLOAD) == first
    report = read_report(root)
    assert report.champion is None
    assert report.decision.comment == "too <early>"
    page = (Path(root.url) / "latest/report.html").read_text()
    assert "1b @ 25 was rejected; 1b @ 25 stays in production" in page
    assert "too &lt;early&gt;" in page


def test_the_same_adapter_in_a_new_run_is_in_place(config: Config, root: ArtifactRoot) -> None:
    first = turn(config).champion
    result = turn(config, "night-2", 3)
    assert (result.promoted, result.state, result.champion) == (False, "in place", first)
    report = read_report(root)
    assert report.champion is not None
    assert report.champion.run_id == "night-1"
    assert len(champion_history(root, *WORKLOAD)) == 1


def test_a_lower_champion_is_told_with_its_distance(config: Config, root: ArtifactRoot) -> None:
    turn(config)
    result = turn(config, "night-2", 3, data_seed=2, f1=LOWER)
    assert (result.promoted, result.worse) == (True, False)  # 3b @ 25 has 0.92
    assert "3b @ 25 scores 0.020 higher than the champion before it, 1b @ 25 of run night-1" in result.reason
    assert "3b has 2.6 times the parameters of 1b" in result.reason
    lower = {("1b", 25): 0.905}
    result = turn(config, "night-3", 4, data_seed=3, f1=lower)
    assert (result.promoted, result.worse) == (True, True)
    assert "1b @ 25 scores 0.015 lower than the champion before it, 3b @ 25 of run night-2" in result.reason
    assert "3b has 2.6 times the parameters of 1b" in result.reason
    assert "the 95 % intervals overlap, so the difference may be chance" in result.reason
    assert "two eval sets differ" in result.reason
    assert read_report(root).decision.worse


def test_a_champion_measured_again_is_compared_on_the_same_eval_set(config: Config) -> None:
    # The first night only 3b is good enough; then, on the same data, 1b is too.
    turn(config, f1={("1b", 25): 0.85, ("3b", 25): 0.95})
    result = turn(config, "night-2", 3, f1={("1b", 25): 0.92, ("3b", 25): 0.94})
    assert (result.promoted, result.worse) == (True, True)
    assert "its weighted F1 is 0.940, on the same eval set" in result.reason


NONE_GOOD = {("1b", 25): 0.7, ("3b", 25): 0.8}


@pytest.mark.parametrize(("f1_now", "worse"), [(0.88, False), (0.86, True)])
def test_a_champion_below_its_interval_on_tonight_s_eval_set_got_worse(
    config: Config, f1_now: float, worse: bool
) -> None:
    turn(config)  # 0.90, interval 0.87 to 0.93
    result = turn(config, "night-2", 3, data_seed=2, f1=NONE_GOOD, champion_f1=f1_now)
    assert (result.promoted, result.worse) == (False, worse)
    assert f"its weighted F1 is {f1_now:.3f}, on the same eval set" in result.reason


def test_a_new_champion_is_compared_with_the_old_one_on_tonight_s_eval_set(config: Config) -> None:
    turn(config)  # 0.90 on its own night
    result = turn(config, "night-2", 3, data_seed=2, f1={("3b", 25): 0.91}, champion_f1=0.95)
    assert (result.promoted, result.worse) == (True, True)
    assert "0.040 lower than the champion before it" in result.reason


def test_an_older_run_does_not_replace_a_newer_champion(config: Config, root: ArtifactRoot) -> None:
    newer = turn(config, "night-9", 9).champion
    result = turn(config, "older", 3, data_seed=2)
    assert (result.promoted, result.state, result.in_past) == (False, "would be promoted", True)
    assert read_champion(root, *WORKLOAD) == newer
    assert read_report(root).champion is None
    assert "what is in production now is not touched" in result.reason
    page = (Path(root.url) / "latest/report.html").read_text()
    assert "<h1>1b @ 25 would be the new champion of that night</h1>" in page


def test_a_registry_out_of_reach_does_not_stop_the_promotion(
    config: Config, root: ArtifactRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise TrackingError("MLflow at http://x: no answer")

    with monkeypatch.context() as context:
        context.setattr("flywheel.stages.promote.register", unreachable)
        result = turn(config)
    assert result.promoted
    assert result.champion is not None
    assert result.champion.registry is None
    assert "Not in the MLflow model registry: MLflow at http://x: no answer" in read_report(root).warnings
    again = turn(config)  # its registry is back
    assert again.champion is not None
    assert again.champion.registry == RegistryEntry(model="m", version="1")


def test_a_run_that_was_not_scored_cannot_be_promoted(config: Config, root: ArtifactRoot) -> None:
    run = finish(plan_of(config))
    wheel.score(run)
    (Path(root.url) / run.path / "report.json").unlink()
    with pytest.raises(ArtifactError, match="score the run first"):
        wheel.promote(run)


def test_the_threshold_of_a_cascade_is_fixed_at_promotion_and_kept_with_the_champion(
    config: Config, root: ArtifactRoot
) -> None:
    asked = config_of(
        root.url,
        "sqlite:////nowhere/mlflow.db",
        serving={"cascade": {"agreement": 0.9}},
        evaluation_config={"decoding": "labels"},
        data_split_config={"calibration_ratio": 0.1},
    )
    run = finish(plan_of(asked))
    for candidate in run.plan.candidates:
        path = f"{run.path}/jobs/{candidate.folder}/evaluate.json"
        saved = run.root.read_json(path)
        saved["result"]["calibration"]["levels"] = [
            {"confidence": 0.9, "records": 300, "right": 299},
            {"confidence": 0.7, "records": 400, "right": 385},
            {"confidence": 0.0, "records": 600, "right": 450},
        ]
        run.root.write_json(path, saved)
    wheel.score(run)
    wheel.promote(run)
    champion = read_champion(root, *WORKLOAD)
    assert champion is not None
    assert champion.cascade is not None
    assert (champion.cascade.target, champion.cascade.threshold) == (0.9, 0.7)
    html = run.root.read_bytes(f"{run.path}/report.html").decode()
    assert "Share answered against agreement" in html
    assert "Answers of probability 0.700 and more are the student" in html
    # A third of the requests would be the teacher's, of which one costs 1.25 / 60 USD.
    assert "6.94 USD" in html
    assert turn(config, day=3, run_id="night-2", data_seed=2).promoted
    champion = read_champion(root, *WORKLOAD)
    assert champion is not None
    assert champion.cascade is None  # none was asked for
