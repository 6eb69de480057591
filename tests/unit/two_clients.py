"""An artifact root, a store and MLflow with what two clients have, for tests of forgetting one of them."""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.config import Config
from flywheel.config.source import SourceConfig
from flywheel.runs.run import Run
from flywheel.sources.quarantine import Quarantine
from flywheel.sources.spans import SourceSpan, doubts_of
from flywheel.stages import pipeline as wheel
from flywheel.stores import PaidAnswer, open_store
from tests.unit import finished_run
from tests.unit.champions import place_hold
from tests.unit.finished_run import config_of, finish, plan_of
from tests.unit.news_records import news_record

# Clients, whose ids paths and URLs write otherwise, and a word that is in each text of one and in no other's.
GONE, STAYS = "zorblatt & co/1", "quuxly & co/1"
WORDS = {GONE: "zorblatt", STAYS: "quuxly"}
WORKLOAD = "news_classifier"


def two_clients(
    folder: Path, monkeypatch: pytest.MonkeyPatch, clients: tuple[str, ...] = tuple(WORDS)
) -> Config:
    """Make all of it; return the configuration, whose own client is "desk"."""
    config = config_of(
        str(folder / "artifacts"),
        f"sqlite:///{folder}/mlflow.db",
        store={"path": str(folder / "records.sqlite")},
        client_id="desk",
        data_split_config={"eval_size": 20, "min_total_records": 1, "near_duplicate_similarity": 1.0},
    )
    with open_store(config.store) as store:
        for client in clients:
            word = WORDS[client]
            # Texts that both have asked about are among them.
            store.write(
                news_record(f"{word}{n:03d} says so of {word} no {n}", client_id=client, timestamp=1000 + n)
                for n in range(90)
            )
            own = [(f"{n:03d}-{word}", PaidAnswer(f"{word} of no class", "m", n)) for n in range(30)]
            store.put_answers([*own, ("shared", PaidAnswer("[[[OTHER]]]", "m", 1))], (WORKLOAD, client))
            store.own_answers((WORKLOAD, client), ["shared"])
    with Quarantine(folder / "posted.jsonl") as quarantine:
        for client in clients:
            quarantine.add("POST", 1, "no record", f'{{"{WORDS[client]}": 1', owner=(WORKLOAD, client))
            quarantine.add("POST", 2, "no record", f'{{"client_id": "{client}", "text": "{WORDS[client]}"')
    root = ArtifactRoot(config.artifacts.root)
    root.write_bytes("quarantine/records-1.jsonl", (folder / "posted.jsonl").read_bytes())
    (folder / "posted.jsonl").unlink()
    for client in clients:
        _turn(config, client, monkeypatch)
    return config


def _turn(config: Config, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    word, root = WORDS[client], ArtifactRoot(config.artifacts.root)
    plan = plan_of(config, f"night of {word}", client_id=client)
    run = Run.create(plan)
    # As the real stage makes it: the records of this client, and no others.
    dataset = wheel.curate(run).dataset
    monkeypatch.setattr(finished_run, "write_dataset", lambda *_, **__: dataset)
    finish(plan)
    for candidate in plan.candidates:
        key = key_of("evaluation", candidate.student, candidate.size, dataset)
        with root.build("evaluations", key) as made:
            line = {"id": "1", "text": f"{word} says", "teacher": "OTHER", "student": "OTHER", "answer": word}
            (made / "predictions.jsonl").write_bytes(orjson.dumps(line) + b"\n")
    # Not named by any file of a run: what a run that was removed has left behind, and half a data set.
    with root.build("evaluations", key_of("left", client)) as made:
        (made / "of.json").write_bytes(orjson.dumps({"dataset": dataset}))
        (made / "answers.txt").write_text(word)
    with open_store(config.store) as store:
        record_id = next(store.read_known(WORKLOAD, client, 1 << 40))[0]
    half = Path(root.url) / "datasets" / f".{key_of('half', client)}.12ab34cd"
    half.mkdir()
    (half / "train.jsonl").write_bytes(orjson.dumps({"id": record_id, "text": word}) + b"\n")
    folder = Path(root.url) / run.path
    with gzip.open(folder / "labelled.jsonl.gz", "wb") as file:
        file.write(f'{{"text": "{word}"}}\n'.encode())
    (folder / ".label.quarantine.jsonl.999").write_text(f"{word}\n")
    wheel.score(run)
    wheel.promote(run)
    whose = (WORKLOAD, client)
    place_hold(
        root, *whose, dataset=dataset, adapter=key_of("x", client), by="Ada", why="rejected", comment=word
    )
    span = SourceSpan(key="source.0", path=f"{word}.csv", rows=1, later=0, earliest=1, latest=1, newest=1)
    doubts_of(root, whose, plan.run_id, plan.cutoff, span, SourceConfig(path=f"{word}.csv"))
    body = {"id": plan.run_id, "status": "queued"}
    root.write_json(
        f"idempotency/2019-03-02/{key_of(client)}.json", {"fingerprint": "f", "at": time.time(), "body": body}
    )


def left_of(client: str, folder: Path) -> list[str]:
    """Return the files in which something of a client is left, but for the log of forgettings."""
    word = WORDS[client].encode()
    found = bytes_of(folder)
    return [
        name
        for name, data in found.items()
        if (word in data.lower() or WORDS[client] in name) and not name.endswith("forgotten/log.jsonl")
    ]


def bytes_of(*folders: Path) -> dict[str, bytes]:
    """Return all files of folders with their bytes, those of gzip unpacked."""
    found: dict[str, bytes] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                found[str(path)] = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    return found


def rows_of(config: Config, client: str) -> dict[str, Any]:
    """Return what the store and MLflow give of a client."""
    from mlflow import MlflowClient

    with open_store(config.store) as store:
        records = list(store.read(WORKLOAD, client, 1 << 40))
        keys = [key for owner, key in store.read_owners() if owner == (WORKLOAD, client)]
        answers = store.get_answers(keys)
    mlflow = MlflowClient(config.mlflow_config.tracking_uri)
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    runs = [
        run.to_dictionary()
        for run in mlflow.search_runs(experiments)
        if run.data.tags.get("flywheel.run_id") == f"night of {WORDS[client]}"
    ]
    return {"records": records, "answers": answers, "runs": runs}
