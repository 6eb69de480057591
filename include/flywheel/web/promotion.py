"""Put a candidate into production, or the champion before back, at a person's word."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from flywheel.artifacts import ArtifactRoot
from flywheel.champion import (
    Champion,
    RegistryEntry,
    champion_folder,
    champion_history,
    read_champion,
    replace_champion,
)
from flywheel.mlflow_client import TrackingError
from flywheel.plan import Plan
from flywheel.promotion.holds import lift_hold, place_hold
from flywheel.promotion.timeline import write_persons
from flywheel.report.model import CandidatePart, Report
from flywheel.stages.promote import champion_of
from flywheel.tracking import point_alias, register
from flywheel.web import airflow_actions, settings
from flywheel.web.problems import Problem
from flywheel.web.run_files import side_by_side

log = logging.getLogger(__name__)

_one_at_a_time = threading.Lock()
# Champions there were, by root and path: such a file never changes.
_history: dict[tuple[str, str], Champion] = {}


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
    with _one_at_a_time:
        standing = read_champion(root, plan.workload_id, plan.client_id)
        if standing is not None and standing.adapter == adapter:
            return standing, [f"{standing.name} is in production already."]
        reason = f"Promoted by {user.get_name()}."
        registry, warnings = _register(plan, row, reason)
        champion = champion_of(plan, report, row, reason=reason, comment=comment, registry=registry)
        if standing is not None:
            champion = champion.model_copy(update={"promoted_at": _after(standing)})
        replace_champion(root, champion)
        lift_hold(root, plan.workload_id, plan.client_id, promoted=adapter)
        write_persons(root, champion, standing, by=user.get_name())
    return champion, warnings + _tell(user, champion, "promote")


def roll_back(
    user: Any, root: ArtifactRoot, workload_id: str, client_id: str, comment: str
) -> tuple[Champion, list[str]]:
    """Put the champion before the one in force back into production; return it, and what did not work.

    That holds automatic promotions back: the next night would promote what was rolled back again.

    Raises:
        Problem: there is none before, or its adapter is gone.
    """
    with _one_at_a_time:
        standing = read_champion(root, workload_id, client_id)
        if standing is None:
            raise Problem(409, "There is no champion yet: nothing to roll back from.")
        before = champion_before(champion_history(root, workload_id, client_id), standing)
        if before is None:
            raise Problem(409, f"{standing.name} is the first champion here: nothing to roll back to.")
        if not root.find("adapters", before.adapter):
            raise Problem(409, f"The adapter of {before.name} is no longer in the artifact root.")
        reason = (
            f"Rolled back by {user.get_name()} from {standing.name} of run {standing.run_id} "
            f"to {before.name} of run {before.run_id}."
        )
        champion = before.model_copy(
            update={
                "promoted_at": _after(standing),
                "reason": reason,
                "comment": comment,
            }
        )
        warnings = []
        if champion.registry is not None:
            try:
                point_alias(settings.config().mlflow_config, champion.registry)
            except TrackingError as error:
                log.warning("%s", error)
                warnings.append("The alias in the MLflow model registry could not be moved; see the log.")
        # First, so that a night between the two does not undo it.
        place_hold(
            root,
            workload_id,
            client_id,
            dataset=standing.dataset,
            adapter=standing.adapter,
            by=user.get_name(),
            why="rolled back",
            comment=comment,
        )
        replace_champion(root, champion)
        write_persons(root, champion, standing, by=user.get_name(), rolled_back=True)
    return champion, warnings + _tell(user, champion, "rollback")


def history_of(root: ArtifactRoot, workload_id: str, client_id: str) -> list[Champion]:
    """Return all champions there were, oldest first; each is read once."""
    folder = f"{champion_folder(workload_id, client_id)}/history"
    paths = [(root.url, f"{folder}/{name}") for name in root.list(folder)]

    def read(path: tuple[str, str]) -> Champion:
        return Champion.model_validate(root.read_json(path[1]))

    unknown = [path for path in paths if path not in _history]
    _history.update(zip(unknown, side_by_side(read, unknown), strict=True))
    return [_history[path] for path in paths]


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


def _after(standing: Champion) -> str:
    """Return the time, or the first second after another champion's: the history is in order of these."""
    now = datetime.now(UTC)
    later = datetime.fromisoformat(standing.promoted_at) + timedelta(seconds=1)
    return max(now, later).isoformat(timespec="seconds")


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


def _tell(user: Any, champion: Champion, why: str) -> list[str]:
    try:
        airflow_actions.tell_of_champion(user, champion, why)
    except Exception:
        log.exception("the asset event of %s", champion.name)
        return ["The event of the champion's asset was not emitted; the server's log has the reason."]
    return []
