"""`flywheel store ...`: the record store."""

from __future__ import annotations

from typing import Annotated

import typer

store_commands = typer.Typer(help="The record store.", no_args_is_help=True)
StoreArgument = Annotated[
    str,
    typer.Argument(help="sqlite or elasticsearch, as in the config, or sqlite:PATH, elasticsearch:INDEX."),
]


@store_commands.command("copy")
def copy_between_stores(source: StoreArgument, target: StoreArgument) -> None:
    """Copy all records and answers into another store; what is there already stays, and is not doubled."""
    from dataclasses import asdict

    from flywheel.config import load_config
    from flywheel.stores import open_store
    from flywheel.stores.copying import copy_store, store_named

    config = load_config().store
    with open_store(store_named(source, config)) as read, open_store(store_named(target, config)) as written:
        summary = copy_store(read, written)
    typer.echo(", ".join(f"{name} {count}" for name, count in asdict(summary).items()))
