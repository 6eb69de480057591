"""The stand-in for NeMo as a real server in a thread, and what a job on it needs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from nemo_microservices import NeMoMicroservices

from flywheel.config import Config
from flywheel.config.loading import validate_config
from flywheel_stand_ins.nemo.app import NemoStandIn
from flywheel_stand_ins.nemo.state import NemoBehaviour

NAMESPACE = "mdfd"
SMALL = "meta/llama-3.2-1b-instruct"
MEDIUM = "meta/llama-3.2-3b-instruct"


class Server:
    """A running stand-in, which can be stopped and started again at the same address."""

    def __init__(self, folder: Path, weights: dict[str, str] | None, behaviour: NemoBehaviour) -> None:
        self.folder = folder
        self.behaviour = behaviour
        self._weights = weights
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.wrong: list[str] = []
        self.start()

    def start(self) -> None:
        self.stand_in = NemoStandIn(self.folder, self._weights, self.behaviour)
        self.stand_in.wrong = self.wrong
        config = uvicorn.Config(self.stand_in.app, port=self.port, log_level="error", access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 240
        while not self._server.started:
            assert self._thread.is_alive() and time.monotonic() < deadline, "the stand-in did not start"
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(300)

    @property
    def counts(self) -> dict[str, int]:
        return self.stand_in.state.counts

    @property
    def deployed(self) -> list[str]:
        return list(self.stand_in.state.all("deployment/model-deployments"))

    def jobs(self) -> list[dict[str, Any]]:
        return list(self.stand_in.state.all("customization/jobs").values())

    def client(self) -> NeMoMicroservices:
        return NeMoMicroservices(base_url=f"{self.url}/nemo", max_retries=0)


@contextmanager
def running(
    folder: Path, weights: dict[str, str] | None = None, behaviour: NemoBehaviour | None = None
) -> Iterator[Server]:
    server = Server(folder, weights, behaviour or NemoBehaviour())
    try:
        yield server
    finally:
        server.stop()


def config_of(server: Server, root: Path, **sections: Any) -> Config:
    """Return a config of one student on the stand-in, quick to look and to give up."""
    nemo = {"poll_seconds": 0.1, "lost_minutes": 3, "deploy_minutes": 3, **sections.pop("nemo", {})}
    data = {
        "nims": [nim(SMALL)],
        "nmp_config": addresses(server),
        "runtime": {"type": "nemo", "nemo": nemo},
        "artifacts": {"root": str(root)},
        **sections,
    }
    return validate_config(data, "test")


def nim(model: str) -> dict[str, Any]:
    return {"model_name": model, "context_length": 2048, "gpus": 1, "tag": "1.8.3"}


def addresses(server: Server) -> dict[str, str]:
    return {
        "nemo_base_url": f"{server.url}/nemo",
        "nim_base_url": f"{server.url}/nim",
        "datastore_base_url": f"{server.url}/datastore",
        "nmp_namespace": NAMESPACE,
    }
