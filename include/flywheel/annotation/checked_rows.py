"""A row group of a labelled history as arrays, and what can be told from its rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flywheel.annotation.manifest import AnnotationManifest
from flywheel.annotation.rows import class_columns, row_id, shard_in, text_hash
from flywheel.annotation.spread import shard_of

_NEVER = np.iinfo(np.int64).max
# Of rounded probabilities of some dozen classes.
_NEARLY = 1e-3


@dataclass
class Rows:
    """A row group.

    Attributes:
        table: as it was read.
        manifest: of the output.
        before: (published, id) of the row before; None: there is none in this file.
        ids, adapters, versions: (n,) of the columns.
        published, known_at, cutoffs: (n,) unix seconds; a cutoff that is null is never.
    """

    table: pa.Table
    manifest: AnnotationManifest
    before: tuple[int, str] | None

    def __post_init__(self) -> None:
        self.ids: list[str] = self.table["id"].to_pylist()
        self.adapters: list[str | None] = self.table["adapter"].to_pylist()
        self.versions: list[str | None] = self.table["workload_version"].to_pylist()
        self.published, self.known_at, self.cutoffs = map(
            self._seconds, ("published", "known_at", "adapter_cutoff")
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def numbers(self) -> NDArray[np.uint64]:
        """The first 64 bits of the ids: (n,)."""
        return np.array([int(one[:16], 16) for one in self.ids], np.uint64)

    def misplaced(self, path: str) -> tuple[int, str]:
        """Return how many rows are not where they should be or not what their id says, and the first."""
        texts = self.table["text" if self.manifest.text == "keep" else "text_sha256"].to_pylist()
        month, before, bad = shard_in(path)[:7], self.before, []
        for published, id, text in zip(self.published.tolist(), self.ids, texts, strict=True):
            place = (published, id)
            digest = text_hash(text) if self.manifest.text == "keep" and text is not None else text
            is_own = digest is None or row_id(digest, published) == id
            if (before is not None and place <= before) or not is_own or shard_of(published, 31)[:7] != month:
                bad.append(id)
            before = place
        return len(bad), f"{path}, row {bad[0]}" if bad else ""

    def mislabelled(self) -> tuple[int, str]:
        """Return how many rows have a label that does not fit their probabilities, and the first."""
        labels: list[str | None] = self.table["label"].to_pylist()
        own = self.table["probability"].to_pylist()
        reasons = self.table["reason"].to_pylist()
        modes = self.table["mode"].to_pylist()
        names = class_columns(self.manifest.classes)
        given = {label: self.table[name].to_pylist() for label, name in names.items()}
        sums = np.nansum(
            [np.array(values, float) for values in given.values()] or [np.zeros(len(labels))], axis=0
        )
        bad = []
        for index, label in enumerate(labels):
            if label is None:
                is_good = bool(reasons[index]) and own[index] is None
            else:
                is_good = label in given and own[index] == given[label][index]
                is_good = is_good and modes[index] == self.manifest.mode
                is_good = is_good and abs(sums[index] - 1) < _NEARLY and self.adapters[index] is not None
            if not is_good:
                bad.append(self.ids[index])
        return len(bad), f"row {bad[0]}" if bad else ""

    def _seconds(self, name: str) -> NDArray[np.int64]:
        column: Any = pc.cast(self.table[name], pa.int64())
        return np.asarray(
            pc.fill_null(pc.divide(column, 1000), _NEVER).to_numpy(zero_copy_only=False), np.int64
        )


def rows_of(path: Path, manifest: AnnotationManifest) -> Iterator[Rows]:
    """Yield the row groups of a file."""
    before = None
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = Rows(file.read_row_group(group), manifest, before)
            yield rows
            if len(rows):
                before = (int(rows.published[-1]), rows.ids[-1])
