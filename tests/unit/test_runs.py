"""Plans and run folders: frozen at the start, results kept with their times."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from flywheel import cli
from flywheel.config import Config
from flywheel.errors import ArtifactError, ConfigError
from flywheel.plan import Plan, make_plan
from flywheel.runs import Run, folder_name, open_run, seconds_of

CUTOFF = datetime(2019, 3, 2, tzinfo=UTC)


class Counted(BaseModel):
    count: int


@pytest.fixture(params=["folder", "memory"])
def config(request, tmp_path: Path) -> Config:
    root = (
        str(tmp_path / "artifacts") if request.param == "folder" else request.getfixturevalue("memory_root")
    )
    return Config.model_validate(
        {
            "nims": [
                {"model_name": "a/x-1b"},
                {"model_name": "a/x-3b"},
                {"model_name": "a/x-8b", "customization_enabled": False},
            ],
            "sizes": [5, 10],
            "artifacts": {"root": root},
        }
    )


def plan_of(config: Config, **arguments: object) -> Plan:
    return make_plan(config, run_id="r:1+0", cutoff=CUTOFF, workload_id="w", **arguments)


def test_candidates_are_students_times_sizes_with_the_longest_first(config: Config) -> None:
    names = [candidate.name for candidate in plan_of(config).candidates]
    assert names == ["3b @ 10", "3b @ 5", "1b @ 10", "1b @ 5"]


def test_a_student_without_customization_is_only_base_evaluated(config: Config) -> None:
    plan = plan_of(config)
    assert plan.students == ("1b", "3b", "8b")
    assert "8b" not in {candidate.student for candidate in plan.candidates}


def test_parameters_narrow_the_plan(config: Config) -> None:
    plan = plan_of(config, students=["1b"], sizes=[7], approval="human", client_id="c")
    assert [candidate.name for candidate in plan.candidates] == ["1b @ 7"]
    assert (plan.approval, plan.client_id, plan.cutoff) == ("human", "c", 1551484800)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"students": ["2b"]}, "no student '2b' in the config; there are 1b, 3b, 8b"),
        ({"sizes": [10, 5]}, "rising numbers"),
        ({"overrides": {"training_config": {"epoch": 1}}}, "'epochs'"),
        ({"overrides": {"trainig": {}}}, "trainig"),
    ],
)
def test_wrong_parameters_are_refused(config: Config, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of(config, **arguments)


def test_a_cutoff_needs_its_zone(config: Config) -> None:
    with pytest.raises(ConfigError, match="zone"):
        make_plan(config, run_id="r", cutoff=datetime(2019, 1, 1), workload_id="w")


def test_the_plan_that_is_there_stays(config: Config) -> None:
    first = Run.create(plan_of(config))
    Run.create(plan_of(config, sizes=[7]))
    assert first.plan == plan_of(config).model_copy(update={"created_at": first.plan.created_at})


def test_a_result_is_kept_with_its_time_and_its_files(config: Config) -> None:
    run = Run.create(plan_of(config))

    def work(folder: Path) -> Counted:
        (folder / "labelled.jsonl").write_text("x")
        return Counted(count=3)

    run.perform("label", Counted, work)
    assert run.load("stages/label", Counted).count == 3
    with run.folder() as folder:
        assert (folder / "labelled.jsonl").read_text() == "x"
    ((start, end),) = run.intervals()["label"]
    assert start <= end


def test_a_stage_that_fails_keeps_no_result(config: Config) -> None:
    run = Run.create(plan_of(config))
    with pytest.raises(ZeroDivisionError):
        run.perform("label", Counted, lambda folder: Counted(count=1 // 0))
    assert run.find("stages/label", Counted) is None
    with pytest.raises(ArtifactError, match=r"label\.json: no such file"):
        run.load("stages/label", Counted)


def test_intervals_name_the_jobs_of_each_kind(config: Config) -> None:
    run = Run.create(plan_of(config))
    for name, start in (("jobs/1b@5/customize", 1), ("jobs/1b@10/customize", 2), ("jobs/1b/base_eval", 3)):
        run.save(name, Counted(count=1), started_at=start, ended_at=start + 1)
        run.root.write_json(f"{run.path}/{name}.spec.json", {})
    run.root.write_json(f"{run.path}/jobs/1b@5/failure.json", {"reason": "x"})
    assert run.intervals() == {"customize": [(2, 3), (1, 2)], "base_eval": [(3, 4)]}


def test_time_that_overlaps_counts_once() -> None:
    assert seconds_of([(0, 2), (1, 3), (5, 6), (5.5, 5.6)]) == 4


def test_opening_a_run_that_was_not_planned_names_those_that_were(config: Config) -> None:
    run = Run.create(plan_of(config))
    assert open_run(config.artifacts.root, "r:1+0").plan == run.plan
    with pytest.raises(ArtifactError, match="no such run; the latest are: r-1-0"):
        open_run(config.artifacts.root, "other")


def test_run_ids_become_plain_folder_names() -> None:
    assert folder_name("manual__2026-11-24T02:08:27+00:00") == "manual__2026-11-24T02-08-27-00-00"


def test_a_workload_that_is_edited_during_a_run_does_not_change_it(config: Config, tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "include/workloads/news_classifier.yaml"
    mine = tmp_path / "mine.yaml"
    mine.write_text(shipped.read_text())
    run = Run.create(plan_of(config.model_copy(update={"workload": str(mine)})))
    before = run.plan.workload
    mine.write_text("broken: [")
    assert run.plan.workload == before
    assert run.plan.workload.messages("x") == before.messages("x")


# -- planned again -------------------------------------------------------------------------------------

SHELL_CONFIG = "nims: [{{model_name: a/x-1b}}]\nsizes: [5]\nteacher: {{max_tokens: {tokens}}}\nartifacts: {{root: {root}}}\n"


def planned(tmp_path: Path, *options: str, tokens: int = 32) -> tuple[int, str]:
    """Plan the run `t` at the shell; return the exit code and what was said."""
    path = tmp_path / "config.yaml"
    path.write_text(SHELL_CONFIG.format(tokens=tokens, root=tmp_path / "artifacts"))
    done = CliRunner().invoke(cli.app, ["plan", "t", "--config", str(path), *options])
    return done.exit_code, f"{done.output}{done.exception or ''}"


def test_a_run_that_is_planned_again_says_so_and_keeps_its_plan(tmp_path: Path) -> None:
    assert planned(tmp_path, "--cutoff", "2024-06-01")[0] == 0
    code, said = planned(tmp_path)
    assert (code, "t is planned already, for 2024-06-01, and keeps that plan" in said) == (0, True)
    assert planned(tmp_path, "--cutoff", "2024-06-01")[0] == 0
    assert open_run(str(tmp_path / "artifacts"), "t").plan.cutoff == 1717200000


@pytest.mark.parametrize(
    ("options", "tokens", "said"),
    [
        (("--cutoff", "2024-06-02T12:00:00"), 32, "cutoff: 2024-06-01 -> 2024-06-02 12:00:00 UTC"),
        ((), 200, "teacher.max_tokens: 32 -> 200"),
        (("--approval", "human"), 32, "approval: automatic -> human"),
        (("--size", "7"), 32, "candidates.0.size: 5 -> 7"),
        (("--backfill",), 32, "is_backfill: False -> True"),
    ],
)
def test_an_option_or_a_mended_config_that_could_have_no_effect_is_an_error(
    tmp_path: Path, options: tuple[str, ...], tokens: int, said: str
) -> None:
    planned(tmp_path, "--cutoff", "2024-06-01")
    code, words = planned(tmp_path, *options, tokens=tokens)
    assert code == 1
    assert "t is planned already, for 2024-06-01, and a plan stays as it was made" in words
    assert said in words


def test_a_planning_task_that_is_cleared_keeps_its_plan_and_logs_what_differs(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    Run.create(plan_of(config))
    Run.create(plan_of(config))
    assert "is planned already" not in caplog.text
    Run.create(plan_of(config, approval="human"))
    assert "keeps that plan, though these differ by now: approval: automatic -> human" in caplog.text
