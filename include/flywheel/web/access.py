"""Who may do what: Airflow's own authentication, and its permissions on the DAG.

A request has a bearer token or the session cookie of Airflow's UI. Whichever auth manager Airflow runs with
(simple, FAB, Keycloak) says whose it is and what that user may do:

    read      GET of the DAG's runs
    trigger   POST of the DAG's runs: start and cancel jobs, send records
    delete    POST of the DAG's runs: delete jobs
    review    PUT of the DAG's human-in-the-loop details, as in Airflow's own UI
    promote   PUT of the DAG and POST of asset events, for a promotion is an event of the champion's asset

So with the simple auth manager a viewer reads, a user triggers and reviews, and an op promotes.

`api.token_required: false` lets requests of this machine (flywheel.web.local) do without a token what decides
nothing: read, start and cancel jobs, send records. With `promotion.four_eyes` they start none: nobody could
say that another person approved.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import (
    AssetDetails,
    DagAccessEntity,
    DagDetails,
)
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from flywheel.runs.plan import Plan
from flywheel.web import settings
from flywheel.web.airflow_runs import DAG_ID
from flywheel.web.limits import Rates
from flywheel.web.local import is_cross_site, is_local
from flywheel.web.problems import Problem

Permission = Literal["read", "trigger", "delete", "review", "promote"]
# What needs no token where the configuration says so.
_WITHOUT_TOKEN = ("read", "trigger")

_BEARER = HTTPBearer(auto_error=False, description="A token of Airflow's: POST /auth/token gives one.")
_taken, _refused = Rates(), Rates()
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class LocalUser(BaseUser):
    """Whoever sits at this machine, where the configuration lets them do without a token."""

    def get_id(self) -> str:
        """Return the id that goes into Airflow's records."""
        return "local"

    def get_name(self) -> str:
        """Return the name for people."""
        return "local (no token)"


async def current_user(
    request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
) -> Any:
    """Return the user whose request this is.

    Raises:
        HTTPException: 401 without a token or session, or with an old one; 403 with a forged one.
        Problem: too many requests, or one of another site's page.
    """
    limits = settings.limits()
    per_minute = limits.reads_per_minute if request.method in _SAFE_METHODS else limits.writes_per_minute
    host = request.client.host if request.client else "unknown"
    if bearer is None and not limits.token_required and is_local(request):
        user: Any = LocalUser()
    else:
        if bearer is None and request.method not in _SAFE_METHODS and is_cross_site(request):
            raise Problem(403, "This request comes from a page of another site.")
        try:
            user = await get_user(request, None, bearer)
        except HTTPException:
            _refused.check(host, limits.reads_per_minute)
            raise
    kind = "reads" if request.method in _SAFE_METHODS else "writes"
    _taken.check(f"{kind} {user.get_id()}", per_minute)
    return user


def requires(permission: Permission) -> Any:
    """Return the dependency of a route that lets only users with a permission through, and gives the user."""

    async def check(user: Annotated[Any, Depends(current_user)]) -> Any:
        if isinstance(user, LocalUser):
            if permission not in _WITHOUT_TOKEN:
                said = f"To {permission} takes a token: api.token_required: false is not for what decides."
                raise Problem(401, said, headers={"WWW-Authenticate": "Bearer"})
        elif not await run_in_threadpool(is_allowed, user, permission):
            raise Problem(403, f"You have no permission to {permission} here.")
        return user

    return Depends(check)


Reader = Annotated[Any, requires("read")]
Trigger = Annotated[Any, requires("trigger")]
Deleter = Annotated[Any, requires("delete")]
Reviewer = Annotated[Any, requires("review")]
Promoter = Annotated[Any, requires("promote")]


def check_starter(user: Any) -> None:
    """Check that a run's starter will be known, where another person has to approve it.

    Raises:
        Problem: there is no token, and `promotion.four_eyes` is on.
    """
    if isinstance(user, LocalUser) and settings.config().promotion.four_eyes:
        said = "A run is started with a token here: promotion.four_eyes has another person approve it."
        raise Problem(401, said, headers={"WWW-Authenticate": "Bearer"})


def check_four_eyes(user: Any, starter: str | None, plan: Plan) -> None:
    """Check that a person does not approve the run that they started, where `promotion.four_eyes` says so.

    Args:
        starter: who started the run; None: nobody, it was due.

    Raises:
        Problem: they started it.
    """
    wanted = plan.config.promotion.four_eyes or settings.config_of(plan.experiment).promotion.four_eyes
    if wanted and starter == user.get_name():
        raise Problem(
            403,
            f"{starter} started this run: promotion.four_eyes wants another person to approve or promote.",
        )


def is_allowed(user: Any, permission: Permission) -> bool:
    """Return whether Airflow's auth manager lets a user do that."""
    if isinstance(user, LocalUser):
        return permission in _WITHOUT_TOKEN
    manager = get_auth_manager()
    details = DagDetails(id=DAG_ID, team_name=DagModel.get_team_name(DAG_ID))

    def dag(method: Any, entity: DagAccessEntity | None = None) -> bool:
        return bool(
            manager.is_authorized_dag(method=method, access_entity=entity, details=details, user=user)
        )

    if permission == "read":
        return dag("GET", DagAccessEntity.RUN)
    if permission in ("trigger", "delete"):
        return dag("POST", DagAccessEntity.RUN)
    if permission == "review":
        return dag("PUT", DagAccessEntity.HITL_DETAIL)
    return dag("PUT") and bool(manager.is_authorized_asset(method="POST", details=AssetDetails(), user=user))
