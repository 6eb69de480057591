"""The command line: what a person runs by hand, and what a pod runs. Each command parses and calls."""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flywheel.annotation.commands import label_texts
from flywheel.cli.annotate import annotate, annotate_shard
from flywheel.cli.backfill import backfill
from flywheel.cli.demo import demo_records, headlines
from flywheel.cli.store import store_commands
from flywheel.common.errors import FlywheelError
from flywheel.common.full_disk import explain, is_full
from flywheel.common.redaction import clean, install
from flywheel.config.loading import project_home
from flywheel.config.private import UMASK
from flywheel.forgetting.commands import forget, prune
from flywheel.promotion.commands import ExperimentOption, champion_commands, hold_commands, timeline
from flywheel.serving.command import serve, show_costs
from flywheel.stages.watch_command import watch

if TYPE_CHECKING:
    from pydantic import BaseModel

    from flywheel.runs.run import Run
    from flywheel.runtimes.base import JobKind

app = typer.Typer(
    help="Distil a teacher LLM into small students, measure each against the teacher, promote the cheapest "
    "good one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

WHEEL = "The wheel"
STAGES = "Stages by hand, in this order"
JOBS = "Jobs, as a pod runs them"
RESULTS = "Results"
DEMO = "Demo and tests"

_AS_JOBS = ("customize", "evaluate", "annotate-shard")

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
RootOption = Annotated[str, typer.Option("--artifacts", help="The artifact root; default: the config's.")]


class Approval(StrEnum):
    """Who decides about a promotion."""

    automatic = "automatic"
    human = "human"


def main() -> None:
    """Run the command line; a known error becomes one clear message and exit code 1."""
    if not set(_AS_JOBS) & set(sys.argv[1:3]):  # a pod's umask is its volume's matter
        os.umask(UMASK)
    try:
        app(prog_name="flywheel")
    except FlywheelError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except Exception as error:  # of a writer that does not name its file
        if not is_full(error):
            raise
        sys.stderr.write(f"error: {explain(error, project_home())}\n")
        sys.exit(1)


@app.callback()
def _options(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    install()
    if context.invoked_subcommand not in _AS_JOBS:  # a pod has no config: its spec says
        from flywheel.config.loading import log_level_in_force
        from flywheel.config.logs import log_to_stderr

        log_to_stderr("DEBUG" if verbose else log_level_in_force())
    for chatty in ("httpx", "httpcore", "fsspec", "filelock", "matplotlib", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


app.command(rich_help_panel=WHEEL)(serve)
app.command(rich_help_panel=WHEEL)(watch)
app.command(rich_help_panel=WHEEL)(annotate)
app.command("annotate-shard", rich_help_panel=JOBS)(annotate_shard)


# -- the wheel -----------------------------------------------------------------------------------------


@app.command(rich_help_panel=WHEEL)
def up(
    nemo_stand_in: Annotated[
        bool, typer.Option("--nemo-stand-in", help="Run the config's jobs on a stand-in for NeMo.")
    ] = False,
    experiment: ExperimentOption = "",
) -> None:
    """Start Airflow on this machine, turn the wheel once, show the table and leave the UI up."""
    from flywheel.laptop import up

    raise typer.Exit(up(experiment, nemo_stand_in=nemo_stand_in))


@app.command(rich_help_panel=WHEEL)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there yet, or empty.")],
) -> None:
    """Make a folder of your own files (FLYWHEEL_HOME), which a new version of flywheel leaves alone."""
    from flywheel.cli.init import make_home, what_next

    typer.echo(what_next(make_home(folder)))


@app.command(rich_help_panel=WHEEL)
def prepare() -> None:
    """Make the databases that `up` needs; `make install` runs it."""
    from flywheel.laptop import prepare

    prepare()


@app.command(rich_help_panel=WHEEL)
def upgrade() -> None:
    """Bring up the artifacts and records that an older flywheel left; repeat it as often as you like."""
    from flywheel.config import load_config
    from flywheel.stages.upgrade import upgrade

    for line in upgrade(load_config()) or ["Artifacts and records are of this version."]:
        typer.echo(line)


@app.command(rich_help_panel=WHEEL)
def doctor(experiment: ExperimentOption = "") -> None:
    """Check config, connections, disk and GPU: what is missing, and how to fix it."""
    from flywheel.cli.doctor import examine

    raise typer.Exit(examine(experiment))


@app.command(rich_help_panel=WHEEL)
def workload(
    client: Annotated[str, typer.Option(help="Whose records are counted; default: the config's.")] = "",
    experiment: ExperimentOption = "",
) -> None:
    """Show the versions of the workload's prompt: since when each is used, and how many records it has."""
    from flywheel.config import load_config
    from flywheel.curation.versions import lines

    for line in lines(load_config(experiment=experiment), client):
        typer.echo(line)


app.command(rich_help_panel=WHEEL)(backfill)
app.add_typer(champion_commands, name="champion", rich_help_panel=WHEEL)
app.add_typer(hold_commands, name="hold", rich_help_panel=WHEEL)
app.command(rich_help_panel=WHEEL)(timeline)
app.command("costs", rich_help_panel=RESULTS)(show_costs)
app.command("label-texts", rich_help_panel=WHEEL)(label_texts)
app.command(rich_help_panel=WHEEL)(forget)
app.command(rich_help_panel=WHEEL)(prune)
app.command(rich_help_panel=DEMO)(headlines)
app.command("demo-records", rich_help_panel=DEMO)(demo_records)

app.add_typer(store_commands, name="store", rich_help_panel=WHEEL)


# -- stages by hand ------------------------------------------------------------------------------------


@app.command(rich_help_panel=STAGES)
def plan(
    run: RunArgument,
    cutoff: Annotated[
        datetime | None, typer.Option(help="Records before this UTC time are seen; default: now.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Default: the config file in force.")] = None,
    experiment: ExperimentOption = "",
    student: Annotated[list[str] | None, typer.Option(help="Only these students.")] = None,
    size: Annotated[list[int] | None, typer.Option(help="Only these sizes.")] = None,
    approval: Annotated[Approval | None, typer.Option(help="Default: the config's.")] = None,
    backfill: Annotated[
        bool, typer.Option("--backfill", help="Only show what would be in production.")
    ] = False,
) -> None:
    """Freeze config, cutoff and candidates of a run."""
    from flywheel.artifacts.root import ArtifactRoot
    from flywheel.config import load_config
    from flywheel.laptop import stand_in
    from flywheel.runs.plan import make_plan
    from flywheel.runs.plan_changes import keeps
    from flywheel.runs.run import Run
    from flywheel.runtimes import open_runtime
    from flywheel.stages import pipeline as wheel

    loaded = load_config(config, experiment)
    stand_in.write_demo(loaded)
    asked = make_plan(
        loaded,
        run_id=run,
        cutoff=cutoff.replace(tzinfo=UTC) if cutoff else datetime.now(UTC),
        students=student,
        sizes=size,
        approval=approval.value if approval else None,
        experiment=experiment,
        is_backfill=backfill,
    )
    new = open_runtime(asked.config).planned(asked)
    there = Run(ArtifactRoot(new.config.artifacts.root), run)
    if there.is_planned:
        typer.echo(keeps(there.plan, new, with_cutoff=cutoff is not None))
    made = wheel.begin(new)
    wheel.forecast(made)
    typer.echo(f"{made.root.url}/{made.path}: {', '.join(c.name for c in made.plan.candidates)}")


@app.command(rich_help_panel=STAGES)
def label(
    run: RunArgument,
    artifacts: RootOption = "",
    yes: Annotated[bool, typer.Option("--yes", help="Ask more than teacher.confirm_above too.")] = False,
) -> None:
    """Have the teacher label the new headlines."""
    from flywheel.laptop.stand_in import answering
    from flywheel.stages import confirmation
    from flywheel.stages import pipeline as wheel

    opened = _open(run, artifacts)
    confirmation.check(opened, opened.plan.config.teacher.confirm_above, yes=yes)
    with answering(opened.plan.config):
        _print(wheel.label(opened))


@app.command(rich_help_panel=STAGES)
def ingest(run: RunArgument, artifacts: RootOption = "") -> None:
    """Write labelled headlines and log records into the store."""
    from flywheel.stages import pipeline as wheel

    _print(wheel.ingest(_open(run, artifacts)))


@app.command(rich_help_panel=STAGES)
def curate(run: RunArgument, artifacts: RootOption = "") -> None:
    """Split the records into nested training sets, validation and eval."""
    from flywheel.stages import pipeline as wheel

    _print(wheel.curate(_open(run, artifacts)))


@app.command(rich_help_panel=STAGES)
def jobs(run: RunArgument, artifacts: RootOption = "") -> None:
    """Customize and evaluate all students and candidates, one after another, where runtime.type says."""
    from flywheel.jobs.spec import CHAMPION
    from flywheel.promotion.timeline import compared_champion
    from flywheel.stages import pipeline as wheel

    opened = _open(run, artifacts)
    for student in opened.plan.untrained:
        _run_job(opened, "evaluate", wheel.write_spec(opened, "base_eval", student))
    if compared_champion(opened.root, opened.plan):
        _run_job(opened, "evaluate", wheel.write_spec(opened, "champion_eval", CHAMPION))
    if opened.plan.config.icl_config is not None:
        for student in opened.plan.untrained:
            _run_job(opened, "evaluate", wheel.write_spec(opened, "icl_eval", student))
    for candidate in opened.candidates:
        _run_job(
            opened, "customize", wheel.write_spec(opened, "customize", candidate.student, candidate.size)
        )
        _run_job(opened, "evaluate", wheel.write_spec(opened, "evaluate", candidate.student, candidate.size))


@app.command(rich_help_panel=STAGES)
def score(run: RunArgument, artifacts: RootOption = "") -> None:
    """Put all candidates into the table, the learning curve, the report and MLflow."""
    from flywheel.stages import pipeline as wheel

    _print(wheel.score(_open(run, artifacts)))


@app.command(rich_help_panel=STAGES)
def promote(
    run: RunArgument,
    artifacts: RootOption = "",
    reject: Annotated[bool, typer.Option("--reject", help="Keep the champion that is there.")] = False,
    comment: Annotated[str, typer.Option(help="Why; kept with the decision.")] = "",
) -> None:
    """Put the chosen candidate into production."""
    from flywheel.runtimes import open_runtime
    from flywheel.stages import pipeline as wheel

    opened = _open(run, artifacts)
    result = wheel.promote(opened, approved=not reject, comment=comment)
    open_runtime(opened.plan.config).serve_now(opened, lambda line: typer.echo(clean(line), err=True))
    _print(result)


# -- jobs ----------------------------------------------------------------------------------------------

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="Path or URL of the job's .spec.json.")]


@app.command(rich_help_panel=JOBS)
def customize(spec: SpecArgument) -> None:
    """Fine-tune a student as SPEC says; the result is written beside it."""
    exit_as_job("customize", spec)


@app.command(rich_help_panel=JOBS)
def evaluate(spec: SpecArgument) -> None:
    """Measure a student or candidate against the teacher as SPEC says; the result is written beside it."""
    exit_as_job("evaluate", spec)


# -- results -------------------------------------------------------------------------------------------


@app.command(rich_help_panel=RESULTS)
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Default: the latest.")] = "latest",
    artifacts: RootOption = "",
) -> None:
    """Print a run's table and verdict, and where its report lies."""
    from flywheel.report import print_report

    print_report(_root(artifacts), run)


# -- shared by the commands ----------------------------------------------------------------------------


def _root(artifacts: str) -> str:
    if artifacts:
        return artifacts
    from flywheel.config import load_config

    return load_config().artifacts.root


def _open(run_id: str, artifacts: str) -> Run:
    from flywheel.runs.run import open_run

    return open_run(_root(artifacts), run_id)


def exit_as_job(kind: str, spec: str) -> None:
    """Run a job and end with the exit code that its runtime understands."""
    from flywheel.runtimes.job_command import main

    code = main([kind, spec])
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # to take torch and transformers down module by module would be half a second


def _run_job(run: Run, kind: JobKind, spec: str) -> None:
    from flywheel.config import Student
    from flywheel.runtimes import Job, open_runtime

    path = spec.removeprefix(f"{run.root.url}/")
    student = Student.model_validate(run.root.read_json(path)["student"])
    job = Job.of(kind, spec, f"{kind} {path.split('/')[-2]}", student)
    open_runtime(run.plan.config).run(job, lambda line: typer.echo(clean(line)))


def _print(result: BaseModel) -> None:
    typer.echo(result.model_dump_json(indent=2))


if __name__ == "__main__":
    main()
