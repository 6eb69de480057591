"""The application: its routes, its errors, its document, and what every request passes first."""

from __future__ import annotations

from fastapi import APIRouter, Depends, FastAPI

from flywheel.common.redaction import install
from flywheel.web.access import current_user
from flywheel.web.headers import SafeHeaders
from flywheel.web.limits import BodyLimit
from flywheel.web.parameters import only_known_parameters
from flywheel.web.problems import Guard, install_handlers
from flywheel.web.routes import (
    artifacts,
    backfills,
    champion,
    costs,
    documentation,
    experiments,
    jobs,
    me,
    production,
    records,
    review,
    runs,
)

DESCRIPTION = """\
Programs drive the flywheel through this API, and the results page reads from it.

`/api/jobs` is the API that clients of the NVIDIA Data Flywheel Blueprint call. The rest goes beyond it.

Every request needs a token of Airflow's (`Authorization: Bearer …`, from `POST /auth/token`) or the session
of Airflow's UI. Errors are problem details (RFC 9457).
"""


def create_app() -> FastAPI:
    """Return the application that Airflow's API server mounts."""
    install()
    app = FastAPI(
        title="flywheel",
        version="1",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    # Who asks comes first: nobody learns of a route what it takes.
    api = APIRouter(prefix="/api", dependencies=[Depends(current_user), Depends(only_known_parameters)])
    for part in (
        *(me, jobs, runs, experiments, backfills, review, artifacts),
        *(champion, costs, production, records),
    ):
        api.include_router(part.router)
    app.include_router(api)
    app.include_router(documentation.router)
    install_handlers(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(Guard)
    app.add_middleware(SafeHeaders)
    return app
