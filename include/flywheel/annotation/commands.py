"""`flywheel label-texts`: the champion's labels beside the texts of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def label_texts(
    file: Annotated[
        Path, typer.Argument(help="CSV, TSV, JSON lines or Parquet with a column of texts, or text a line.")
    ],
    column: Annotated[str, typer.Option(help="That holds the texts; default: text, else the only one.")] = "",
    output: Annotated[
        str,
        typer.Option(help="The file with labels; -: standard output. Default: NAME.labels beside FILE."),
    ] = "",
    workload: Annotated[str, typer.Option(help="Its id; default: the config's.")] = "",
    client: Annotated[str, typer.Option(help="Its id; default: the config's.")] = "",
    as_of: Annotated[
        str, typer.Option(help="Ask the champion of then: a date such as 2019-03-01, or a time.")
    ] = "",
    artifacts: Annotated[str, typer.Option(help="The artifact root; default: the config's.")] = "",
    weights: Annotated[
        str, typer.Option(help="Where its base weights are here; default: as it was trained.")
    ] = "",
    prefix: Annotated[str, typer.Option(help="Put before the names of the labels' columns.")] = "",
) -> None:
    """Label the texts of a file with the champion (docs/history.md); a killed work goes on where it was."""
    from flywheel.annotation.champion import open_champion
    from flywheel.annotation.label_file import label_file, output_beside
    from flywheel.common.errors import SourceError

    beside = output_beside(file, column)  # before the seconds that a champion takes to load
    target = None if output == "-" else Path(output) if output else beside
    if target is not None and target.resolve() == file.resolve():
        raise SourceError(f"{target}: is FILE itself; name another --output")
    if target is not None and target.suffix != beside.suffix:
        raise SourceError(f"{target}: the labels of {file.name} are written as {beside.suffix}; name it so")
    champion = open_champion(workload, client, as_of=as_of or None, root=artifacts or None, weights=weights)
    done = label_file(champion, file, target, column=column, prefix=prefix)
    missing = f", {done.missing:,} of them without a label" if done.missing else ""
    before = f"; {done.found:,} were labelled before" if done.found else ""
    rate = (done.rows - done.found) / max(done.seconds, 1e-9)
    where = target or "standard output"
    typer.echo(f"{where}: {done.rows:,} rows{missing}, by {champion.name}, {rate:,.0f}/s{before}", err=True)
