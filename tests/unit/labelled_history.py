"""A small history to label: dated headlines, champions of three backfilled nights, and a student made of a hash."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from flywheel.annotation.stretches import Stretch
from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Config
from flywheel.config.loading import validate_config
from flywheel.promotion.champion import Champion
from flywheel.promotion.timeline import Entry, Timeline
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.workloads.workload import Workload

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
START = datetime(2019, 1, 1, tzinfo=UTC)
# Nights whose champions label what comes after them.
NIGHTS = (
    datetime(2019, 1, 16, 2, tzinfo=UTC),
    datetime(2019, 2, 10, 2, tzinfo=UTC),
    datetime(2019, 3, 5, 2, tzinfo=UTC),
)


@dataclass
class HashStudent:
    """Labels a text by its hash and its adapter's: the same always, and quickly."""

    adapter: str
    classes: Sequence[str] = WORKLOAD.classes
    asked: list[str] = field(default_factory=list)

    def classify(self, texts: list[str]) -> Any:
        """Return classes and probabilities of texts."""
        self.asked += texts
        seeds = [hashlib.sha256(f"{self.adapter} {text}".encode()).digest() for text in texts]
        numbers = np.array([list(seed[: len(self.classes)]) for seed in seeds], float) + 1
        probabilities = numbers / numbers.sum(axis=1, keepdims=True)
        return Said(probabilities.argmax(axis=1), probabilities)


@dataclass
class Said:
    """What a student says; see `flywheel.annotation.shard.Answers`."""

    answers: np.ndarray[Any, np.dtype[np.int64]]
    probabilities: np.ndarray[Any, np.dtype[np.float64]]
    refused: dict[int, str] = field(default_factory=dict)


@dataclass
class Students:
    """Opens hash students, and counts what they are asked."""

    opened: dict[str, HashStudent] = field(default_factory=dict)

    def __call__(self, stretch: Stretch) -> HashStudent:
        """Return the student of a stretch."""
        assert stretch.adapter is not None
        return self.opened.setdefault(stretch.adapter, HashStudent(stretch.adapter))

    @property
    def asked(self) -> int:
        """Texts that were asked of all."""
        return sum(len(student.asked) for student in self.opened.values())


def write_headlines(path: Path, count: int, days: int = 90) -> None:
    """Write dated headlines, spread evenly; every tenth has a date alone, known when its day ends."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["headline", "date"])
        for number in range(count):
            when = START + timedelta(days=days * number / count)
            date = f"{when:%Y-%m-%d}" if number % 10 == 0 else f"{when:%Y-%m-%dT%H:%M:%S}"
            writer.writerow([f"Acme {number} raises its dividend by {number % 7} %", date])


def config_for(folder: Path, **annotation: Any) -> Config:
    """Return a config of a linear student with a source of headlines in a folder."""
    return validate_config(
        {
            "client_id": "desk",
            "workload": "include/workloads/news_classifier.yaml",
            "nims": [{"model_name": "tfidf", "name": "linear", "family": "linear", "gpus": 0}],
            "source": [{"path": str(folder / "headlines.csv")}],
            "artifacts": {"root": str(folder / "artifacts")},
            "annotation": annotation,
        },
        "test",
    )


def with_champions(config: Config, nights: Sequence[datetime] = NIGHTS) -> list[Champion]:
    """Enter a champion of a backfilled night at each of some times."""
    root = ArtifactRoot(config.artifacts.root)
    return [_champion_of(root, config, number, night) for number, night in enumerate(nights)]


def write_dataset(root: ArtifactRoot, key: str, latest: int, records: int = 20) -> None:
    """Write a data set whose last record is of a time, unix seconds; one that is there is written anew."""
    root.remove("datasets", key)
    with root.build("datasets", key) as folder:
        for name in ("train", "val", "calibration", "eval"):
            lines = [
                orjson.dumps({"id": f"{name}{number}", "known_at": latest - number * 3600, "label": "OTHER"})
                for number in range(records)
            ]
            (folder / f"{name}.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def _champion_of(root: ArtifactRoot, config: Config, number: int, night: datetime) -> Champion:
    run_id, dataset, adapter = f"night-{number}", f"dataset{number}", f"adapter{number}"
    Run.create(make_plan(config, run_id=run_id, cutoff=night, is_backfill=True))
    cutoff = int(night.timestamp())
    write_dataset(root, dataset, cutoff - 60)
    with root.build("adapters", adapter) as folder:
        (folder / "weights.bin").write_bytes(adapter.encode())
    champion = Champion(
        workload_id=WORKLOAD.id,
        client_id="desk",
        student="linear",
        family="linear",
        model_name="tfidf",
        weights="",
        size=20,
        parameters=1000,
        adapter=adapter,
        adapter_path=f"adapters/{adapter}",
        dataset=dataset,
        evaluation=None,
        metric="f1_weighted",
        score=0.9,
        score_ci95=(0.85, 0.95),
        run_id=run_id,
        cutoff=cutoff,
        promoted_at=night.isoformat(),
        reason="the cheapest that is good enough",
    )
    enter(root, champion, cutoff, number)
    return champion


def enter(root: ArtifactRoot, champion: Champion | None, at: int, number: int) -> None:
    """Enter a night of the past into the timeline."""
    Timeline(root, WORKLOAD.id, "desk").write(
        Entry(
            at=at,
            kind="backfill",
            run_id=f"night-{number}",
            decision="promoted" if champion else "none",
            reason="the cheapest that is good enough" if champion else "no candidate was good enough",
            champion=champion,
            before=None,
            written_at=f"2026-01-0{number + 1}T00:00:00.000000+00:00",
        )
    )


@pytest.fixture
def history(tmp_path: Path) -> Config:
    """300 headlines and champions of three nights."""
    write_headlines(tmp_path / "headlines.csv", 300)
    config = config_for(tmp_path)
    with_champions(config)
    return config
