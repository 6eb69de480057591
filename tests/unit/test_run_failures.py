"""Why a run failed: kept beside it by whichever task failed, and told as the one cause of all that did."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import (
    ArtifactError,
    BudgetError,
    DiskFullError,
    JobError,
    OtherPlanError,
    UnusableTeacherError,
)
from flywheel.orchestration import failing, notifications
from flywheel.report.files import read_report
from flywheel.runs.failures import cause_of, failures_of, first_to_tell, is_lost
from flywheel.runs.plan import Candidate
from flywheel.runs.run import Run
from flywheel.runtimes.context import without_vain_tries


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    made = Run(ArtifactRoot(str(tmp_path)), "night-1")
    monkeypatch.setattr(notifications, "run_of", lambda _: made)
    monkeypatch.setattr(failing, "run_of", lambda _: made)
    return made


def context(task_id: str, error: BaseException | None = None, map_index: int = -1, job: str = "") -> Any:
    link = f"http://localhost/dags/flywheel/runs/night-1/tasks/{task_id}"
    ti = SimpleNamespace(task_id=task_id, map_index=map_index, try_number=1, log_url=link)
    return {"ti": ti, "run_id": "night-1", "exception": error, "task": SimpleNamespace(job_name=job)}


def failed_at_once(error: Exception) -> BaseException:
    with pytest.raises(AirflowFailException) as caught, without_vain_tries():
        raise error
    return caught.value


def test_a_failure_says_stage_sentence_mend_and_where_its_log_is(run: Run) -> None:
    error = failed_at_once(UnusableTeacherError("401: the key is refused"))
    failing.keep_failure(context("label", error))
    failure = cause_of(run)
    assert failure is not None
    assert (failure.stage, failure.sentence) == ("label", "401: the key is refused")
    assert "doctor" in failure.mend
    assert "clear the task label" in failure.mend
    assert failure.link.endswith("/tasks/label")
    assert not failure.tries_again


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (BudgetError("spent"), "teacher.budget"),
        (DiskFullError("/data: full"), "flywheel prune"),
        (JobError("killed by signal 9"), "memory"),
        (ZeroDivisionError("1/0"), "See the log"),
    ],
)
def test_the_mend_is_that_of_the_error(error: Exception, mend: str) -> None:
    assert mend in failing.mend_of(error, "label", tries_again=False)
    assert "tried again by itself" in failing.mend_of(error, "label", tries_again=True)


def test_a_mend_that_the_error_brings_is_told_and_not_twice(run: Run) -> None:
    error = JobError("p: evicted (disk pressure); raise the scratch", mend="raise the scratch")
    failing.keep_failure(context("candidate.customize", error, 0, "customize small @ 40"))
    (failure,) = failures_of(run)
    assert failure.sentence == "p: evicted (disk pressure)"
    assert failure.mend.startswith("Raise the scratch. ")


def test_a_try_that_airflow_found_dead_is_told_as_that_unless_it_has_said_why(run: Run) -> None:
    failing.keep_failed_try(context("candidate.customize", None, 0, "customize small @ 40"))
    assert "without a word" in failures_of(run)[0].sentence
    failing.keep_failed_try(context("candidate.customize", JobError("killed"), 0, "customize small @ 40"))
    failing.keep_failed_try(context("candidate.customize", None, 0, "customize small @ 40"))
    assert failures_of(run)[0].sentence == "killed"


def test_a_try_that_ends_well_takes_away_what_was_kept(run: Run) -> None:
    failing.keep_failed_try(context("ingest", OSError("not now")))
    assert [failure.tries_again for failure in failures_of(run)] == [True]
    failing.forget_failure(context("ingest"))
    assert not failures_of(run)


def test_the_cause_is_the_stage_that_failed_and_not_what_followed(run: Run) -> None:
    failing.keep_failure(context("candidate.customize", JobError("too big"), 0, "customize small @ 40"))
    failing.keep_failure(context("promote", ArtifactError("no room")))
    failing.keep_failure(context("score", AirflowFailException("nothing to score")))
    found = cause_of(run)
    assert found is not None
    assert found.stage == "promote"


def test_where_no_candidate_could_be_scored_the_first_job_is_the_cause(run: Run) -> None:
    failing.keep_failure(context("candidate.customize", JobError("too big"), 0, "customize small @ 40"))
    failing.keep_failure(context("score", AirflowFailException("no candidate could be scored")))
    found = cause_of(run)
    assert found is not None
    assert (found.job, found.sentence) == ("customize small @ 40", "too big")


def test_a_stage_that_was_killed_without_a_word_is_told(run: Run) -> None:
    run.root.write_json(f"{run.path}/plan.json", {})
    run.root.write_json(f"{run.path}/stages/label.json", {})
    failing.keep_failure(context("score", AirflowFailException("nothing to score")))
    found = cause_of(run)
    assert found is not None
    assert found.stage == "ingest"
    assert "killed" in found.sentence


def test_nothing_is_written_into_the_folder_of_another_run(run: Run) -> None:
    failing.keep_failure(context("plan", failed_at_once(OtherPlanError("is another's"))))
    assert not failures_of(run)


def test_the_report_of_a_run_that_failed_says_why(run: Run) -> None:
    failing.keep_failure(context("label", BudgetError("all 10 are spent")))
    with pytest.raises(
        ArtifactError, match=r"no report: label failed: all 10 are spent\. Raise teacher\.budget"
    ):
        read_report(run.root, "night-1")


@pytest.fixture
def told(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the tasks whose failure was told as the run's."""
    found: list[str] = []
    monkeypatch.setattr(failing, "notify_failure", lambda context: found.append(context["ti"].task_id))
    candidates = (Candidate(student="small", size=40), Candidate(student="small", size=900))
    monkeypatch.setattr(Run, "candidates", candidates)
    return found


def test_a_stage_that_fails_for_good_is_told_at_once_and_a_try_is_not(run: Run, told: list[str]) -> None:
    failing.keep_failed_try(context("label", OSError("not now")))
    assert not told
    assert not is_lost(run)
    failing.keep_failure(context("label", BudgetError("spent")))
    assert told == ["label"]


def test_a_candidate_that_fails_is_told_when_no_other_is_left(run: Run, told: list[str]) -> None:
    failing.keep_failure(context("base_eval", JobError("killed"), 0, "base_eval small"))
    failing.keep_failure(context("candidate.customize", JobError("killed"), 0, "customize small @ 40"))
    assert not told
    failing.keep_failure(context("candidate.evaluate", JobError("killed"), 1, "evaluate small @ 900"))
    assert told == ["candidate.evaluate"]


def test_a_candidate_that_was_left_out_for_want_of_records_saves_no_run(run: Run, told: list[str]) -> None:
    run.root.write_json(f"{run.path}/jobs/small@900/failure.json", {"stage": "curate", "reason": "too few"})
    failing.keep_failure(context("candidate.customize", JobError("killed"), 0, "customize small @ 40"))
    assert told == ["candidate.customize"]


def test_what_was_told_of_a_run_is_told_by_nobody_else(run: Run) -> None:
    assert [first_to_tell(run, "failure-0") for _ in range(3)] == [True, False, False]
    assert first_to_tell(run, "failure-1")  # a person has cleared it, and it failed anew
