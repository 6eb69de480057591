"""A person's word on what labelling costs, where that is above `teacher.confirm_above`.

    confirmations/<key>.json            {"texts", "by", "at"}: what was confirmed
    confirmations/<key>.asked.json      {"run_id", "at"}: who is asking
    runs/<run>/unconfirmed.json         {"reason", "at"}: a 'no'
    runs/<run>/unasked.json             {"run_id", "at"}: the run whose question this one waits for

A 'yes' is for a version of the prompt, a teacher, the sources, the store and the client together, and holds
until more headlines are there than were then, those after the cutoff counted too: so a backfill of many
nights asks once. It survives kills, as nothing is counted down.
"""

from __future__ import annotations

import time
from datetime import timedelta

from flywheel.artifacts.root import key_of
from flywheel.common.errors import UnconfirmedError
from flywheel.config.teacher import ConfirmAbove
from flywheel.runs.plan import Plan
from flywheel.runs.run import Run
from flywheel.stages.forecast import Forecast, forecast

# Of two nights that ask in one moment, the later one's word is there after so long, and the other waits.
SETTLE_SECONDS = 2.0
_REFUSED, _WAITS = "unconfirmed.json", "unasked.json"


def needed(run: Run, limit: ConfirmAbove) -> Forecast | None:
    """Return what a person must confirm, counted now; None where nobody need be asked.

    Args:
        limit: the operator's, which the params of a run do not change.

    Raises:
        SourceError, StoreError: it cannot be counted.
    """
    if not limit.is_set:
        return None
    found = forecast(run.plan)
    if found is None or not is_above(found, limit):
        return None
    path = _path(run.plan)
    confirmed = run.root.read_json(path)["texts"] if run.root.exists(path) else 0
    return found if found.texts > confirmed else None


def is_above(found: Forecast, limit: ConfirmAbove) -> bool:
    """Return whether so much is above the limit."""
    return (limit.answers is not None and found.ask > limit.answers) or (
        limit.cost is not None and found.cost > limit.cost
    )


def confirm(run: Run, found: Forecast, by: str) -> None:
    """Remember a person's 'yes'."""
    run.root.write_json(
        _path(run.plan),
        {**_whose(run.plan), "texts": found.all_texts, "by": by, "at": time.time(), "run_id": run.run_id},
    )
    withdraw(run)


def check(run: Run, limit: ConfirmAbove, *, yes: bool) -> None:
    """Confirm what the run will ask, or refuse it.

    Args:
        yes: a person says so.

    Raises:
        UnconfirmedError: it is above the limit, and nobody has said so.
    """
    found = needed(run, limit)
    if found is None:
        return
    if not yes:
        raise UnconfirmedError(
            f"{found.whole_line()}. That is above teacher.confirm_above; run this again with --yes to go on"
        )
    confirm(run, found, "the command line")


def asks_elsewhere(run: Run, wait: timedelta) -> str | None:
    """Return the id of another run that waits for an answer to the same question; else this one now asks.

    Args:
        wait: how long a question stands; one that is older is no question any more.
    """
    other = _asks(run, wait)
    if other is None:
        run.root.discard(f"{run.path}/{_REFUSED}")  # of an earlier try
        run.root.write_json(
            _asked_path(run.plan), {**_whose(run.plan), "run_id": run.run_id, "at": time.time()}
        )
        time.sleep(SETTLE_SECONDS)
        other = _asks(run, wait)
    if other is not None:
        run.root.write_json(f"{run.path}/{_WAITS}", {"run_id": other, "at": time.time()})
    return other


def _asks(run: Run, wait: timedelta) -> str | None:
    path = _asked_path(run.plan)
    if run.root.exists(path):
        asked = run.root.read_json(path)
        other = str(asked["run_id"])
        stands = time.time() - asked["at"] < wait.total_seconds()
        if stands and other != run.run_id and not _is_over(run, other):
            return other
    return None


def refuse(run: Run, reason: str) -> None:
    """Remember a person's 'no', for the runs that wait for the answer; one that begins later asks anew."""
    run.root.write_json(f"{run.path}/{_REFUSED}", {"reason": reason, "at": time.time()})
    withdraw(run)


def refusal_of(run: Run) -> str:
    """Return why the run that this one waited for was refused, once; empty if it was not."""
    waits = f"{run.path}/{_WAITS}"
    if not run.root.exists(waits):
        return ""
    other = run.root.read_json(waits)["run_id"]
    run.root.discard(waits)
    path = f"{Run(run.root, other).path}/{_REFUSED}"
    return f"run {other}: {run.root.read_json(path)['reason']}" if run.root.exists(path) else ""


def withdraw(run: Run) -> None:
    """Take the question back: it is answered."""
    run.root.discard(_asked_path(run.plan))


def _is_over(run: Run, other: str) -> bool:
    """Return whether a run was deleted or cancelled."""
    folder = Run(run.root, other).path
    return not run.root.exists(f"{folder}/plan.json") or run.root.exists(f"{folder}/cancelled.json")


def _whose(plan: Plan) -> dict[str, str]:
    return {"workload_id": plan.workload_id, "client_id": plan.client_id}


def _path(plan: Plan) -> str:
    return f"confirmations/{_key(plan)}.json"


def _asked_path(plan: Plan) -> str:
    return f"confirmations/{_key(plan)}.asked.json"


def _key(plan: Plan) -> str:
    teacher = plan.config.teacher
    return key_of(
        "confirmation",
        plan.workload.sha256,
        [
            *(teacher.model, teacher.temperature, teacher.max_tokens, teacher.prices.model_dump(mode="json")),
            *([teacher.request] if teacher.request else []),
        ],
        [source.model_dump(mode="json") for source in plan.config.source],
        plan.config.store.model_dump(mode="json"),
        plan.client_id,
    )
