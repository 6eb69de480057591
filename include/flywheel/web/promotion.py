"""Put a candidate into production, or the champion before back, at a person's word."""

from __future__ import annotations

import logging
from typing import Any

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.schema import MlflowConfig
from flywheel.promotion.champion import Champion, Decision, RegistryEntry, champion_history
from flywheel.promotion.holds import Hold
from flywheel.promotion.mlflow_client import TrackingError
from flywheel.promotion.registry import point_alias, register
from flywheel.promotion.transitions import Draft, decide, promoted, rolled_back
from flywheel.promotion.whole import bring_adapter_back, keep_whole
from flywheel.report.model import CandidatePart, Report
from flywheel.runs.plan import Plan
from flywheel.stages.promote import champion_of
from flywheel.web import airflow_actions, settings
from flywheel.web.problems import Problem

log = logging.getLogger(__name__)


def promote(
    user: Any, plan: Plan, report: Report, student: str, size: int, comment: str
) -> tuple[Champion, list[str]]:
    """Put a candidate of a run into production; return it, and what did not work.

    It lifts a hold: the latest word of a person is what holds.

    Raises:
        Problem: the run has no such candidate, it has no result, or its adapter is gone.
    """
    row = report.candidate(student, size)
    if row is None:
        raise Problem(404, "The run has no such candidate.")
    root = settings.artifact_root(plan.config.artifacts.root)
    adapter = _usable_adapter(root, row)
    reason = f"Promoted by {user.get_name()}."
    mine: list[RegistryEntry] = []
    warnings: list[str] = []

    def make(state: Decision | None) -> Draft | None:
        if state and state.champion and state.champion.adapter == adapter:
            return None
        registry, trouble = _register(plan, row, reason)
        mine[:], warnings[:] = [registry] if registry else [], trouble
        champion = champion_of(plan, report, row, reason=reason, comment=comment, registry=registry)
        return promoted(state, keep_whole(root, plan, champion))

    after, made = decide(root, plan.workload_id, plan.client_id, make, by=user.get_name())
    assert after is not None
    assert after.champion is not None
    standing = after.champion.registry
    if mine and standing is not None and standing != mine[0]:
        warnings += _turn_alias(plan.config.mlflow_config, standing)
    if not made:
        return after.champion, [f"{after.champion.name} is in production already.", *warnings]
    return after.champion, warnings + _tell(user, after.champion, "promote")


def roll_back(
    user: Any, root: ArtifactRoot, workload_id: str, client_id: str, comment: str
) -> tuple[Champion, list[str]]:
    """Put the champion before the one in force back into production; return it, and what did not work.

    That holds automatic promotions back: the next night would promote what was rolled back again.

    Raises:
        Problem: there is none before, or its adapter is gone.
    """

    def make(state: Decision | None) -> Draft:
        if state is None or state.champion is None:
            raise Problem(409, "There is no champion yet: nothing to roll back from.")
        standing = state.champion
        before = champion_before(champion_history(root, workload_id, client_id), standing)
        if before is None:
            raise Problem(409, f"{standing.name} is the first champion here: nothing to roll back to.")
        if not bring_adapter_back(root, before):
            raise Problem(409, f"The adapter of {before.name} is no longer in the artifact root.")
        reason = (
            f"Rolled back by {user.get_name()} from {standing.name} of run {standing.run_id} "
            f"to {before.name} of run {before.run_id}."
        )
        hold = Hold(
            workload_id=workload_id,
            client_id=client_id,
            dataset=standing.dataset,
            adapter=standing.adapter,
            by=user.get_name(),
            at=state.at,
            why="rolled back",
            comment=comment,
        )
        return rolled_back(state, before.model_copy(update={"reason": reason, "comment": comment}), hold)

    after, _ = decide(root, workload_id, client_id, make, by=user.get_name())
    assert after is not None
    assert after.champion is not None
    warnings = []
    if after.champion.registry is not None:
        warnings = _turn_alias(settings.config().mlflow_config, after.champion.registry)
    return after.champion, warnings + _tell(user, after.champion, "rollback")


def champion_before(history: list[Champion], standing: Champion) -> Champion | None:
    """Return the champion that the one in force replaced.

    One that was rolled back from is passed over: rolling back twice goes back twice.
    """
    line: list[Champion] = []
    for champion in history:
        same = [index for index, earlier in enumerate(line) if earlier.adapter == champion.adapter]
        line = line[: same[-1]] if same else line
        line.append(champion)
    here = [index for index, champion in enumerate(line) if champion.adapter == standing.adapter]
    return line[here[-1] - 1] if here and here[-1] > 0 else None


def _usable_adapter(root: ArtifactRoot, row: CandidatePart) -> str:
    if row.state != "scored" or row.adapter is None:
        raise Problem(409, f"{row.name} has no result: {row.reason or row.state}.")
    if not root.find("adapters", row.adapter):
        raise Problem(409, f"The adapter of {row.name} is no longer in the artifact root.")
    return row.adapter


def _register(plan: Plan, row: CandidatePart, reason: str) -> tuple[RegistryEntry | None, list[str]]:
    try:
        return register(plan, row, reason), []
    except TrackingError as error:
        log.warning("%s", error)
        return None, ["It is not in the MLflow model registry; the server's log has the reason."]


def _turn_alias(mlflow: MlflowConfig, registry: RegistryEntry) -> list[str]:
    try:
        point_alias(mlflow, registry)
    except TrackingError as error:
        log.warning("%s", error)
        return ["The alias in the MLflow model registry could not be moved; see the log."]
    return []


def _tell(user: Any, champion: Champion, why: str) -> list[str]:
    try:
        airflow_actions.tell_of_champion(user, champion, why)
    except Exception:
        log.exception("the asset event of %s", champion.name)
        return ["The event of the champion's asset was not emitted; the server's log has the reason."]
    return []
