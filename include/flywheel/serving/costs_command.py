"""`flywheel costs`: what the runs have cost, and what students have saved."""

from __future__ import annotations

import typer

from flywheel.promotion.commands import ClientOption, WorkloadOption, owner


def show_costs(workload: WorkloadOption = "", client: ClientOption = "") -> None:
    """Show what runs cost: the last one, by month and so far, and when the champion has paid for them."""
    from flywheel.artifacts.root import ArtifactRoot
    from flywheel.config import load_config
    from flywheel.serving.payback import costs

    config = load_config()
    found = costs(
        ArtifactRoot(config.artifacts.root), *owner(workload, client), zone=config.schedule.time_zone
    )
    typer.echo("\n".join(found.lines()))
