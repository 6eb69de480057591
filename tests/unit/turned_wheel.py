"""A wheel turned in this process, without Airflow: the stages, and each job as a runtime would run it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flywheel.config.loading import validate_config
from flywheel.demo.tasks import Task, write_jsonl
from flywheel.report.model import Report
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.runtimes.job_command import run_job
from flywheel.stages import pipeline as wheel
from tests.unit.kept_in import kept_in

STUDENTS = Path("include/flywheel/demo/students")


def planned(folder: Path, task: Task, records: int, **changes: Any) -> Run:
    """Return a run over log records of a demo task."""
    write_jsonl(folder / "log.jsonl", task, records)
    data = {
        "client_id": "demo",
        "workload": f"include/workloads/desk_{task}.yaml",
        "source": [{"path": str(folder / "log.jsonl"), "kind": "log_records"}],
        **kept_in(folder),
        "lora_config": {"adapter_dropout": 0.0},
        "training_config": {
            "batch_size": 32,
            "epochs": 3,
            "learning_rate": 0.005,
            "warmup_ratio": 0.3,
            "max_grad_norm": 0.3,
            "validations": 0,
        },
        **changes,
    }
    plan = make_plan(validate_config(data, "test"), run_id="night", cutoff=datetime(2026, 1, 1, tzinfo=UTC))
    return Run.create(plan)


def turn(run: Run) -> Report:
    """Do all stages and jobs; return the report."""
    plan = run.plan
    wheel.label(run)
    wheel.ingest(run)
    wheel.curate(run)
    for student in plan.untrained:
        run_job("evaluate", wheel.write_spec(run, "base_eval", student))
        if plan.config.icl_config is not None:
            run_job("evaluate", wheel.write_spec(run, "icl_eval", student))
    for candidate in plan.candidates:
        run_job("customize", wheel.write_spec(run, "customize", candidate.student, candidate.size))
        run_job("evaluate", wheel.write_spec(run, "evaluate", candidate.student, candidate.size))
    wheel.score(run)
    wheel.promote(run)
    return Report.read(Path(run.root.url) / run.path)
