"""`flywheel forget` and `flywheel prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Default: the config file in force.")]


def forget(
    client: Annotated[str, typer.Option("--client", help="Whose data; its id.")],
    workload: Annotated[str, typer.Option("--workload", help="Of this workload alone; default: all.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Remove all that is kept of a client: it is listed first, then you are asked."""
    from flywheel.config.everywhere import configs
    from flywheel.forgetting.base import Whose
    from flywheel.forgetting.forget import find
    from flywheel.forgetting.forget import forget as remove

    there = configs(config)
    found = [(one, find(one, Whose(client, workload or None))) for one in there]
    of = f"client {client!r}" + (f", workload {workload!r}" if workload else "")
    for one, findings in found:
        if len(there) > 1:
            typer.echo(f"In {one.artifacts.root}:")
        for line in findings.lines():
            typer.echo(line)
    if all(findings.is_empty for _, findings in found):
        typer.echo(f"There is nothing of {of}.")
        return
    if not yes:
        typer.confirm(f"Remove all of this for good? It cannot be undone: {of}", abort=True)
    for one, findings in found:
        if not findings.is_empty:
            remove(one, findings, tell=typer.echo)
    typer.echo(f"{of}: forgotten.")


def prune(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; else it is only listed.")] = False,
    config: ConfigOption = None,
) -> None:
    """List, or remove, what no run, champion or hold needs and is older than `retention` says."""
    from flywheel.config.everywhere import configs
    from flywheel.forgetting.prune import prune as remove

    for one in configs(config):
        found = remove(one, remove=yes, tell=typer.echo)
        if not yes:
            for line in found.lines():
                typer.echo(line)
        typer.echo(f"{one.artifacts.root}: {'removed' if yes else 'nobody needs'} {found.summary()}.")
        if not yes and any(found.items.values()):
            typer.echo("`flywheel prune --yes` removes it.")
