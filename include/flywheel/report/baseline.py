"""TF-IDF and logistic regression on the same split: what a student must beat to be worth its GPU.

It is the model of the family `linear` (flywheel.students.linear). Three sizes take 2 s, importing
scikit-learn 1.5 s; the figures are kept as an artifact, so a split is fitted once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.evaluation.statistics import f1_with_interval
from flywheel.report.model import BaselinePart
from flywheel.students.linear.model import fit
from flywheel.workloads.lines import read_lines
from flywheel.workloads.workload import Workload

CODE_VERSION = 3
# In an evaluation that no result names: the key of the data set that it was made from, with which it goes.
MADE_OF = "of.json"


def baseline(
    root: ArtifactRoot, dataset: str, sizes: Sequence[int], workload: Workload | None
) -> list[BaselinePart]:
    """Return the baseline's F1 against the teacher's labels for each size that the dataset has records for.

    Args:
        dataset: key of the dataset artifact.
        sizes: numbers of training records.
        workload: gives the text inside a prompt; None: the last user message is the text.

    Raises:
        ArtifactError: there is no such dataset, or it is damaged.
    """
    key = key_of("baseline", CODE_VERSION, dataset, sorted(sizes), workload.sha256 if workload else None)
    if root.lookup("evaluations", key) is None:
        folder = root.fetch("datasets", dataset)
        rows = _fit(folder, sorted(sizes), workload)
        with root.build("evaluations", key) as aside:
            (aside / MADE_OF).write_bytes(orjson.dumps({"dataset": dataset}))
            (aside / "baseline.json").write_bytes(orjson.dumps([row.model_dump() for row in rows]))
    data = orjson.loads((root.fetch("evaluations", key) / "baseline.json").read_bytes())
    return [BaselinePart.model_validate(row) for row in data]


def _fit(folder: Path, sizes: Sequence[int], workload: Workload | None) -> list[BaselinePart]:
    from sklearn.metrics import f1_score

    texts, labels = _read(folder / "train.jsonl", workload)
    eval_texts, eval_labels = _read(folder / "eval.jsonl", workload)
    rows = []
    for size in sizes:
        # One class alone, or no records, cannot be fitted.
        if size > len(texts) or len(set(labels[:size])) < 2 or not eval_texts:
            continue
        predicted = fit(texts[:size], labels[:size]).predict(eval_texts)
        weighted, macro = (
            float(f1_score(eval_labels, predicted, average=average, zero_division=0))
            for average in ("weighted", "macro")
        )
        rows.append(
            BaselinePart(
                size=size,
                score=weighted,
                score_ci95=f1_with_interval(eval_labels, predicted)[1],
                scores={"f1_weighted": weighted, "f1_macro": macro},
            )
        )
    return rows


def text_in(row: dict[str, Any], workload: Workload | None) -> str:
    """Return the text that a line of a dataset asks about."""
    prompt = [message for message in row["messages"] if message["role"] != "assistant"]
    text = workload.text_of(prompt) if workload else None
    if text is None:  # a log record of an application with a prompt of its own
        text = next((m["content"] for m in reversed(prompt) if m["role"] == "user"), "")
    return str(text)


def lines_of(path: Path, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the lines of a part of a dataset, all or the first so many; none where there is no such part."""
    if path.exists():
        yield from read_lines(path, most)


def _read(path: Path, workload: Workload | None) -> tuple[list[str], list[str]]:
    """Return texts and labels of a split's file."""
    rows = [(text_in(row, workload), row["label"]) for row in lines_of(path)]
    return [text for text, _ in rows], [label for _, label in rows]
