"""What a plan would be now, where a run has another one already: a plan stays as it was made."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flywheel.common.errors import ConfigError
from flywheel.runs.plan import Plan

# Made anew by each plan, or said by another key.
_OF_NO_ACCOUNT = ("created_at", "run_id", "dag_id", "project", "cutoff", "workload_id")
_MOST_SHOWN = 8
_LONGEST = 40


def changes(planned: Plan, made: Plan) -> list[str]:
    """Return where a plan made now differs from the one that a run has, as `key: old -> new`.

    The cutoff is left out: see `said_cutoff`.
    """
    before, after = _flat(planned.model_dump(mode="json")), _flat(made.model_dump(mode="json"))
    found = []
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key), after.get(key)
        if old != new and key not in _OF_NO_ACCOUNT:
            found.append(f"{key.removeprefix('config.')}: {_shown(old)} -> {_shown(new)}")
    more = len(found) - _MOST_SHOWN
    return [*found[:_MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def keeps(planned: Plan, made: Plan, *, with_cutoff: bool) -> str:
    """Return the sentence for a run that is planned again and keeps the plan that it has.

    Args:
        with_cutoff: the cutoff was asked for, and is not the time of now.

    Raises:
        ConfigError: the plan made now is another one; the message says where.
    """
    found = changes(planned, made)
    if with_cutoff and planned.cutoff != made.cutoff:
        found.insert(0, f"cutoff: {said_cutoff(planned)} -> {said_cutoff(made)}")
    said = f"{planned.run_id} is planned already, for {said_cutoff(planned)}"
    if not found:
        return f"{said}, and keeps that plan"
    raise ConfigError(
        f"{said}, and a plan stays as it was made; now it would differ: {'; '.join(found)}. Plan a run of "
        "another name"
    )


def said_cutoff(plan: Plan) -> str:
    """Return a plan's cutoff as people write it: `2024-06-01`, or with its time."""
    cutoff = datetime.fromtimestamp(plan.cutoff, UTC)
    is_day = cutoff.time() == datetime.min.time()
    return cutoff.strftime("%Y-%m-%d" if is_day else "%Y-%m-%d %H:%M:%S UTC")


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested objects by dotted path; lists are leaves where they hold no objects."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{path}.{key}".lstrip("."))
    return found


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
