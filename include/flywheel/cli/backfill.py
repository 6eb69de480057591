"""`flywheel backfill FROM TO`: the nights of some days, named with their cost, started and followed."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from flywheel.common.errors import FlywheelError
from flywheel.common.redaction import clean
from flywheel.laptop.api import AirflowApi, RestError
from flywheel.laptop.home import ui_port
from flywheel.promotion.commands import ExperimentOption

POLL_SECONDS = 2.0
PATIENCE_SECONDS = 120.0  # without an answer of Airflow's, while a backfill is followed
_API = "/flywheel/api/backfills"


def backfill(
    from_: Annotated[
        datetime, typer.Argument(metavar="FROM", formats=["%Y-%m-%d"], help="Date of the first night.")
    ],
    to: Annotated[
        datetime,
        typer.Argument(metavar="TO", formats=["%Y-%m-%d"], help="Date of the last night: it is made."),
    ],
    experiment: ExperimentOption = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before it starts.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name nights and cost alone.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow it to its end.")] = False,
) -> None:
    """Make the nights from one day to another on the Airflow of `make run`, in order, and follow them.

    Dates are those of the schedule's time zone. Nights that are there are found; failed ones are made anew.
    """
    api = AirflowApi(f"http://127.0.0.1:{ui_port()}")
    days = {"from_date": f"{from_:%Y-%m-%d}", "to_date": f"{to:%Y-%m-%d}", "experiment": experiment}
    found = api.ask("GET", f"{_API}/forecast?{urlencode(days)}")
    _tell(found)
    if dry_run:
        return
    number = found["running"]
    if number is not None:
        typer.echo(f"Backfill {number} is at work already, and there is one at a time.")
    elif not found["make"]:
        return
    else:
        if not yes:
            _ask(found["make"])
        number = api.ask("POST", _API, days)["id"]
        typer.echo(f"Backfill {number} has started.")
    if not detach:
        raise typer.Exit(follow(api, number))


def follow(api: AirflowApi, number: int) -> int:
    """Tell of each night as it begins and ends; return 0 if all ended well, else 1.

    Ctrl-C asks whether it shall go on; without a terminal it goes on.
    """
    told: dict[str, str] = {}
    while True:
        try:
            status = _status(api, number)
            for night in status["nights"]:
                _tell_night(night, told)
            if status["is_done"]:
                return _conclude(status)
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            if not _is_to_be_cancelled():
                typer.echo(f"\nBackfill {number} goes on; the same command follows it again.")
                return 130
            api.ask("POST", f"{_API}/{number}/cancel")
            typer.echo("\nCancelled: a night that has begun goes to its end, the others are not made.")
            return 130


def _ask(nights: int) -> None:
    if not sys.stdin.isatty():
        raise FlywheelError(f"{nights} nights are not started without a yes: run this again with --yes")
    typer.confirm(f"Make {nights} nights?", abort=True)


def _tell(found: dict[str, Any]) -> None:
    """Print the nights and what they cost."""
    shown = {"missing": "will be made", "failed": "failed, will be made again", "success": "is there"}
    for night in found["nights"]:
        due = datetime.fromisoformat(night["due"])
        state = shown.get(night["state"], night["state"])
        typer.echo(f"{night['night']}  {due.astimezone(UTC):%Y-%m-%d %H:%M} UTC  {state}")
    typer.echo(f"{found['make']} nights to make ({found['time_zone']}). {clean(found['says'])}")
    if found["confirm"]:
        typer.echo(
            "That is above teacher.confirm_above: the first night waits for a yes in Airflow's UI, too."
        )


def _status(api: AirflowApi, number: int) -> dict[str, Any]:
    """Return how far it is; Airflow may be started anew meanwhile."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            found: dict[str, Any] = api.ask("GET", f"{_API}/{number}", seconds=30)
            return found
        except RestError as error:
            if error.status in (401, 403, 404) or time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def _tell_night(night: dict[str, Any], told: dict[str, str]) -> None:
    state = night["state"]
    if told.get(night["due"]) == state or state == "queued":
        return
    told[night["due"]] = state
    asked = (
        "" if night["asked"] is None else f": {night['asked']:,} answers asked, {night['tokens']:,} tokens"
    )
    cost = "" if night["cost"] is None else f", {night['cost']:,.2f}"
    run = f"  {clean(night['run_id'])}" if state == "failed" else ""
    typer.echo(f"{night['night']}  {state}{asked if state in ('success', 'failed') else ''}{cost}{run}")


def _conclude(status: dict[str, Any]) -> int:
    nights = status["nights"]
    well = sum(night["state"] == "success" for night in nights)
    asked = sum(night["asked"] or 0 for night in nights)
    tokens = sum(night["tokens"] or 0 for night in nights)
    typer.echo(
        f"{well} of {len(nights)} nights ended well; {asked:,} answers were asked of the teacher, "
        f"{tokens:,} tokens."
    )
    if well < len(nights):
        typer.echo("The same command makes the failed ones again, once what stopped them is mended.")
    return 0 if well == len(nights) else 1


def _is_to_be_cancelled() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return typer.confirm("\nCancel the nights that have not begun? (no: all go on)", default=False)
    except (typer.Abort, KeyboardInterrupt):
        return False
