"""The job of a shard: label its texts, each by the champion of its time, and write its file.

Texts and the rows that the file has already go past in order, a row group at a time. Of each group those rows
are found that the same adapter and the same code have labelled; the others are asked for. What is finished is
kept beside it as a piece, durably, so that a killed job goes on where it was; a piece is known by the rows
that it is of and by who labels them. At the end the pieces become the file, which takes its place whole.
"""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flywheel.annotation.rows import CODE_VERSION, DECIMALS, ROW_GROUP, about, text_hash
from flywheel.annotation.spec import ShardResult, ShardRows, ShardSpec
from flywheel.annotation.spread import Text, read_texts
from flywheel.annotation.statistics import statistics_of
from flywheel.annotation.stretches import Stretch, stretch_at
from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.artifacts.root_files import RootFiles
from flywheel.common.batching import batched
from flywheel.common.digests import file_digest
from flywheel.common.durable import put_in_place
from flywheel.common.errors import JobError
from flywheel.jobs.progress import Progress, ProgressFile

log = logging.getLogger(__name__)

# Champions that are held loaded: at the turn from one to the next a row group has texts of both.
_LOADED = 2
NO_ANSWER = "the student could not answer"


class ClassAnswers(Protocol):
    """The classes of N texts, out of C, as `flywheel.serving.classified.Classified` has them."""

    @property
    def answers(self) -> NDArray[np.int64]:
        """The number of each text's class, -1 of a text that has none: [N]."""

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Of each class: [N, C]; those of a text sum to one."""

    @property
    def refused(self) -> Mapping[int, str]:
        """Why a text has no class, by its place."""


class TextLabeller(Protocol):
    """A champion, loaded."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes, by their numbers."""

    def classify(self, texts: list[str]) -> ClassAnswers:
        """Return the classes of texts."""


@dataclass
class Item:
    """A text on its way into a row.

    Attributes:
        text: None where neither the source nor the file has it any more.
        old: the row that is there, from the code and mode of today; None: there is none to be found.
    """

    id: str
    published: int
    known_at: int
    text: str | None
    text_sha256: str
    old: dict[str, Any] | None


def annotate_shard(
    spec: ShardSpec, opened: Callable[[Stretch], TextLabeller], progress: ProgressFile | None = None
) -> ShardResult:
    """Label a shard's texts and write its file.

    Args:
        opened: loads the champion of a stretch.
        progress: told after each row group.

    Raises:
        JobError: a disk is full, or a text's file is not what was planned; another try goes on from there.
        StudentError, ArtifactError: a champion cannot be loaded.
    """
    root, out = ArtifactRoot(spec.artifact_root), RootFiles(spec.out)
    with room_for(f"{spec.out}/{spec.path}"), root.scratch("annotation", key_of(spec.key)) as scratch:
        result = _Shard(spec, root, out, scratch, opened, progress).work()
        root.discard_scratch("annotation", key_of(spec.key))
        return result


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """Say what is to be done where a disk is full, or fails.

    Raises:
        JobError: it is.
    """
    try:
        yield
    except OSError as error:
        raise JobError(f"{what}: {error}; make room and start it again: what is labelled is kept") from None


class _Shard:
    def __init__(
        self,
        spec: ShardSpec,
        root: ArtifactRoot,
        out: RootFiles,
        scratch: Path,
        opened: Callable[[Stretch], TextLabeller],
        progress: ProgressFile | None,
    ) -> None:
        self.spec, self.root, self.out, self.scratch = spec, root, out, scratch
        self.form, self.schema = spec.form, spec.form.schema
        self._ats = [stretch.at for stretch in spec.stretches]
        self._open, self._loaded = opened, OrderedDict[str, TextLabeller]()
        self._progress, self._started = progress, time.monotonic()
        self.counts: Counter[str] = Counter()
        self._total = 0

    def work(self) -> ShardResult:
        pieces: list[Path] = []
        # While a group goes to the disk the next one is labelled: a GPU does not wait for Parquet.
        with ThreadPoolExecutor(1, thread_name_prefix="annotate-write") as disk:
            written: Future[None] | None = None
            for group in batched(self._items(), ROW_GROUP):
                path, table = self._piece(len(pieces), group)
                pieces.append(path)
                if written is not None:
                    written.result()  # one group on its way at most: memory stays flat
                written = None if table is None else disk.submit(self._write, path, table)
                self._tell(len(group))
                del group, table  # they are not kept beside those of the next group
                gc.collect(0)  # a forward pass leaves cycles, and a job collects rarely
            if written is not None:
                written.result()
        file = self._assembled(pieces) if pieces else None
        return ShardResult(
            key=self.spec.key,
            name=self.spec.name,
            file=file,
            asked=self.counts["asked"],
            found=self.counts["found"],
            stale=self.counts["stale"],
            seconds=round(time.monotonic() - self._started, 3),
            peak_mb=_peak_mb(),
        )

    # -- texts ---------------------------------------------------------------------------------------

    def _items(self) -> Iterator[Item]:
        """Yield new texts and rows that are there in one order, each id once."""
        new, old = self._texts(), self._rows_there()
        text, row = next(new, None), next(old, None)
        while text is not None or row is not None:
            if row is None or (text is not None and (text.published, text.id) < (row.published, row.id)):
                assert text is not None
                yield Item(text.id, text.published, text.known_at, text.text, text_hash(text.text), None)
                text = next(new, None)
            elif text is None or (row.published, row.id) < (text.published, text.id):
                yield row
                row = next(old, None)
            else:  # the source's word on when it was known counts
                row.text, row.known_at = text.text, text.known_at
                row.text_sha256 = text_hash(text.text)
                yield row
                text, row = next(new, None), next(old, None)

    def _texts(self) -> Iterator[Text]:
        if not self.spec.texts:
            return
        local = self.scratch / "texts"
        self.root.get_file(self.spec.texts, local)
        if file_digest(local) != self.spec.texts_sha256:
            raise JobError(f"{self.root.url}/{self.spec.texts}: not what was planned; plan the span again")
        self._total = pq.read_metadata(local).num_rows
        yield from read_texts(local)

    def _rows_there(self) -> Iterator[Item]:
        """Yield the rows of the file as it was when this job was first begun."""
        local = self.scratch / "before"
        if not local.exists():
            if not self.out.exists(self.spec.path):
                return
            aside = self.scratch / "before.part"
            self.out.get_file(self.spec.path, aside)
            put_in_place(aside, local)
        with pq.ParquetFile(local) as file:
            said = about(file.schema_arrow)
            same = (said.get("code_version"), said.get("mode")) == (CODE_VERSION, self.spec.mode)
            columns = {name: label for label, name in said.get("classes", {}).items()}
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group).to_pylist():
                    yield _item(row, columns, same=same)

    # -- labels --------------------------------------------------------------------------------------

    def _piece(self, number: int, group: list[Item]) -> tuple[Path, pa.Table | None]:
        """Return the piece of a row group, and its rows; None where an earlier try has written it."""
        places = [stretch_at(self._ats, item.known_at, self.spec.lag) for item in group]
        both = zip(group, places, strict=True)
        made_from = [[item.id, item.known_at, self._ats[place]] for item, place in both]
        path = self.scratch / f"{number:06d}-{key_of(made_from)}.piece"
        if path.exists():
            self.counts["found"] += len(group)
            return path, None
        return path, self.form.table(self._rows(group, places))

    def _write(self, path: Path, table: pa.Table) -> None:
        aside = path.with_suffix(".part")
        with pq.ParquetWriter(aside, self.schema, compression="zstd") as writer:
            writer.write_table(table)
        put_in_place(aside, path)
        self.root.save_scratch("annotation", key_of(self.spec.key))

    def _rows(self, group: list[Item], places: Sequence[int]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        asked: dict[int, list[int]] = {}
        for index, (item, place) in enumerate(zip(group, places, strict=True)):
            stretch = self.spec.stretches[place]
            row: dict[str, Any] = {
                "id": item.id,
                "text": item.text,
                "text_sha256": item.text_sha256,
                "published": item.published,
                "known_at": item.known_at,
                "probabilities": {},
            }
            rows.append(row)
            if stretch.champion is None:
                row["reason"] = stretch.reason
            elif item.old is not None and item.old["adapter"] == stretch.adapter:
                row |= item.old | _by(stretch)
                self.counts["found"] += 1
            elif item.text is None:
                row |= item.old or {"reason": "its text is kept nowhere any more"}
                self.counts["stale"] += 1
            else:
                asked.setdefault(place, []).append(index)
        for place, indices in asked.items():
            self._label(self.spec.stretches[place], [rows[index] for index in indices])
        return rows

    def _label(self, stretch: Stretch, rows: list[dict[str, Any]]) -> None:
        student = self._student(stretch)
        given = student.classify([row["text"] for row in rows])
        self.counts["asked"] += len(rows)
        rounded = np.round(given.probabilities, DECIMALS).tolist()
        for place, (row, choice) in enumerate(zip(rows, given.answers.tolist(), strict=True)):
            row |= _by(stretch)
            if choice < 0:
                row["reason"] = f"{NO_ANSWER}: {given.refused.get(place, 'no class')}"
                continue
            probabilities = rounded[place]
            row["label"], row["probability"] = student.classes[choice], probabilities[choice]
            row["probabilities"] = dict(zip(student.classes, probabilities, strict=True))

    def _student(self, stretch: Stretch) -> TextLabeller:
        assert stretch.champion is not None
        adapter = stretch.champion.adapter
        if adapter not in self._loaded:
            while len(self._loaded) >= _LOADED:
                self._loaded.popitem(last=False)
            self._loaded[adapter] = self._open(stretch)
        self._loaded.move_to_end(adapter)
        return self._loaded[adapter]

    # -- the file ------------------------------------------------------------------------------------

    def _assembled(self, pieces: Sequence[Path]) -> ShardRows:
        whole = self.scratch / "rows.part"
        with pq.ParquetWriter(whole, self.schema, compression="zstd") as writer:
            for piece in pieces:
                writer.write_table(pq.read_table(piece, schema=self.schema, memory_map=False))
        self.out.put_file(whole, self.spec.path)
        return statistics_of(whole, self.spec.path)

    def _tell(self, rows: int) -> None:
        done = self.counts["rows"] = self.counts["rows"] + rows
        seconds = time.monotonic() - self._started
        rate = self.counts["asked"] / max(seconds, 1e-9)
        total = max(self._total, done)
        left = (total - done) / max(done / max(seconds, 1e-9), 1e-9)
        log.info(
            "%s: %s of about %s texts, %s asked at %.0f/s, about %.0f s left",
            self.spec.name,
            f"{done:,}",
            f"{total:,}",
            f"{self.counts['asked']:,}",
            rate,
            left,
        )
        if self._progress is not None:
            self._progress(Progress(done, total, None, None, rate, left))


def _peak_mb() -> int:
    """Return the peak of this process's own memory; getrusage would count that of what it was forked from."""
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) // 1024
    return 0


def _by(stretch: Stretch) -> dict[str, Any]:
    assert stretch.champion is not None
    return {
        "student": stretch.champion.name,
        "adapter": stretch.champion.adapter,
        "adapter_cutoff": stretch.cutoff,
        "workload_version": stretch.workload_version,
    }


def _item(row: dict[str, Any], columns: dict[str, str], *, same: bool) -> Item:
    """Return a row of a file as an item; its labels count where code and mode are the same."""
    text = row.get("text")
    given = {label: row[name] for name, label in columns.items() if row[name] is not None}
    old = {
        "label": row["label"],
        "probability": row["probability"],
        "probabilities": given,
        "student": row["student"],
        "adapter": row["adapter"],
        "adapter_cutoff": _unix(row["adapter_cutoff"]),
        "workload_version": row["workload_version"],
        "reason": row["reason"],
    }
    published, known_at = _unix(row["published"]), _unix(row["known_at"])
    assert published is not None
    assert known_at is not None
    digest = row.get("text_sha256") or (text_hash(text) if text is not None else "")
    return Item(row["id"], published, known_at, text, digest, old if same else None)


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
