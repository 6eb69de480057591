"""`flywheel hold` and `flywheel timeline`: a person's word that holds, and who was in production when."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flywheel.artifacts.root import ArtifactRoot

hold_commands = typer.Typer(
    help="A person's roll-back or rejection, which holds automatic promotions back.", no_args_is_help=True
)

champion_commands = typer.Typer(help="What is in production.", no_args_is_help=True)

WorkloadOption = Annotated[str, typer.Option("--workload", help="Its id; default: the experiment's.")]
ClientOption = Annotated[str, typer.Option("--client", help="Its id; default: the experiment's.")]
ExperimentOption = Annotated[str, typer.Option(help="Name of experiments/NAME.yaml; default: config.yaml.")]


@hold_commands.command("show")
def show_hold(
    workload: WorkloadOption = "", client: ClientOption = "", experiment: ExperimentOption = ""
) -> None:
    """Show the hold: who decided what, when and why; and adapters that stay turned down without one."""
    from flywheel.artifacts.root import ArtifactRoot
    from flywheel.config import load_config
    from flywheel.promotion.champion import read_state

    config = load_config(experiment=experiment)
    whose = owner(workload, client, experiment)
    state = read_state(ArtifactRoot(config.artifacts.root), *whose)
    hold, others = (state.hold, state.turned_down) if state else (None, ())
    if hold:
        typer.echo(hold.sentence(config.promotion.hold_share))
    elif not others:
        typer.echo(f"Nothing is held back for {_of(whose)}.")
    for one in others:
        by = one.by or "somebody"
        typer.echo(f"Not promoted by itself again, as {by} turned it down on {one.at[:10]}: {one.adapter}")


@hold_commands.command()
def lift(workload: WorkloadOption = "", client: ClientOption = "", experiment: ExperimentOption = "") -> None:
    """Lift the hold, so that nights promote by themselves again; what is in production stays."""
    from flywheel.promotion.transitions import decide, lifted

    whose, root = _desk(workload, client, experiment)
    is_lifted = decide(root, *whose, lifted, by=_me()).made
    typer.echo(
        f"The hold for {_of(whose)} is lifted." if is_lifted else f"Nothing is held back for {_of(whose)}."
    )


@champion_commands.command()
def show(workload: WorkloadOption = "", client: ClientOption = "", experiment: ExperimentOption = "") -> None:
    """Show what is in production, once its copy is verified: prompt, adapter and base weights."""
    from flywheel.promotion.whole import load_champion

    whose, root = _desk(workload, client, experiment)
    loaded = load_champion(root, *whose)
    if loaded is None:
        typer.echo(f"No champion of {_of(whose)} yet: the teacher is in production.")
        return
    champion, whole, workload_then = loaded.champion, loaded.whole, loaded.workload
    asked = "the text alone" if whole.student_prompt == "text" else "the whole prompt"
    typer.echo(f"{champion.name} of run {champion.run_id}, since {champion.promoted_at}")
    typer.echo(f"{champion.reason} {champion.comment}".rstrip())
    typer.echo(f"workload {workload_then.id}, version {workload_then.version}; asked {asked}")
    typer.echo(f"base weights {whole.base}, revision {whole.base_revision or 'not known'}")
    typer.echo(f"adapter {loaded.adapter}")


@champion_commands.command()
def stop(
    workload: WorkloadOption = "",
    client: ClientOption = "",
    experiment: ExperimentOption = "",
    comment: Annotated[str, typer.Option(help="Why; the endpoint and the page show it.")] = "",
) -> None:
    """Have the champion answer nothing at the endpoint until `resume`."""
    from flywheel.promotion.transitions import decide, stopped

    whose, root = _desk(workload, client, experiment)
    state = decide(root, *whose, lambda state: stopped(state, _me(), comment), by=_me()).state
    said = state.stop.sentence if state and state.stop else "nothing to stop, there is no champion yet"
    typer.echo(f"{_of(whose)}: {said}")


@champion_commands.command()
def resume(
    workload: WorkloadOption = "", client: ClientOption = "", experiment: ExperimentOption = ""
) -> None:
    """Have the champion in force answer at the endpoint again."""
    from flywheel.promotion.transitions import decide, resumed

    whose, root = _desk(workload, client, experiment)
    is_resumed = decide(root, *whose, resumed, by=_me()).made
    typer.echo(f"{_of(whose)}: the champion {'answers again' if is_resumed else 'is not stopped'}.")


@champion_commands.command()
def restore(
    workload: WorkloadOption = "",
    client: ClientOption = "",
    experiment: ExperimentOption = "",
    give_up: Annotated[
        bool,
        typer.Option(
            help="Go on without a decision that is damaged with its copy, from the state before it."
        ),
    ] = False,
) -> None:
    """Put damaged or missing decisions on the champion back from their copies."""
    from flywheel.promotion import restore as restoring

    whose, root = _desk(workload, client, experiment)
    done = restoring.restore(root, *whose, give_up=give_up, by=_me())
    for sentence in done or [f"All decisions on the champion of {_of(whose)} are whole."]:
        typer.echo(sentence)


def timeline(
    workload: WorkloadOption = "",
    client: ClientOption = "",
    experiment: ExperimentOption = "",
    last: Annotated[int, typer.Option(min=1, help="So many decisions, the latest.")] = 30,
) -> None:
    """Show which champion was, or would have been, in force at which time, and what each night decided."""
    from flywheel.promotion.in_force import in_force
    from flywheel.promotion.timeline import Timeline

    whose, root = _desk(workload, client, experiment)
    line = Timeline(root, *whose)
    entries = line.entries(last)
    if not entries:
        typer.echo(f"No night of {_of(whose)} has decided anything yet.")
        return
    typer.echo(f"In force, of {_of(whose)}, times in UTC:")
    for stretch in in_force(line)[-last:]:
        typer.echo("\n".join(stretch.lines()))
    typer.echo("\nDecisions:")
    for entry in entries[::-1]:
        typer.echo(entry.line())


def _me() -> str:
    """Return the name of the account; a container's may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody at the command line"


def owner(workload: str, client: str, experiment: str = "") -> tuple[str, str]:
    """Return the ids of workload and client, the experiment's where none is given."""
    from flywheel.config import load_config
    from flywheel.workloads.workload import Workload

    config = load_config(experiment=experiment)
    return workload or Workload.load(config.workload).id, client or config.client_id


def _desk(workload: str, client: str, experiment: str) -> tuple[tuple[str, str], ArtifactRoot]:
    """Return whose champion it is, and the artifact root."""
    from flywheel.artifacts.root import ArtifactRoot
    from flywheel.config import load_config

    root = ArtifactRoot(load_config(experiment=experiment).artifacts.root)
    return owner(workload, client, experiment), root


def _of(whose: tuple[str, str]) -> str:
    return f"{whose[0]} of client {whose[1]}"
