"""Which records an adapter has seen: in the dataset it learned from, or as another report of their event."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import orjson

from flywheel.artifacts import ArtifactRoot

# One line for each event of two records or more: their ids, those that the dataset leaves out too.
EVENTS_FILE = "events.jsonl"


def seen_ids(root: ArtifactRoot, dataset: str, size: int | None) -> set[str]:
    """Return the ids of records that an adapter may have seen: trained on, validated or calibrated with.

    All records of the dataset that report an event of these count as seen.

    Args:
        size: of the adapter: it learned from the first so many training records; None: from all.

    Raises:
        ArtifactError: there is no such dataset, or it is damaged.
    """
    folder = root.fetch("datasets", dataset)
    learned = set(_ids(folder / "train.jsonl", size))
    for name in ("val", "calibration"):
        if (folder / f"{name}.jsonl").exists():  # datasets of before had no calibration
            learned.update(_ids(folder / f"{name}.jsonl", None))
    return with_siblings(folder, learned)


def seen_in_eval(root: ArtifactRoot, dataset: str, seen: set[str]) -> set[str]:
    """Return the ids of those eval records of a dataset that are seen, or report the event of one that is.

    Args:
        seen: of an adapter that was trained on another dataset, by `seen_ids`.

    Raises:
        ArtifactError: there is no such dataset, or it is damaged.
    """
    folder = root.fetch("datasets", dataset)
    return with_siblings(folder, seen) & set(_ids(folder / "eval.jsonl", None))


def dataset_ids(root: ArtifactRoot, dataset: str) -> set[str]:
    """Return the ids of all records of a dataset: training, validation, calibration and eval.

    Raises:
        ArtifactError: there is no such dataset, or it is damaged.
    """
    folder = root.fetch("datasets", dataset)
    paths = [folder / f"{name}.jsonl" for name in ("train", "val", "calibration", "eval")]
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
    with path.open("rb") as file:
        return [orjson.loads(line)["id"] for line in islice(file, size)]
