"""`flywheel annotate`: a labelled history, and the proof that no row of it has read the future."""

from __future__ import annotations

import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from flywheel.common.errors import ConfigError
from flywheel.common.redaction import clean
from flywheel.promotion.commands import ExperimentOption

if TYPE_CHECKING:
    from flywheel.annotation.work import Work
    from flywheel.config import Config
    from flywheel.runtimes import Runtime

# Jobs that are handed to a runtime at once; it runs as many of them as it has places for.
_AT_ONCE = 8


class Mode(StrEnum):
    """By whom texts are labelled."""

    point_in_time = "point_in_time"
    champion = "champion"


def annotate(
    start: Annotated[
        datetime | None, typer.Option("--from", help="UTC time from which on texts are labelled.")
    ] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="UTC time before which they are.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="Default: the config's.")] = None,
    lag: Annotated[
        int | None, typer.Option(min=0, help="Seconds between a cutoff and a text, at least.")
    ] = None,
    out: Annotated[str, typer.Option(help="Folder or URL; default: the config's.")] = "",
    client: Annotated[str, typer.Option(help="Whose champions; default: the config's.")] = "",
    check: Annotated[
        str, typer.Option("--check", metavar="PATH", help="Label nothing: prove what is at PATH.")
    ] = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="With --check: what cannot be proved fails.")
    ] = False,
    experiment: ExperimentOption = "",
) -> None:
    """Label the texts of the config's sources, each by the champion of its time, into Parquet files."""
    from flywheel.config import load_config

    config = load_config(experiment=experiment)
    if check:
        raise typer.Exit(_prove(config, _place(check), strict=strict))
    if start is None or end is None:
        raise ConfigError("--from and --to: expected two times, such as --from 2019-01-01 --to 2020-01-01")
    given = {"mode": mode.value if mode else None, "lag": lag, "out": _place(out) if out else None}
    changes = {name: value for name, value in given.items() if value is not None}
    config = config.model_copy(update={"annotation": config.annotation.model_copy(update=changes)})
    _label(config, start.replace(tzinfo=UTC), end.replace(tzinfo=UTC), client)


def annotate_shard(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="Path or URL of the shard's .spec.json.")],
) -> None:
    """Label the texts of a shard as SPEC says; the result is written beside it."""
    from flywheel.cli.main import exit_as_job

    exit_as_job("annotate-shard", spec)


def _label(config: Config, start: datetime, end: datetime, client: str) -> None:
    from flywheel.annotation.work import finish_work, lines_of, plan_work

    work = plan_work(config, start, end, client_id=client)
    typer.echo(lines_of(work))
    _run(work)
    manifest = finish_work(work)
    typer.echo(
        f"{work.out}: {manifest.rows:,} rows in {len(manifest.files)} files, {manifest.labelled:,} labelled; "
        f"`flywheel annotate --check {work.out}` proves it"
    )


def _run(work: Work) -> None:
    """Run the shards that are not finished as jobs of the runtime."""
    from flywheel.annotation.work import unfinished
    from flywheel.artifacts.root import ArtifactRoot
    from flywheel.runtimes import Job, open_runtime

    root = ArtifactRoot(work.config.artifacts.root)
    left = unfinished(work)
    if found := len(work.shards) - len(left):
        typer.echo(f"{found} shards are finished already")
    started, running = time.monotonic(), list["Runtime"]()

    def run(shard: str) -> None:
        runtime = open_runtime(work.config)
        running.append(runtime)
        job = Job("annotate-shard", f"{root.url}/{work.spec_path(shard)}", f"annotate {shard}")
        runtime.run(job, lambda line: typer.echo(clean(line), err=True))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        jobs = {pool.submit(run, shard) for shard in left}
        try:
            while jobs:
                done, jobs = wait(jobs, return_when=FIRST_COMPLETED)
                for job in done:
                    job.result()
                ready = len(left) - len(jobs)
                seconds = (time.monotonic() - started) / ready * len(jobs)
                typer.echo(f"{ready} of {len(left)} shards, about {seconds:,.0f} s left")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for runtime in running:
                runtime.kill()
            raise


def _prove(config: Config, path: str, *, strict: bool) -> int:
    """Print what was proved; return the exit code."""
    from flywheel.annotation.checking import check

    with TemporaryDirectory() as folder:
        findings = check(config, path, strict=strict, scratch=Path(folder))
    for finding in findings:
        typer.echo(clean(finding.line()))
    failed = [finding for finding in findings if finding.state == "FAILED"]
    typer.echo(
        f"{len(failed)} of {len(findings)} checks failed" if failed else "0 rows ahead, nothing failed"
    )
    return 1 if failed else 0


def _place(path: str) -> str:
    """Return a path as from where the command was called; a URL as it is."""
    return path if "://" in path else str(Path(path).absolute())
