"""Who may do what: Airflow's own authentication, and its permissions on the experiment's DAG.

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

from collections.abc import Callable
from functools import cache
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

from flywheel.config.experiments import dag_id_of, experiment_of
from flywheel.runs.names import airflow_run
from flywheel.runs.plan import Plan
from flywheel.web import settings
from flywheel.web.limits import Rates
from flywheel.web.local import is_cross_site, is_local
from flywheel.web.problems import Problem
from flywheel.workloads.experiments import experiment_for, experiments

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


def requires(permission: Permission, *, of_any: bool = False) -> Any:
    """Return the dependency of a route that lets only users with a permission through, and gives the user.

    Args:
        of_any: on any experiment; the route itself asks for that of the one that its body or a number names.
    """

    async def check(request: Request, user: Annotated[Any, Depends(current_user)]) -> Any:
        if isinstance(user, LocalUser) and permission not in _WITHOUT_TOKEN:
            said = f"To {permission} takes a token: api.token_required: false is not for what decides."
            raise Problem(401, said, headers={"WWW-Authenticate": "Bearer"})

        def look() -> None:
            names = [one.name for one in experiments()] if of_any else [_asked_for(request)]
            if not any(is_allowed(user, permission, name) for name in names):
                raise _no(permission)

        await run_in_threadpool(look)
        return user

    return Depends(check)


ReaderOfAny = Annotated[Any, requires("read", of_any=True)]
TriggerOfAny = Annotated[Any, requires("trigger", of_any=True)]
Reader = Annotated[Any, requires("read")]
Trigger = Annotated[Any, requires("trigger")]
Deleter = Annotated[Any, requires("delete")]
Reviewer = Annotated[Any, requires("review")]
Promoter = Annotated[Any, requires("promote")]


def _asked_for(request: Request) -> str:
    """Return the experiment that a request is about, by its run or its champion; else config.yaml's."""
    run_id = request.path_params.get("run_id") or request.path_params.get("job_id")
    if run_id:
        return experiment_of(airflow_run(run_id)[0])
    workload_id, client_id = (request.query_params.get(name) for name in ("workload_id", "client_id"))
    if workload_id is None and client_id is None:
        return ""
    config = settings.config()
    return experiment_for(workload_id or settings.workload().id, client_id or config.client_id)


def check_allowed(user: Any, permission: Permission, experiment: str) -> None:
    """Check that a user may do that with an experiment.

    Raises:
        Problem: Airflow's auth manager says no.
    """
    if not is_allowed(user, permission, experiment):
        raise _no(permission)


def _no(permission: Permission) -> Problem:
    return Problem(403, f"You have no permission to {permission} here.")


def readable(user: Any) -> Callable[[str], bool]:
    """Return what says of an experiment whether a user may read its runs; each is asked for once."""
    return cache(lambda experiment: is_allowed(user, "read", experiment))


def check_starter(user: Any, experiment: str) -> None:
    """Check that a run's starter will be known, where another person has to approve it.

    Raises:
        Problem: there is no token, and `promotion.four_eyes` of the experiment is on.
    """
    if isinstance(user, LocalUser) and settings.config_of(experiment).promotion.four_eyes:
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


def is_allowed(user: Any, permission: Permission, experiment: str = "") -> bool:
    """Return whether Airflow's auth manager lets a user do that with an experiment's DAG."""
    if isinstance(user, LocalUser):
        return permission in _WITHOUT_TOKEN
    manager = get_auth_manager()
    dag_id = dag_id_of(experiment)
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))

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
