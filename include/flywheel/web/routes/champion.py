"""/api/champion: what is in production and what was, and a person's word on it."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from flywheel.artifacts.root import ArtifactRoot
from flywheel.promotion.champion import Champion, Stop, champion_history, read_champion, read_state
from flywheel.promotion.holds import Hold
from flywheel.promotion.in_force import InForce, in_force
from flywheel.promotion.timeline import Placed, Timeline
from flywheel.promotion.transitions import decide, lifted, resumed, stopped
from flywheel.web import promotion, settings
from flywheel.web.access import Promoter, check_allowed, check_four_eyes, requires
from flywheel.web.idempotency import IdempotencyKey, once
from flywheel.web.problems import Problem
from flywheel.web.routes.parts import NAME, RUN_ID, Limit, Offset, existing_run, planned_run, problems
from flywheel.web.run_files import read_report
from flywheel.workloads.experiments import experiment_for

log = logging.getLogger(__name__)

router = APIRouter(tags=["champion"])

Workload = Annotated[
    str | None, Query(min_length=1, max_length=256, description="Default: that of the configuration.")
]
Client = Annotated[
    str | None, Query(min_length=1, max_length=256, description="Default: that of the configuration.")
]


class History(BaseModel):
    """All champions there were, the latest first."""

    workload_id: str
    client_id: str
    champions: list[Champion]
    total: int
    before: Champion | None = Field(description="What a rollback would put back; null: there is nothing.")


def whose(workload_id: str | None, client_id: str | None) -> tuple[ArtifactRoot, str, str]:
    """Return a champion's artifact root, and its workload and client, those of config.yaml by default."""
    of = workload_id or settings.workload().id, client_id or settings.config().client_id
    return settings.artifact_root(settings.config_of(experiment_for(*of)).artifacts.root), *of


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
    root, workload, client = whose(workload_id, client_id)
    champions = champion_history(root, workload, client)
    standing = read_champion(root, workload, client)
    return History.model_construct(
        workload_id=workload,
        client_id=client,
        champions=champions[::-1],
        total=len(champions),
        before=promotion.champion_before(champions, standing) if standing else None,
    )


class Entries(BaseModel):
    """What each night and each person decided, the latest first."""

    workload_id: str
    client_id: str
    entries: list[Placed]
    total: int


@router.get("/champion/timeline", dependencies=[requires("read")], responses=problems())
def get_timeline(
    workload_id: Workload = None, client_id: Client = None, limit: Limit = 100, offset: Offset = 0
) -> Entries:
    """List who was, or would have been, in production after each night, by its cutoff, and why.

    An entry counts for the time after it: at a moment the champion is that of the last entry before it. Where
    `in_line` is false, the night was compared with another champion than the one that stands before it now.
    """
    root, workload, client = whose(workload_id, client_id)
    line = Timeline(root, workload, client)
    entries = line.entries(limit, offset)
    return Entries(workload_id=workload, client_id=client, entries=entries, total=len(line.names()))


class Stretches(BaseModel):
    """Which champion was in force at which time, the latest stretch first."""

    workload_id: str
    client_id: str
    stretches: list[InForce]
    total: int


@router.get("/champion/in-force", dependencies=[requires("read")], responses=problems())
def get_in_force(
    workload_id: Workload = None, client_id: Client = None, limit: Limit = 100, offset: Offset = 0
) -> Stretches:
    """List which champion was, or would have been, in force at which time, and why there was none.

    The stretches have no gap between them: from the beginning until the first decision the teacher answered,
    and so in each that has no champion, with its reason. `behind` is how far the champion's cutoff lay behind
    at the end of its stretch.
    """
    root, workload, client = whose(workload_id, client_id)
    found = in_force(Timeline(root, workload, client))[::-1]
    return Stretches(
        workload_id=workload,
        client_id=client,
        stretches=found[offset : offset + limit],
        total=len(found),
    )


class Held(BaseModel):
    """Whether a person's word holds automatic promotions back."""

    workload_id: str
    client_id: str
    hold: Hold | None = Field(description="Who decided what, when and why; null: nothing is held back.")
    turned_down: list[Hold] = Field(
        default_factory=list,
        description="Words whose hold has ended; the adapter of each is not promoted by itself again.",
    )


@router.get("/champion/hold", dependencies=[requires("read")], responses=problems())
def get_hold(workload_id: Workload = None, client_id: Client = None) -> Held:
    """Show the roll-back or rejection that holds automatic promotions back.

    It ends by itself when enough of a night's records are new (promotion.hold_share of the configuration).
    """
    root, workload, client = whose(workload_id, client_id)
    state = read_state(root, workload, client)
    return Held(
        workload_id=workload,
        client_id=client,
        hold=state.hold if state else None,
        turned_down=list(state.turned_down) if state else [],
    )


@router.delete("/champion/hold", responses=problems(404))
def delete_hold(user: Promoter, workload_id: Workload = None, client_id: Client = None) -> Held:
    """Lift the hold, so that nights promote by themselves again, also what was turned down.

    What is in production stays.
    """
    root, workload, client = whose(workload_id, client_id)
    if not decide(root, workload, client, lifted, by=user.get_name()).made:
        raise Problem(404, "Nothing is held back here.")
    log.info("%s lifted the hold on %s of %s", user.get_name(), workload, client)
    return Held(workload_id=workload, client_id=client, hold=None)


class Promotion(BaseModel):
    """A candidate to put into production."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"run_id": "night-2", "student": "1b", "size": 5000, "comment": "cheaper"}]
        },
    )

    run_id: str = Field(min_length=1, max_length=250, pattern=RUN_ID)
    student: str = Field(pattern=NAME)
    size: int = Field(ge=1, le=10**9)
    comment: str = Field("", max_length=1000, pattern=r"^[^\x00]*$")


class Why(BaseModel):
    """Why the champion before is to come back, or the one in force to answer nothing."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"comment": "it missed the strikes"}]}
    )

    comment: str = Field("", max_length=1000, pattern=r"^[^\x00]*$")


class Promoted(BaseModel):
    """What is in production now."""

    champion: Champion
    warnings: list[str] = Field(description="What did not work, and did not matter enough to stop.")


@router.post("/champion", responses=problems(404, 409))
def post_champion(asked: Promotion, user: Promoter, idempotency_key: IdempotencyKey = None) -> Promoted:
    """Put a candidate of any run into production.

    The MLflow registry, the champion file and the event of the champion's asset follow, as they do when the
    DAG promotes. One that is in production already stays as it is.
    """

    def promote() -> Promoted:
        found = existing_run(asked.run_id)
        check_allowed(user, "promote", found.experiment)
        run, plan = planned_run(asked.run_id)
        check_four_eyes(user, found.user, plan)
        report = read_report(run)
        if report is None:
            raise Problem(409, "The run has no report yet: its candidates are not all measured.")
        champion, warnings = promotion.promote(user, plan, report, asked.student, asked.size, asked.comment)
        return Promoted(champion=champion, warnings=warnings)

    return once(user, "POST /api/champion", idempotency_key, asked, promote)


@router.post("/champion/rollback", responses=problems(409))
def post_rollback(
    user: Promoter,
    asked: Why | None = None,
    workload_id: Workload = None,
    client_id: Client = None,
    idempotency_key: IdempotencyKey = None,
) -> Promoted:
    """Put the champion before the one in force back into production.

    Automatic promotions are held back from then on; see champion/hold.
    """

    def roll_back() -> Promoted:
        root, workload, client = whose(workload_id, client_id)
        comment = asked.comment if asked else ""
        champion, warnings = promotion.roll_back(user, root, workload, client, comment)
        return Promoted(champion=champion, warnings=warnings)

    route = f"POST /api/champion/rollback {workload_id} {client_id}"
    return once(user, route, idempotency_key, asked or Why(), roll_back)


class Stopped(BaseModel):
    """Whether the champion answers at the endpoint."""

    workload_id: str
    client_id: str
    stop: Stop | None = Field(description="Who stopped it, when and why; null: it answers.")


@router.post("/champion/stop", responses=problems(409))
def post_stop(
    user: Promoter, asked: Why | None = None, workload_id: Workload = None, client_id: Client = None
) -> Stopped:
    """Have the champion answer nothing at the endpoint, until `DELETE champion/stop`.

    With a cascade the teacher answers alone; without one the endpoint says 503 with who stopped it. Nights go
    on; whoever is promoted meanwhile answers nothing either. One that is stopped already stays as it is.
    """
    root, workload, client = whose(workload_id, client_id)
    name, comment = user.get_name(), asked.comment if asked else ""
    state, made = decide(root, workload, client, lambda state: stopped(state, name, comment), by=name)
    if state is None or state.champion is None:
        raise Problem(409, "There is no champion yet: nothing to stop.")
    if made:
        log.info("%s stopped the champion of %s of %s", name, workload, client)
    return Stopped(workload_id=workload, client_id=client, stop=state.stop)


@router.delete("/champion/stop", responses=problems(404))
def delete_stop(user: Promoter, workload_id: Workload = None, client_id: Client = None) -> Stopped:
    """Have the champion in force answer at the endpoint again."""
    root, workload, client = whose(workload_id, client_id)
    if not decide(root, workload, client, resumed, by=user.get_name()).made:
        raise Problem(404, "The champion is not stopped.")
    log.info("%s resumed the champion of %s of %s", user.get_name(), workload, client)
    return Stopped(workload_id=workload, client_id=client, stop=None)
