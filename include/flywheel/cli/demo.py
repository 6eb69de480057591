"""`flywheel headlines` and `flywheel demo-records`: data of our own making."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DemoTask(StrEnum):
    """A demo workload of an application's log records."""

    calls = "calls"
    briefs = "briefs"


def headlines(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The CSV file to write.")],
    count: Annotated[int, typer.Option(min=1)] = 6000,
    seed: Annotated[int, typer.Option()] = 42,
) -> None:
    """Write dated demo headlines of our own making, with the labels of the stand-in teacher."""
    from flywheel.demo.headlines import write_csv

    out.parent.mkdir(parents=True, exist_ok=True)
    write_csv(out, count, seed=seed)


def demo_records(
    task: Annotated[DemoTask, typer.Argument(metavar="TASK", help="calls (tool calls) or briefs (texts).")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The JSONL file to write.")],
    count: Annotated[int, typer.Option(min=1)] = 1500,
    seed: Annotated[int, typer.Option()] = 42,
) -> None:
    """Write log records of our own making, of an application that calls functions or writes briefs."""
    from flywheel.demo.tasks import write_jsonl

    out.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(out, task.value, count, seed=seed)
