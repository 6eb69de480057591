"""/api/production: what production was asked, night by night, and how it was answered."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from flywheel.evaluation.cascade import Cascade
from flywheel.promotion.champion import Stop, read_state
from flywheel.serving.nights import Night, night_at, night_names
from flywheel.web import settings
from flywheel.web.access import requires
from flywheel.web.routes.champion import Client, Workload, whose
from flywheel.web.routes.parts import Limit, Offset, problems

router = APIRouter(tags=["production"])


class Nights(BaseModel):
    """Nights of production, the latest first."""

    workload_id: str
    client_id: str
    log: str = Field(description="What is kept of each request: all, labels_only or none.")
    audit: float = Field(description="Share of the students' answers that is drawn for the audit.")
    cascade: Cascade | None = Field(description="Of the champion in force; null: it answers all.")
    stop: Stop | None = Field(description="Who stopped the champion; null: it answers.")
    nights: list[Night]
    total: int


@router.get("/production", dependencies=[requires("read")], responses=problems())
def get_production(
    workload_id: Workload = None, client_id: Client = None, limit: Limit = 100, offset: Offset = 0
) -> Nights:
    """List what each night found out about production: requests, agreement, cost, latency, drift."""
    root, workload, client = whose(workload_id, client_id)
    serving = settings.config().serving
    names = night_names(root, workload, client)[::-1]
    state = read_state(root, workload, client)
    champion = state.champion if state else None
    return Nights(
        workload_id=workload,
        client_id=client,
        log=serving.log,
        audit=serving.audit,
        cascade=champion.cascade if champion else None,
        stop=state.stop if state else None,
        nights=[night_at(root, workload, client, name) for name in names[offset : offset + limit]],
        total=len(names),
    )
