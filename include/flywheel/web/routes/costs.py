"""/api/costs: what the runs of a workload and client have cost, and what its students have saved."""

from __future__ import annotations

from fastapi import APIRouter

from flywheel.serving.payback import Costs, costs
from flywheel.web import settings
from flywheel.web.access import requires
from flywheel.web.routes.champion import Client, Workload, whose
from flywheel.web.routes.parts import problems

router = APIRouter(tags=["costs"])


@router.get("/costs", dependencies=[requires("read")], responses=problems())
def get_costs(workload_id: Workload = None, client_id: Client = None) -> Costs:
    """Show what runs cost: the last one, by month and so far, and when the champion has paid for them."""
    return costs(*whose(workload_id, client_id), zone=settings.config().schedule.time_zone)
