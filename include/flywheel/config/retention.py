"""The section `retention`: how long what no run, champion or hold needs is kept."""

from __future__ import annotations

from pydantic import Field

from flywheel.config.clock import ClockSection


class RetentionConfig(ClockSection):
    """What `flywheel prune` removes. It never removes what a champion, a hold or a run under way needs."""

    cron: str | None = Field(
        None,
        description="When the DAG flywheel_prune removes what is old, such as '30 4 * * 0'; null: only "
        "`flywheel prune --yes` does.",
    )
    keep_runs: int = Field(
        30, ge=1, description="So many runs of each workload and client stay, the latest, whatever their age."
    )
    runs_days: float | None = Field(
        90, ge=1, description="Older runs go, with what they alone need; null: none does."
    )
    copies_days: float | None = Field(
        30,
        ge=1,
        description="In runs that stay, older copies of labelled records, quarantines, persons' labels and "
        "disagreements go; null: none does.",
    )
    quarantine_days: float | None = Field(
        30, ge=1, description="Older quarantines of posted records go; null: none does."
    )
    unreferenced_days: float = Field(
        2, ge=0.5, description="Older data sets, adapters and evaluations that nothing names go."
    )
    scratch_days: float = Field(
        2, ge=0.5, description="Older checkpoints and half-written files of killed stages go."
    )
    mlflow_days: float | None = Field(
        None, ge=1, description="MLflow's older runs go, but those of champions; null: none does."
    )
    production_days: float | None = Field(
        None,
        ge=1,
        description="Older requests and answers of production in the store go (docs/production.md), but not "
        "the teacher's answers; null: none does.",
    )
