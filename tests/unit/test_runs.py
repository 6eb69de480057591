"""Plans and run folders: frozen at the start, results kept with their times."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from flywheel.artifacts.root import ArtifactRoot
from flywheel.cli import main as cli
from flywheel.common.errors import ArtifactError, ConfigError, OtherPlanError
from flywheel.config import Config
from flywheel.runs.names import folder_name, former_folder_name
from flywheel.runs.plan import Plan, make_plan
from flywheel.runs.run import Run, open_run, seconds_of

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
    with pytest.raises(ArtifactError, match="no such run; the latest are: r-1-0~"):
        open_run(config.artifacts.root, "other")


# -- names ---------------------------------------------------------------------------------------------


def test_a_folder_carries_its_run_id_readably_and_a_plain_id_is_its_own_name() -> None:
    name = folder_name("manual__2026-11-24T02:08:27+00:00")
    assert re.fullmatch(r"manual__2026-11-24T02-08-27-00-00~[0-9a-f]{20}", name)
    assert folder_name("night-1_a.b@5=x") == folder_name("night-1_a.b@5=x", "flywheel") == "night-1_a.b@5=x"
    assert folder_name("night-1", "other").startswith("other-night-1~")


TONIGHT = "scheduled__2026-11-25T02:00:00+00:00"
LOOK_ALIKES = (
    "scheduled__2026-11-25T02-00-00-00-00",
    "scheduled__2026-11-25T02:00:00-00:00",
    "scheduled__2026-11-25T02:00:00 00:00",
    "scheduled__2026-11-25T02/00/00+00/00",
    folder_name(TONIGHT),
    f"{TONIGHT}\u00e9",
    f"{TONIGHT}\ud800",
    "x" * 300,
    "x" * 301,
    ".",
    "..",
    "-",
    "--",
    ".x",
    "-x",
)


def test_no_two_runs_have_one_folder() -> None:
    ids = [TONIGHT, *LOOK_ALIKES]
    runs = [(run_id, dag_id) for run_id in ids for dag_id in ("flywheel", "other", "other-scheduled")]
    names = {folder_name(*run) for run in runs}
    assert len(names) == len(runs)
    assert all(len(name) < 200 and not name.startswith(".") and "/" not in name for name in names)
    assert folder_name("b", "a") != folder_name("a-b") != folder_name("b", "a-")


@pytest.mark.parametrize("run_id", [one for one in LOOK_ALIKES if "\ud800" not in one])
def test_a_plan_planted_under_a_look_alike_of_tonights_name_is_not_tonights(
    config: Config, run_id: str
) -> None:
    Run.create(plan_of(config, sizes=[1]).model_copy(update={"run_id": run_id}))
    tonight = plan_of(config, dag_id="flywheel").model_copy(update={"run_id": TONIGHT})
    run = Run.create(tonight, is_first=True)
    assert [candidate.size for candidate in run.plan.candidates] == [10, 5, 10, 5]


def test_a_plan_that_was_there_before_its_run_began_is_refused(config: Config) -> None:
    Run.create(plan_of(config, sizes=[1]))  # somebody's, with all names right
    with pytest.raises(OtherPlanError, match=r"was there before the run r:1\+0 began.*size: 1 -> 10"):
        Run.create(plan_of(config), is_first=True)


def test_the_same_plan_is_kept_though_it_was_there_before(config: Config) -> None:
    """As after Airflow's database was made anew, and a night is filled again."""
    first = Run.create(plan_of(config))
    assert Run.create(plan_of(config), is_first=True).plan == first.plan


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"run_id": "r-1-0"}, r"is the folder of run 'r-1-0', not of 'r:1\+0'"),
        ({"dag_id": "copy"}, r"is one of DAG 'copy', not one of DAG 'flywheel'"),
        ({"dag_id": ""}, r"is one that was planned by hand, not one of DAG 'flywheel'"),
        ({"project": "/srv/other"}, r"one of project /srv/other, not of .*FLYWHEEL_PROJECT=/srv/other"),
    ],
)
def test_a_plan_of_another_run_dag_or_project_is_refused_and_says_whose_it_is(
    config: Config, other: dict[str, str], said: str
) -> None:
    plan = plan_of(config, dag_id="flywheel")
    run = Run(ArtifactRoot(config.artifacts.root), plan.run_id)
    run.root.write_json(f"{run.path}/plan.json", plan.model_copy(update=other).model_dump(mode="json"))
    for is_first in (True, False):
        with pytest.raises(OtherPlanError, match=said):
            Run.create(plan, is_first=is_first)


def test_two_projects_with_one_root_and_one_cron_do_not_get_each_others_plans(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = str(Path(__file__).parents[2] / config.workload)
    config = config.model_copy(update={"workload": workload})
    ours = Run.create(plan_of(config, dag_id="flywheel"), is_first=True)
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path / "another"))
    with pytest.raises(OtherPlanError, match=r"artifacts\.root of its own"):
        Run.create(plan_of(config, dag_id="flywheel"), is_first=True)
    monkeypatch.setenv("FLYWHEEL_PROJECT", ours.plan.project)  # it was moved, no more
    assert Run.create(plan_of(config, dag_id="flywheel")).plan == ours.plan


def test_a_plan_that_is_changed_during_its_run_is_refused(config: Config) -> None:
    run = Run.create(plan_of(config))
    later = Run(run.root, run.run_id, run.dag_id, run.plan_digest)
    assert later.plan == run.plan
    changed = {**run.root.read_json(f"{run.path}/plan.json"), "approval": "human"}
    run.root.write_json(f"{run.path}/plan.json", changed)
    with pytest.raises(OtherPlanError, match="not the plan that this run began with"):
        _ = later.plan
    run.root.discard(f"{run.path}/plan.json")
    with pytest.raises(OtherPlanError, match="not the plan that this run began with"):
        _ = later.plan


def test_a_run_of_flywheel_0_1_0_is_found_in_its_folder_of_then(config: Config) -> None:
    root, run_id = ArtifactRoot(config.artifacts.root), "manual__2026-11-24T02:08:27+00:00"
    plan = plan_of(config).model_copy(update={"run_id": run_id}).model_dump(mode="json")
    before = {key: value for key, value in plan.items() if key not in ("dag_id", "project")}
    root.write_json(f"runs/{former_folder_name(run_id)}/plan.json", before)
    assert Run(root, run_id).path == "runs/manual__2026-11-24T02-08-27-00-00"
    assert open_run(config.artifacts.root, run_id).plan.run_id == run_id
    assert open_run(config.artifacts.root, "manual__2026-11-24T02-08-27-00-00").run_id == run_id
    look_alike = Run(root, "manual__2026-11-24T02:08:27-00:00")
    assert not look_alike.is_planned


def test_a_run_is_also_opened_by_the_name_of_its_folder(config: Config) -> None:
    run = Run.create(plan_of(config))
    opened = open_run(config.artifacts.root, run.path.removeprefix("runs/"))
    assert (opened.run_id, opened.path) == (run.run_id, run.path)
    for name in ("../runs", "..", "/", ""):
        with pytest.raises(ArtifactError):
            open_run(config.artifacts.root, name)


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
