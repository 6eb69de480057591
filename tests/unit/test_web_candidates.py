"""The list of candidates goes by the metric that is asked for, else by each run's own."""

from datetime import UTC, datetime

import pytest

from flywheel.web import summaries
from flywheel.web.access import LocalUser
from flywheel.web.routes.runs import list_candidates
from flywheel.web.summaries import CandidateOfRun


def candidate(student: str, score: float, **scores: float) -> CandidateOfRun:
    return CandidateOfRun(
        student=student, size=5, state="scored", score=score, scores=scores, run_id="night-1",
        run_state="success", workload_id="news_classifier", client_id="desk", cutoff=1,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


def test_candidates_are_sorted_and_filtered_by_the_score_of_the_metric_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        candidate("a", 0.7, f1_weighted=0.7, f1_macro=0.9),
        candidate("b", 0.8, f1_weighted=0.8, f1_macro=0.6),
        candidate("c", 0.9, similarity=0.9),
    ]
    monkeypatch.setattr(summaries, "list_candidates", lambda: rows)

    def names(**asked: object) -> list[str]:
        return [row.student for row in list_candidates(LocalUser(), sort="score", **asked).candidates]  # type: ignore[arg-type]

    assert names() == ["c", "b", "a"]
    assert names(metric="f1_macro") == ["a", "b", "c"]  # what has no such score comes last
    assert names(metric="f1_macro", min_score=0.65) == ["a"]
