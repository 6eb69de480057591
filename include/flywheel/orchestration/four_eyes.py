"""`promotion.four_eyes`: who starts a run does not approve it."""

from __future__ import annotations

from typing import Any

from flywheel.runtimes.context import run_of


def starter_of(context: Any) -> str:
    """Return the user who started a run; empty for one that nobody started: by schedule, or by an asset."""
    return str(getattr(context.get("dag_run"), "triggering_user_name", None) or "")


def told(context: Any) -> str:
    """Return what a question says of who may not answer it with yes; empty where everybody may."""
    starter = starter_of(context)
    if not starter or not run_of(context).plan.config.promotion.four_eyes:
        return ""
    return f"{starter} started this run, so another person has to say yes (promotion.four_eyes).\n\n"


def refusal(context: Any, by: str) -> str:
    """Return why a person's yes does not count; empty where it does."""
    if by != starter_of(context) or not told(context):
        return ""
    return f"{by} started this run and cannot say yes to it: promotion.four_eyes wants another person's yes"
