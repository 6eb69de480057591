"""Decisions on a champion for tests of what comes after them, by the state machine itself."""

from __future__ import annotations

from typing import Any

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.promotion.champion import (
    Champion,
    Decision,
    RegistryEntry,
    champion_folder,
    decision_name,
    digest_of,
    read_state,
)
from flywheel.promotion.holds import Hold
from flywheel.promotion.mlflow_client import TrackingError
from flywheel.promotion.transitions import decide, lifted, promoted, rejected


class User:
    """The person who decides."""

    def get_id(self) -> str:
        return "7"

    def get_name(self) -> str:
        return "Ada"


def without_services(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Decide without MLflow, Airflow's events and pictures, which have tests of their own.

    Returns the adapters that are registered from now on.
    """
    adapters: list[str] = []

    def register(plan: Any, row: Any, reason: str) -> RegistryEntry:
        adapters.append(row.adapter)
        return RegistryEntry(model="m", version="1")

    def track(*_: object) -> None:
        raise TrackingError("not asked for")

    monkeypatch.setattr("flywheel.stages.promote.register", register)
    monkeypatch.setattr("flywheel.web.promotion.register", register)
    monkeypatch.setattr("flywheel.web.promotion.point_alias", lambda *_: None)
    monkeypatch.setattr("flywheel.web.airflow_actions.tell_of_champion", lambda *_: None)
    monkeypatch.setattr("flywheel.stages.score.track", track)
    monkeypatch.setattr("flywheel.stages.score.draw_png", lambda report, path: None)
    return adapters


def put_in_force(root: ArtifactRoot, champion: Champion, by: str = "", task: str = "a run") -> Champion:
    """Put a champion into force; return it as it is there."""
    after, _ = decide(
        root,
        champion.workload_id,
        champion.client_id,
        lambda state: promoted(state, champion),
        by=by,
        task="" if by else task,
    )
    assert after is not None
    assert after.champion is not None
    return after.champion


def place_hold(
    root: ArtifactRoot,
    workload_id: str,
    client_id: str,
    *,
    dataset: str | None,
    adapter: str,
    by: str,
    **word: Any,
) -> Hold:
    """Hold automatic promotions back; return the hold."""
    hold = Hold(
        workload_id=workload_id,
        client_id=client_id,
        dataset=dataset,
        adapter=adapter,
        by=by,
        at="2019-01-01T00:00:00+00:00",
        **{"why": "rejected", **word},
    )
    decide(root, workload_id, client_id, lambda state: rejected(state, hold), by=by)
    there = read_hold(root, workload_id, client_id)
    assert there is not None
    return there


def lift_hold(root: ArtifactRoot, workload_id: str, client_id: str, promoted: str | None = None) -> bool:
    """Lift it; return whether anything was held back."""
    return decide(root, workload_id, client_id, lambda state: lifted(state, promoted)).made


def read_hold(root: ArtifactRoot, workload_id: str, client_id: str) -> Hold | None:
    """Return the hold in force."""
    state = read_state(root, workload_id, client_id)
    return state.hold if state else None


def edit_last(root: ArtifactRoot, workload_id: str, client_id: str, **changes: Any) -> None:
    """Have the last decision say something else, as if it had been taken so; `champion` and `hold` merge."""
    state = read_state(root, workload_id, client_id)
    assert state is not None
    content = state.model_dump(mode="json")
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    content["digest"] = digest_of(Decision.model_validate(content).model_dump(mode="json"))
    for folder in ("decisions", "kept"):
        path = f"{champion_folder(workload_id, client_id)}/{decision_name(state.sequence, folder)}"
        root.write_json(path, content)
