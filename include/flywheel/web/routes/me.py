"""GET /api/me: whose request it is, and what that user may do."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from flywheel.web.access import Permission, current_user, is_allowed
from flywheel.web.routes.parts import problems

router = APIRouter(tags=["me"])


class May(BaseModel):
    """What a user may do, as Airflow's auth manager says."""

    read: bool
    trigger: bool = Field(description="Start and cancel jobs, and send records.")
    delete: bool = Field(description="Delete jobs.")
    review: bool
    promote: bool = Field(description="Put a candidate into production, and the champion before back.")


class Me(BaseModel):
    """A user."""

    name: str
    may: May


@router.get("/me", responses=problems())
def get_me(user: Annotated[Any, Depends(current_user)]) -> Me:
    """Show whose token or session this is, and what its user may do here."""
    may = May(**{permission: is_allowed(user, permission) for permission in get_args(Permission)})
    return Me(name=user.get_name(), may=may)
