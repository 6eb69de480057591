"""A night of production and the champion's own eval set as tables, for other tools of drift: Evidently.

FOLDER/eval.csv           the champion's answers when it was evaluated
FOLDER/production.csv     its answers in the night, also those in whose place the teacher's was sent

Columns: `class`, `confidence` (calibrated; empty where it is not known), `characters` of the text (empty
where `serving.log` keeps no texts). No text is in them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import orjson

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.config import Config
from flywheel.promotion.champion import read_state
from flywheel.serving.nights import Night
from flywheel.serving.traffic import TrafficEntry, traffic_scope
from flywheel.stages.examined import PREDICTIONS
from flywheel.stages.watch import text_asked
from flywheel.stores import open_store
from flywheel.workloads.workload import Workload

COLUMNS = ("class", "confidence", "characters")
Line = tuple[str, float | None, int | None]


def write_tables(config: Config, night: Night, folder: Path) -> tuple[int, int]:
    """Write both tables; return how many lines each has.

    Raises:
        ArtifactError: the night has no champion, or its evaluation is no longer there.
        StoreError: the traffic cannot be read.
    """
    root = ArtifactRoot(config.artifacts.root)
    state = read_state(root, night.workload_id, night.client_id, at=night.at)
    champion = state.champion if state else None
    if champion is None or champion.evaluation is None or not root.find("evaluations", champion.evaluation):
        raise ArtifactError(
            f"{root.url}: no champion with its evaluation at the night's moment, so there is nothing to put "
            "production beside"
        )
    predictions = root.fetch("evaluations", champion.evaluation) / PREDICTIONS
    folder.mkdir(parents=True, exist_ok=True)
    return (
        _write(folder / "eval.csv", _evaluated(predictions)),
        _write(folder / "production.csv", _asked(config, night, champion.adapter)),
    )


def _evaluated(predictions: Path) -> Iterator[Line]:
    for line in predictions.read_bytes().splitlines():
        row = orjson.loads(line)
        confidence = (row.get("probabilities") or {}).get(row["student"])
        yield row["student"], confidence, len(row["text"]) if "text" in row else None


def _asked(config: Config, night: Night, adapter: str) -> Iterator[Line]:
    workload = Workload.load(config.workload)
    with open_store(config.store, cache_mb=4) as store:
        for record in store.read(*traffic_scope(night.workload_id, night.client_id), night.at):
            entry = TrafficEntry.of_record(record)
            if entry.at < night.since or entry.adapter != adapter:
                continue
            label = entry.student_label if entry.by_teacher else entry.label
            confidence = entry.student_confidence if entry.by_teacher else entry.confidence
            if label is not None:
                text = text_asked(workload, entry) if entry.has_text else ""
                yield label, confidence, len(text) or None


def _write(path: Path, lines: Iterator[Line]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for line in lines:
            table.writerow(line)
            count += 1
    return count
