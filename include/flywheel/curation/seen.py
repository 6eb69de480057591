"""Which records an adapter has seen: in the dataset it learned from, or as another report of their event.

A record is known again by its id, and by its text: under an edited prompt, or when a stronger word takes the
place of a weaker one, the same text has another id. Texts stand among ids as `text:` and their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from flywheel.artifacts.root import ArtifactRoot

# One line for each event of two records or more: their ids, those that the dataset leaves out too.
EVENTS_FILE = "events.jsonl"
_PARTS = ("train", "val", "calibration", "eval")


def seen_ids(root: ArtifactRoot, dataset: str, size: int | None) -> set[str]:
    """Return ids and texts of what an adapter may have seen: trained on, validated or calibrated with.

    All records of the dataset that report an event of these count as seen.

    Args:
        size: of the adapter: it learned from the first so many training records; None: from all.

    Raises:
        ArtifactError: there is no such dataset, or it is damaged.
    """
    folder = root.fetch("datasets", dataset)
    learned: set[str] = set()
    for name, most in (("train", size), ("val", None), ("calibration", None)):
        if (folder / f"{name}.jsonl").exists():  # datasets of before had no calibration
            for row in _rows(folder / f"{name}.jsonl", most):
                learned.update(_marks(row))
    seen = with_siblings(folder, learned)
    # The other reports of an event that lie in this dataset have texts as well.
    for name in _PARTS:
        if (folder / f"{name}.jsonl").exists():
            for row in _rows(folder / f"{name}.jsonl", None):
                if row["id"] in seen:
                    seen.update(_marks(row))
    return seen


def seen_in_eval(root: ArtifactRoot, dataset: str, seen: set[str]) -> set[str]:
    """Return the ids of those eval records of a dataset that are seen, or report the event of one that is.

    Args:
        seen: of an adapter that was trained on another dataset, by `seen_ids`.

    Raises:
        ArtifactError: there is no such dataset, or it is damaged.
    """
    folder = root.fetch("datasets", dataset)
    known = set(seen)
    for name in _PARTS:
        if (folder / f"{name}.jsonl").exists():
            for row in _rows(folder / f"{name}.jsonl", None):
                if not seen.isdisjoint(_marks(row)):
                    known.add(row["id"])
    return with_siblings(folder, known) & set(_ids(folder / "eval.jsonl", None))


def dataset_ids(root: ArtifactRoot, dataset: str) -> set[str]:
    """Return the ids of all records of a dataset: training, validation, calibration and eval.

    Raises:
        ArtifactError: there is no such dataset, or it is damaged.
    """
    folder = root.fetch("datasets", dataset)
    paths = [folder / f"{name}.jsonl" for name in _PARTS]
    return {found for path in paths if path.exists() for found in _ids(path, None)}


def with_siblings(folder: Path, ids: set[str]) -> set[str]:
    """Return ids with all those of the dataset's records that report an event of theirs."""
    found = set(ids)
    path = folder / EVENTS_FILE
    if path.exists():  # datasets of before knew no events
        with path.open("rb") as file:
            for line in file:
                event = orjson.loads(line)
                if not ids.isdisjoint(event):
                    found.update(event)
    return found


def write_events(path: Path, events: Iterable[Sequence[str]]) -> None:
    """Write the events of two records or more, as the ids of their records."""
    with path.open("wb") as file:
        file.writelines(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events)


def _ids(path: Path, size: int | None) -> list[str]:
    return [row["id"] for row in _rows(path, size)]


def _rows(path: Path, size: int | None) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        yield from map(orjson.loads, islice(file, size))


def _marks(row: dict[str, Any]) -> tuple[str, ...]:
    """Return what a record is known again by; datasets of before have ids alone."""
    return (row["id"], f"text:{row['text']}") if "text" in row else (row["id"],)
