"""A report says what was tested, of how many, and how sure it is; and what its records are."""

from __future__ import annotations

from pathlib import Path

import pytest

from flywheel.evaluation.choice import FIRST_SHARE
from flywheel.report.checks import ComparisonPart
from flywheel.report.model import Report
from flywheel.report.tested import how_tested
from flywheel.runs.run import Run
from flywheel.stages import pipeline as wheel
from tests.unit.finished_run import config_of, finish, plan_of
from tests.unit.test_score import UNREACHABLE, no_tracking  # noqa: F401  # a fixture that is used by itself

SPLIT = {
    "split": "temporal",
    "calibration": 7,
    "events": 51,
    "left_out": 3,
    "known": {"train": [1551225600, 1551312000], "eval": [1551398400, 1551400000]},
    "conflicts": 1,
    "conflict_examples": [
        {
            "kept": "a1",
            "kept_label": "Earnings",
            "kept_by": "teacher",
            "other": "b2",
            "other_label": "<i>Dividends</i>",
            "other_by": "posted",
        }
    ],
    "labelled_by": {"teacher": 58, "posted": 2},
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = finish(plan_of(config_of(str(tmp_path / "artifacts"), UNREACHABLE)))
    path = f"{found.path}/stages/curate.json"
    value = found.root.read_json(path)
    found.root.write_json(path, {**value, "result": {**value["result"], **SPLIT}})
    wheel.score(found)
    return found


def report_of(run: Run) -> Report:
    return Report.model_validate(run.root.read_json(f"{run.path}/report.json"))


def page_of(run: Run) -> str:
    return (Path(run.root.url) / run.path / "report.html").read_text()


def test_each_candidate_has_the_bound_of_its_own_test(run: Run) -> None:
    rows = sorted(report_of(run).scored, key=lambda row: row.test_place or 0)
    assert [row.name for row in rows][:4] == ["8b @ 25", "3b @ 25", "1b @ 25", "8b @ 10"]
    assert rows[0].test_rate == pytest.approx(FIRST_SHARE * 0.016)
    # What passes hands its share on.
    assert rows[1].test_rate == pytest.approx(FIRST_SHARE * 0.016 + (1 - FIRST_SHARE) * 0.016 / 8)
    assert [row.passes for row in rows] == [True, True, True, True, False, False, False, False, False]
    assert all(
        row.score_low is not None and row.score is not None and row.score_low < row.score for row in rows
    )


def test_the_tests_are_told_in_words_by_json_and_page(run: Run) -> None:
    words = report_of(run).decision.test
    assert words[0] == (
        "9 candidates were tested, from the largest size of the dearest student down: the chance that any of "
        "them passes whose true weighted F1 against the teacher is below 0.899 is at most 1.6 %."
    )
    assert words[1] == "4 pass: 1b @ 25, 3b @ 25, 8b @ 10, 8b @ 25; the cheapest of them is chosen."
    assert words[2].startswith(
        "1b @ 25 scores 0.900 on 2,000,000 records and so is at least 0.900, but for a"
    )
    assert words[-1].endswith("(promotion.min_eval); this one has 2,000,000.")
    page = page_of(run)
    assert "9 candidates were tested" in page
    assert ">but for a chance of</th>" in page
    assert page.count("<td>yes</td></tr>") == 4


def test_the_choice_beside_the_champion_is_told_with_what_was_asked(run: Run) -> None:
    report, promotion = report_of(run), run.plan.config.promotion
    found = ComparisonPart(
        champion="a",
        metric="f1_weighted",
        records=1480,
        seen=20,
        difference=0.012,
        low=-0.003,
        needed=-0.02,
        passes=True,
    )
    report.decision.comparison = found
    assert how_tested(report, promotion)[-1] == (
        "Beside the champion in production, on the same 1,480 records (20 that the champion has seen are left "
        "out), 1b @ 25 scores +0.012, at least -0.003 but for a chance of 1.6 %; asked was -0.020, as it is "
        "cheaper: passed."
    )
    dearer = found.model_copy(update={"needed": 0.0, "passes": False, "seen": 0})
    report.decision.comparison = dearer
    assert how_tested(report, promotion)[-1].endswith("asked was above 0, as it is not cheaper: not passed.")


def test_tests_against_the_best_and_runs_without_a_pass_have_words_too(run: Run) -> None:
    report, promotion = report_of(run), run.plan.config.promotion
    against = how_tested(report, promotion.model_copy(update={"of": "best"}))
    assert "9 candidates were tested against the best of them: the chance that any passes" in against[0]
    for row in report.candidates:
        row.passes = False
    report.decision.choice = None
    assert how_tested(report, promotion)[1:] == ["None passes."]


def test_the_records_are_told_by_part_event_time_and_who_labelled_them(run: Run) -> None:
    data = report_of(run).data
    assert (data.split, data.calibration, data.events, data.left_out, data.conflicts) == (
        "temporal",
        7,
        51,
        3,
        1,
    )
    assert data.known["eval"] == (1551398400, 1551400000)
    assert data.labelled_by == {"teacher": 58, "posted": 2}
    page = page_of(run)
    for shown in (
        "Records of the temporal split",
        '<tr><th scope="row">calibration</th><td>7</td></tr>',
        "events that they report, each counted once</th><td>51</td>",
        "labelled by: posted</th><td>2</td>",
        '<tr><th scope="row">eval</th><td>2019-03-01 00:00:00 UTC</td>',
        "Texts with two labels: 1",
        "<td>&lt;i&gt;Dividends&lt;/i&gt;</td><td>posted</td>",
    ):
        assert shown in page, shown
