"""`python -m flywheel_stand_ins teacher | judge | nemo`: each stand-in as a server of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flywheel.common.redaction import install

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.command("judge")
def judge(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8398,
    position_bias: Annotated[int, typer.Option(help="Points for the place of the longer answer.")] = 0,
    garbage_rate: Annotated[float, typer.Option(help="Share of answers without a rating.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of that share.")] = 0,
) -> None:
    """Serve ratings computed from the texts as an OpenAI-compatible judge named 'stand-in-judge'."""
    from flywheel_stand_ins.judge import JudgeBehaviour, StandInJudge
    from flywheel_stand_ins.teacher import announced

    application = StandInJudge(JudgeBehaviour(position_bias, garbage_rate, seed)).app
    announced(application, host, port, lambda url: f"stand-in judge: {url}")


@app.command("teacher")
def teacher(
    answers: Annotated[Path, typer.Option(help="CSV file of texts and labels, .gz or not.")],
    text_column: Annotated[str, typer.Option(help="Its column of texts.")] = "headline",
    label_column: Annotated[str, typer.Option(help="Its column of labels.")] = "teacher_label",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8399,
    latency_ms: Annotated[float, typer.Option(help="Wait before each answer.")] = 0.0,
    fail_rate: Annotated[float, typer.Option(help="Share of calls that get status 500.")] = 0.0,
    busy_rate: Annotated[float, typer.Option(help="Share that get 429 with Retry-After.")] = 0.0,
    retry_after: Annotated[float, typer.Option(help="Seconds that Retry-After says.")] = 1.0,
    garbage_rate: Annotated[float, typer.Option(help="Share whose answer is no class.")] = 0.0,
    malformed_rate: Annotated[float, typer.Option(help="Share whose body is cut off.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the shares.")] = 0,
) -> None:
    """Serve labels from a file as an OpenAI-compatible teacher named 'stand-in'."""
    from flywheel_stand_ins.teacher import TeacherBehaviour, read_answers, serve

    behaviour = TeacherBehaviour(
        latency_seconds=latency_ms / 1000,
        fail_rate=fail_rate,
        busy_rate=busy_rate,
        retry_after_seconds=retry_after,
        garbage_rate=garbage_rate,
        malformed_rate=malformed_rate,
        seed=seed,
    )
    serve(read_answers(answers, text_column, label_column), host=host, port=port, behaviour=behaviour)


@app.command("nemo")
def nemo(
    folder: Annotated[
        str, typer.Option(help="Where it keeps what it has and makes.")
    ] = "state/nemo/stand-in",
    model: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER of a model; default: the demo students as Llama 1B, 3B and 8B."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8398,
    latency_ms: Annotated[float, typer.Option(help="Wait before each answer.")] = 0.0,
    pending_seconds: Annotated[float, typer.Option(help="Before a job runs or a NIM is ready.")] = 1.0,
    running_jobs: Annotated[int, typer.Option(help="Customizations that run at once.")] = 2,
    fail_rate: Annotated[float, typer.Option(help="Share of calls that get status 500.")] = 0.0,
    busy_rate: Annotated[float, typer.Option(help="Share that get 429 with Retry-After.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the shares.")] = 0,
) -> None:
    """Serve the NeMo microservices' APIs, with flywheel's own training and generation behind them."""
    from flywheel.config import resolve_path
    from flywheel_stand_ins.nemo.app import serve
    from flywheel_stand_ins.nemo.state import Fault, NemoBehaviour

    rates = ((fail_rate, 500, 0.0), (busy_rate, 429, 1.0))
    faults = [Fault(share=rate, status=status, retry_after=wait) for rate, status, wait in rates if rate]
    behaviour = NemoBehaviour(
        pending_seconds=pending_seconds,
        latency_seconds=latency_ms / 1000,
        running_jobs=running_jobs,
        faults=faults,
        seed=seed,
    )
    weights = dict(entry.partition("=")[::2] for entry in model or ())
    serve(Path(resolve_path(folder)), weights=weights or None, host=host, port=port, behaviour=behaviour)


if __name__ == "__main__":
    install()
    app()
