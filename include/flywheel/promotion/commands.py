"""`flywheel hold` and `flywheel timeline`: a person's word that holds, and who was in production when."""

from __future__ import annotations

from typing import Annotated

import typer

hold_commands = typer.Typer(
    help="A person's roll-back or rejection, which holds automatic promotions back.", no_args_is_help=True
)

WorkloadOption = Annotated[str, typer.Option("--workload", help="Its id; default: the config's.")]
ClientOption = Annotated[str, typer.Option("--client", help="Its id; default: the config's.")]


@hold_commands.command()
def show(workload: WorkloadOption = "", client: ClientOption = "") -> None:
    """Show the hold: who decided what, when and why; and adapters that stay turned down without one."""
    from flywheel.artifacts import ArtifactRoot
    from flywheel.config import load_config
    from flywheel.promotion.holds import read_hold, stay_turned_down

    config = load_config()
    root, whose = ArtifactRoot(config.artifacts.root), _whose(workload, client)
    hold, others = read_hold(root, *whose), stay_turned_down(root, *whose)
    if hold:
        typer.echo(hold.sentence(config.promotion.hold_share))
    elif not others:
        typer.echo(f"Nothing is held back for {_of(whose)}.")
    for one in others:
        by = one.by or "somebody"
        typer.echo(f"Not promoted by itself again, as {by} turned it down on {one.at[:10]}: {one.adapter}")


@hold_commands.command()
def lift(workload: WorkloadOption = "", client: ClientOption = "") -> None:
    """Lift the hold, so that nights promote by themselves again; what is in production stays."""
    from flywheel.artifacts import ArtifactRoot
    from flywheel.config import load_config
    from flywheel.promotion.holds import lift_hold

    whose = _whose(workload, client)
    lifted = lift_hold(ArtifactRoot(load_config().artifacts.root), *whose)
    typer.echo(
        f"The hold for {_of(whose)} is lifted." if lifted else f"Nothing is held back for {_of(whose)}."
    )


def timeline(
    workload: WorkloadOption = "",
    client: ClientOption = "",
    last: Annotated[int, typer.Option(min=1, help="So many entries, the latest.")] = 30,
) -> None:
    """Show who was, or would have been, in production after each night, and why."""
    from flywheel.artifacts import ArtifactRoot
    from flywheel.config import load_config
    from flywheel.promotion.timeline import Timeline

    whose = _whose(workload, client)
    entries = Timeline(ArtifactRoot(load_config().artifacts.root), *whose).entries(last)
    if not entries:
        typer.echo(f"No night of {_of(whose)} has decided anything yet.")
    for entry in entries[::-1]:
        typer.echo(entry.line())


def _whose(workload: str, client: str) -> tuple[str, str]:
    from flywheel.config import load_config
    from flywheel.workload import Workload

    config = load_config()
    return workload or Workload.load(config.workload).id, client or config.client_id


def _of(whose: tuple[str, str]) -> str:
    return f"{whose[0]} of client {whose[1]}"
