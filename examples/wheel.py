"""The wheel turned once in this process, as `flywheel plan`, `label`, ..., `promote` do it, one by one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flywheel.config.loading import project_home, validate_config
from flywheel.jobs.spec import CHAMPION
from flywheel.promotion.timeline import compared_champion
from flywheel.report import Report, read_report, render_markdown
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.runtimes import Job, open_runtime
from flywheel.runtimes.base import JobKind
from flywheel.runtimes.job_command import run_job
from flywheel.stages import pipeline

KINDS: tuple[JobKind, ...] = ("customize", "evaluate")


def folder_of(name: str) -> Path:
    """Return where an example leaves what it makes: its first argument, else state/examples/NAME."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else project_home() / "state/examples"
    (folder / name).mkdir(parents=True, exist_ok=True)
    return (folder / name).resolve()


def turn(folder: Path, config: dict[str, Any], *, night: datetime | None = None) -> Report:
    """Turn the wheel once and return the run's report; what was done before is found.

    Args:
        folder: where records, artifacts and MLflow's database go.
        config: sections of a config file.
        night: the cutoff; a run sees what was known before it. None: now.
    """
    kept = {
        "store": {"path": str(folder / "records.sqlite")},
        "artifacts": {"root": str(folder / "artifacts")},
        "mlflow_config": {
            "tracking_uri": f"sqlite:///{folder.parent}/mlflow.db",
            "artifact_location": str(folder.parent / "mlruns"),
        },
    }
    cutoff = night or datetime.now(UTC).replace(microsecond=0)
    plan = make_plan(
        validate_config({**kept, **config}, "the example"),
        run_id=f"night-{cutoff:%Y-%m-%d-%H%M%S}",
        cutoff=cutoff,
    )
    run = Run.create(plan)
    pipeline.label(run)
    pipeline.ingest(run)
    pipeline.curate(run)
    runtime = open_runtime(plan.config)
    for student in plan.untrained:
        spec = pipeline.write_spec(run, "base_eval", student)
        runtime.run(Job("evaluate", spec, f"base_eval {student}"), tell)
    for candidate in run.candidates:
        for kind in KINDS:
            spec = pipeline.write_spec(run, kind, candidate.student, candidate.size)
            runtime.run(Job(kind, spec, f"{kind} {candidate.name}"), tell)
    pipeline.score(run)
    pipeline.promote(run)
    return read_report(run.root, run.run_id)


def backfill(config: dict[str, Any], nights: Sequence[datetime], *, in_force: bool = False) -> list[Run]:
    """Do nights of the past in this process, one after another; each enters its champion into the timeline.

    Args:
        config: a whole config file's sections.
        nights: their cutoffs.
        in_force: as nights of today, which put their champion into production.
    """
    runs = []
    for cutoff in nights:
        plan = make_plan(
            validate_config(config, "the example"),
            run_id=f"night-{cutoff:%Y-%m-%d-%H%M%S}",
            cutoff=cutoff,
            is_backfill=not in_force,
        )
        run = Run.create(plan)
        for stage in (pipeline.label, pipeline.ingest, pipeline.curate):
            stage(run)
        for candidate in run.candidates:
            for kind in KINDS:
                run_job(kind, pipeline.write_spec(run, kind, candidate.student, candidate.size))
        if compared_champion(run.root, plan) is not None:
            run_job("evaluate", pipeline.write_spec(run, "champion_eval", CHAMPION))
        pipeline.score(run)
        pipeline.promote(run)
        runs.append(run)
    return runs


def tell(text: str | Report) -> None:
    """Print a line, or a report's table and verdict."""
    sys.stdout.write((text if isinstance(text, str) else render_markdown(text)) + "\n")
