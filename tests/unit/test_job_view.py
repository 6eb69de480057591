"""A run in the words of the orchestrator API: what the blueprint's notebook reads of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.runs.run import Run
from flywheel.web import job_view
from flywheel.web.contract import NIMResponse
from tests.unit.finished_run import config_of, finish, plan_of


@pytest.fixture
def nims(tmp_path: Path) -> list[NIMResponse]:
    plan = plan_of(config_of(str(tmp_path / "artifacts"), f"sqlite:///{tmp_path}/mlflow.db"))
    finish(plan)
    run = Run(ArtifactRoot(plan.config.artifacts.root), plan.run_id)
    return job_view._nims(run, plan, [], cancelled=False)


def test_f1_score_is_the_weighted_f1_of_each_evaluation(nims: list[NIMResponse]) -> None:
    evaluations = [one for nim in nims for one in nim.evaluations]
    assert evaluations
    assert all(one.scores["f1_score"] == one.scores["f1_weighted"] for one in evaluations)


def test_the_first_customized_evaluation_of_a_model_is_that_of_its_largest_size(
    nims: list[NIMResponse],
) -> None:
    for nim in nims:
        customized = [one for one in nim.evaluations if one.eval_type == "customized-eval"]
        sizes = [one.scores["training_records"] for one in customized]
        assert len(sizes) > 1
        assert sizes == sorted(sizes, reverse=True)
        # A client that pairs the two lists gets the model of each evaluation.
        assert len(nim.customizations) == len(customized)
