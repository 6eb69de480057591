"""What the other way to split would have shown, by TF-IDF and logistic regression on the same records.

A random split examines on texts of the days that training is of; a temporal one on what came after. A
reader who knows one figure only cannot tell what the other would be, and training every student twice to say
so costs too much. The baseline is fitted in a second, and what makes its score too good on a random split,
neighbours of the eval records in training, makes a student's too good. Both splits are made of the dataset's
records, keep events whole, and give their training set the same number of records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.config.schema import DataSplitConfig
from flywheel.curation.posted import split_samples
from flywheel.curation.samples import Samples
from flywheel.curation.words import words_of
from flywheel.evaluation.statistics import f1_with_interval
from flywheel.report.baseline import MADE_OF, lines_of, text_in
from flywheel.report.checks import OtherSplitPart, SplitScore
from flywheel.students.linear.model import fit
from flywheel.workloads.records import STRENGTH
from flywheel.workloads.workload import Workload

CODE_VERSION = 2
# Training records that are read at most; the first ones of a dataset are a sample of all.
MOST_READ = 100_000
_PARTS = ("train", "val", "calibration", "eval")


def other_split(
    root: ArtifactRoot, dataset: str, config: DataSplitConfig, size: int, workload: Workload | None
) -> OtherSplitPart | None:
    """Return the baseline's F1 on a dataset's split and on the other split of its records.

    Args:
        dataset: key of the dataset artifact.
        config: that it was split by.
        size: training records, at most.
        workload: gives the text inside a prompt; None: the last user message is the text.

    Returns:
        None where either split has too few records or classes to be fitted, or the dataset is of a version
        that told no times.

    Raises:
        ArtifactError: there is no such dataset, or it is damaged.
    """
    key = key_of(
        "other split",
        CODE_VERSION,
        dataset,
        config.model_dump(mode="json"),
        size,
        workload.sha256 if workload else None,
    )
    if root.lookup("evaluations", key) is None:
        found = _measure(root.fetch("datasets", dataset), config, size, workload)
        with root.build("evaluations", key) as aside:
            data = found.model_dump(mode="json") if found else None
            (aside / MADE_OF).write_bytes(orjson.dumps({"dataset": dataset}))
            (aside / "other_split.json").write_bytes(orjson.dumps(data))
    data = orjson.loads((root.fetch("evaluations", key) / "other_split.json").read_bytes())
    return OtherSplitPart.model_validate(data) if data else None


def _measure(
    folder: Path, config: DataSplitConfig, size: int, workload: Workload | None
) -> OtherSplitPart | None:
    """Split the records the other way and fit the baseline on both splits."""
    parts = {
        name: list(lines_of(folder / f"{name}.jsonl", MOST_READ if name == "train" else None))
        for name in _PARTS
    }
    rows = [row for part in parts.values() for row in part]
    if not all(row.get("known_at") is not None and "event" in row for row in rows):
        return None
    rows.sort(key=lambda row: (row["known_at"], row["id"]))
    if len(rows) <= config.eval_size:
        return None
    other = config.model_copy(update={"split": "random" if config.split == "temporal" else "temporal"})
    texts = [text_in(row, workload) for row in rows]
    places = split_samples(_samples(rows, texts, config.random_seed), other)
    train, held = ([rows[place] for place in part.tolist()] for part in (places.train, places.eval))
    size = min(size, len(train), len(parts["train"]))
    here = _score(parts["train"][:size], parts["eval"], workload)
    there = _score(train[:size], held, workload)
    if here is None or there is None:
        return None
    return OtherSplitPart(split=other.split, metric="f1_weighted", size=size, here=here, there=there)


def _samples(rows: Sequence[dict[str, Any]], texts: Sequence[str], seed: int) -> Samples:
    """Return lines of a dataset, in the order in which they were known, as what is split."""
    key = str(seed).encode()
    digests = [
        hashlib.blake2b(" ".join(words_of(text)).encode(), digest_size=16, key=key).digest() for text in texts
    ]
    names = sorted({row["label"] for row in rows})
    place = {name: index for index, name in enumerate(names)}
    first: dict[str, int] = {}
    return Samples(
        ids=[row["id"] for row in rows],
        labels=np.array([place[row["label"]] for row in rows], np.int64),
        names=tuple(names),
        hashes=np.array([int.from_bytes(digest[:8], "little") for digest in digests], np.uint64),
        known_at=np.array([row["known_at"] for row in rows], np.int64),
        labelled_by=np.array([STRENGTH.index(row.get("labelled_by", STRENGTH[0])) for row in rows], np.int8),
        events=np.array([first.setdefault(row["event"], index) for index, row in enumerate(rows)], np.int64),
        words=np.empty(0, np.int32),
        starts=np.zeros(len(rows) + 1, np.int64),
        duplicates=0,
        near_duplicates=0,
        conflicts=0,
        conflict_examples=(),
    )


def _score(
    train: Sequence[dict[str, Any]], held: Sequence[dict[str, Any]], workload: Workload | None
) -> SplitScore | None:
    """Return the baseline's F1 on a split; None where one class alone, or nothing, is there."""
    labels = [row["label"] for row in train]
    if len(set(labels)) < 2 or not held:
        return None
    right = [row["label"] for row in held]
    texts, eval_texts = ([text_in(row, workload) for row in part] for part in (train, held))
    answers = fit(texts, labels).predict(eval_texts)
    f1, interval = f1_with_interval(right, answers)
    return SplitScore(score=f1, score_ci95=interval, eval_records=len(held))
