"""GET /api/champion: what is in production, and what was."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from flywheel.artifacts import ArtifactRoot
from flywheel.champion import Champion, champion_history, read_champion
from flywheel.web import settings
from flywheel.web.access import requires
from flywheel.web.problems import Problem
from flywheel.web.routes.parts import problems

router = APIRouter(tags=["champion"])

Workload = Annotated[
    str | None, Query(min_length=1, max_length=256, description="Default: that of the configuration.")
]
Client = Annotated[
    str | None, Query(min_length=1, max_length=256, description="Default: that of the configuration.")
]


class History(BaseModel):
    """All champions there were, the latest first."""

    champions: list[Champion]
    total: int


def whose(workload_id: str | None, client_id: str | None) -> tuple[ArtifactRoot, str, str]:
    """Return the artifact root, and the workload and client, those of the configuration by default."""
    config = settings.config()
    root = settings.artifact_root(config.artifacts.root)
    return root, workload_id or settings.workload().id, client_id or config.client_id


@router.get("/champion", dependencies=[requires("read")], responses=problems(404))
def get_champion(workload_id: Workload = None, client_id: Client = None) -> Champion:
    """Show what is in production."""
    found = read_champion(*whose(workload_id, client_id))
    if found is None:
        raise Problem(404, "There is no champion yet: the teacher is in production.")
    return found


@router.get("/champion/history", dependencies=[requires("read")], responses=problems())
def get_history(workload_id: Workload = None, client_id: Client = None) -> History:
    """List all champions there were, the latest first."""
    champions = champion_history(*whose(workload_id, client_id))[::-1]
    return History(champions=champions, total=len(champions))
