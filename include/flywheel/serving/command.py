"""`flywheel serve`: the endpoint as a process of its own."""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import Annotated

import typer

from flywheel.promotion.commands import ClientOption, ExperimentOption, WorkloadOption, owner

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond this machine only with keys.")
    ] = LOOPBACK[0],
    port: Annotated[int | None, typer.Option(help="Default: serving.port of the config; 0: any.")] = None,
    certificate: Annotated[str | None, typer.Option(help="PEM file of the certificate, for TLS.")] = None,
    certificate_key: Annotated[str | None, typer.Option(help="PEM file of its key.")] = None,
    new_key: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Print a new key and its line for the config."),
    ] = None,
    experiment: ExperimentOption = "",
) -> None:
    """Answer with the champion: an endpoint that speaks OpenAI's API (docs/serving.md)."""
    if new_key is not None:
        key = f"fw-{secrets.token_urlsafe(32)}"
        typer.echo(f"key, shown this once: {key}")
        digest = hashlib.sha256(key.encode()).hexdigest()
        typer.echo(f"for serving.keys:     - {{name: {new_key}, sha256: {digest}}}")
        return
    # Before torch: its threads sleep between their parts of a pass. Else they wait spinning, on the cores
    # that requests are read and answered on.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import uvicorn

    from flywheel.common.errors import ConfigError
    from flywheel.common.listening import listen
    from flywheel.config import load_config
    from flywheel.serving.app import Serving
    from flywheel.serving.draining import DrainingServer

    config = load_config(experiment=experiment)
    if host not in LOOPBACK and not config.serving.keys:
        raise ConfigError(
            f"--host {host}: without serving.keys the endpoint listens on this machine alone, for it asks "
            "nobody who they are; `flywheel serve --new-key NAME` makes a key"
        )
    listening = listen(host, config.serving.port if port is None else port, ConfigError)
    address = listening.getsockname()
    scheme = "https" if certificate else "http"
    typer.echo(f"the endpoint is at {scheme}://{host}:{address[1]}/v1")
    server = DrainingServer(
        uvicorn.Config(
            Serving(config).app(),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=30,
            ssl_certfile=certificate,
            ssl_keyfile=certificate_key,
            proxy_headers=False,
        )
    )
    server.run(sockets=[listening])


def show_costs(
    workload: WorkloadOption = "", client: ClientOption = "", experiment: ExperimentOption = ""
) -> None:
    """Show what runs cost: the last one, by month and so far, and when the champion has paid for them."""
    from flywheel.artifacts.root import ArtifactRoot
    from flywheel.config import load_config
    from flywheel.serving.payback import costs

    config = load_config(experiment=experiment)
    whose = owner(workload, client, experiment)
    found = costs(ArtifactRoot(config.artifacts.root), *whose, zone=config.schedule.time_zone)
    typer.echo("\n".join(found.lines()))
