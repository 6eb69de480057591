"""The proof that no row of a labelled history has read the future: `flywheel annotate --check PATH`.

Nothing is believed because a row says it. Who should have labelled a text is asked of the timeline's
entries; what that champion knows of is read in the records of its data set (flywheel.annotation.knowledge);
when a text was known is read in the operator's sources, where they are still there. The manifest has a digest
of every file, and the artifact root the digest of the manifest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flywheel.annotation.checked_rows import Rows, rows_of
from flywheel.annotation.knowledge import Knowledge, knowledge_of
from flywheel.annotation.manifest import (
    MANIFEST,
    AnnotationManifest,
    digest_of,
    months_of,
    read_manifest,
    seal_path,
)
from flywheel.annotation.rows import ROWS
from flywheel.annotation.spread import headlines, text_of
from flywheel.annotation.statistics import statistics_of
from flywheel.artifacts.root import ArtifactRoot
from flywheel.artifacts.root_files import RootFiles
from flywheel.common.errors import ArtifactError, ConfigError, FlywheelError, SourceError
from flywheel.config import Config
from flywheel.promotion.champion import Champion
from flywheel.promotion.timeline import Timeline
from flywheel.sources.quarantine import Quarantine

State = Literal["proved", "limit", "FAILED"]


@dataclass(frozen=True)
class CheckFinding:
    """What was looked at, and what came of it.

    Attributes:
        what: in words.
        state: proved; limit: it cannot be proved, and the data card says so; FAILED.
        checked: how many things were looked at.
        detail: what was found where it is not proved.
    """

    what: str
    state: State
    checked: int
    detail: str = ""

    def line(self) -> str:
        """Return it as a line of a table."""
        return f"{self.state:7} {self.checked:>12,}  {self.what}" + (
            f": {self.detail}" if self.detail else ""
        )


@dataclass
class _Tally:
    """Counts what was looked at and what failed, with the first example."""

    what: str
    checked: int = 0
    failed: int = 0
    first: str = ""
    state: State = "FAILED"

    def add(self, checked: int, failed: int = 0, example: str = "") -> None:
        self.checked += checked
        self.failed += failed
        if failed and not self.first:
            self.first = example

    def finding(self) -> CheckFinding:
        if not self.failed:
            return CheckFinding(self.what, "proved", self.checked)
        return CheckFinding(self.what, self.state, self.checked, f"{self.failed:,}, the first: {self.first}")


@dataclass
class _Who:
    """Who should label, by the timeline: entries' times and adapters, and what these champions know of."""

    ats: NDArray[np.int64]
    adapters: list[str | None]
    champions: dict[str, Champion]
    known: dict[str, Knowledge] = field(default_factory=dict)


def check(config: Config, path: str, *, strict: bool = False, scratch: Path) -> list[CheckFinding]:
    """Check an output against its manifest, the timeline, the artifacts and the sources.

    Args:
        config: whose artifact root and sources.
        path: folder or URL of the output.
        strict: what is a limit fails.
        scratch: a local folder for copies of files.

    Raises:
        ArtifactError: there is no manifest at all.
    """
    root, out = ArtifactRoot(config.artifacts.root), RootFiles(path)
    manifest = read_manifest(out)
    if manifest is None:
        raise ArtifactError(
            f"{out.url}/{MANIFEST}: no such file; expected the folder that `flywheel annotate` made"
        )
    findings = [_seal(root, out, manifest), *_files(out, manifest, scratch)]
    if any(one.state == "FAILED" for one in findings[1:]):
        return findings  # rows of other files would say anything
    findings += _rows(config, root, out, manifest, scratch)
    if strict:
        findings = [
            CheckFinding(one.what, "FAILED", one.checked, one.detail) if one.state == "limit" else one
            for one in findings
        ]
    return findings


def _seal(root: ArtifactRoot, out: RootFiles, manifest: AnnotationManifest) -> CheckFinding:
    what = f"{MANIFEST}: its digest, and the one that the artifact root keeps"
    found = digest_of(out.read_json(MANIFEST))
    if found != manifest.digest:
        return CheckFinding(what, "FAILED", 1, "was changed: its digest is another")
    path = seal_path(out.url)
    if not root.exists(path):
        return CheckFinding(what, "FAILED", 1, f"{root.url}/{path}: no such file: made elsewhere, or moved")
    if root.read_json(path).get("digest") != found:
        return CheckFinding(
            what, "FAILED", 1, "was changed together with its digest: the artifact root has another"
        )
    return CheckFinding(what, "proved", 1)


def _files(out: RootFiles, manifest: AnnotationManifest, scratch: Path) -> Iterator[CheckFinding]:
    """Say whether the files are those of the manifest, and hold what it says."""
    tally = _Tally("files: their bytes, rows and statistics are the manifest's")
    for path, told in manifest.files.items():
        try:
            local = local_copy(out, path, scratch)
            found = statistics_of(local, path)
        except (OSError, ArtifactError, ValueError, KeyError, AssertionError) as error:
            tally.add(1, 1, f"{path}: {str(error)[:200]}")
            continue
        tally.add(1, int(found != told), f"{path}: its bytes or rows are others")
    months = months_of(manifest.files.values())
    tally.add(1, int(months != manifest.months), "the sums of the months are not those of the files")
    yield tally.finding()
    there = {name for name in _parquet(out) if name not in manifest.files}
    more = _Tally("folder: no file that the manifest does not name")
    more.add(len(there) + len(manifest.files), len(there), min(there, default=""))
    yield more.finding()


def _rows(
    config: Config, root: ArtifactRoot, out: RootFiles, manifest: AnnotationManifest, scratch: Path
) -> Iterator[CheckFinding]:
    whole = _Tally("rows: in order, each once, in their month, with the id of their text and time")
    labels = _Tally("labels: a probability of each, of a class of the manifest; they sum to one")
    timeline = _Tally("champion: the one of the timeline's last decision before known_at less lag")
    ahead = _Tally("records: all that the champion knows of was known before known_at less lag")
    cutoffs = _Tally("adapter_cutoff: not after known_at less lag, and not before what the champion knows of")
    prompts = _Tally("workload_version: of the run that trained the champion")
    gaps = _Tally("rows without a label: nobody was in force, by the timeline of today", state="limit")
    persons = _Tally("prompt and settings: written before the text was known", state="limit")
    who = _who(root, manifest)
    known = _Tally(
        "champions: thresholds, temperature and searched settings from their data sets' own records"
    )
    if manifest.mode == "champion":
        for tally in (timeline, ahead, cutoffs):
            tally.state = "limit"
            tally.what += " (mode champion does not promise it)"
    for adapter, champion in who.champions.items():
        try:
            knows = who.known[adapter] = knowledge_of(root, champion)
        except FlywheelError as error:
            known.add(1, 1, f"{champion.name}: cannot be shown: {error}")
            continue
        bad = knows.undated + knows.foreign
        known.add(
            1, int(bad > 0), f"{champion.name}: {knows.undated} undated, {knows.foreign} foreign records"
        )
    ids: list[NDArray[np.uint64]] = []
    times: list[NDArray[np.int64]] = []
    for path in manifest.files:
        for rows in rows_of(local_copy(out, path, scratch), manifest):
            whole.add(len(rows), *rows.misplaced(path))
            labels.add(len(rows), *rows.mislabelled())
            _judge(rows, who, manifest, timeline, gaps, ahead, cutoffs, prompts, persons)
            ids.append(rows.numbers)
            times.append(rows.known_at)
    told = (whole, labels, timeline, gaps, known, ahead, cutoffs, prompts, persons)
    yield from (one.finding() for one in told)
    yield from _sources(config, manifest, ids, times, scratch)


def _judge(rows: Rows, who: _Who, manifest: AnnotationManifest, *tallies: _Tally) -> None:
    """Compare rows with who should have labelled them, and with what those know of."""
    timeline, gaps, ahead, cutoffs, prompts, persons = tallies
    free = rows.known_at - manifest.lag
    places = np.searchsorted(who.ats, free, side="left") - 1
    if manifest.mode == "point_in_time":
        due = [who.adapters[place] if place >= 0 else None for place in places.tolist()]
        both = list(zip(due, rows.adapters, strict=True))
        wrong = [index for index, (then, own) in enumerate(both) if own is not None and own != then]
        late = [index for index, (then, own) in enumerate(both) if own is None and then is not None]
        gaps.add(
            sum(own is None for own in rows.adapters),
            len(late),
            f"row {rows.ids[late[0]]}: label the span again" if late else "",
        )
        timeline.add(
            len(rows),
            len(wrong),
            f"row {rows.ids[wrong[0]]}: the timeline has {due[wrong[0]] or 'nobody'}" if wrong else "",
        )
    else:
        strangers = [one for one in rows.adapters if one is not None and one not in who.champions]
        timeline.add(len(rows), len(strangers), f"adapter {min(strangers, default='')}: no champion")
    for adapter in {one for one in rows.adapters if one is not None}:
        knows = who.known.get(adapter)
        at = np.array([one == adapter for one in rows.adapters])
        count = int(at.sum())
        if knows is None:
            ahead.add(count, count, f"adapter {adapter}: what it knows of cannot be shown")
            continue
        example = rows.ids[int(np.flatnonzero(at)[0])]

        def first(bad: NDArray[np.bool_], example: str = example) -> str:
            found = np.flatnonzero(bad)
            return f"row {rows.ids[int(found[0])]}" if len(found) else example

        bad = at & (knows.until > free)
        ahead.add(
            count, int(bad.sum()), f"{first(bad)}: {adapter} knows of records until {knows.latest_record}"
        )
        bad = at & ((rows.cutoffs > free) | (rows.cutoffs < knows.until))
        cutoffs.add(count, int(bad.sum()), first(bad))
        bad = at & np.array([one != knows.workload_version for one in rows.versions])
        prompts.add(count, int(bad.sum()), first(bad))
        bad = at & (knows.written_until > free)
        persons.add(count, int(bad.sum()), f"{first(bad)}; of a backfilled night, as the data card says")


def _who(root: ArtifactRoot, manifest: AnnotationManifest) -> _Who:
    """Return who should label, by the entries of the timeline as they are now."""
    if manifest.mode == "champion":
        champions = {one.champion.adapter: one.champion for one in manifest.champions if one.champion}
        return _Who(np.empty(0, np.int64), [], champions)
    entries = Timeline(root, manifest.workload_id, manifest.client_id).counting()
    used = {adapter for file in manifest.files.values() for adapter in file.by_adapter}
    return _Who(
        np.array([entry.at for entry in entries], np.int64),
        [entry.adapter for entry in entries],
        {
            entry.champion.adapter: entry.champion
            for entry in reversed(entries)  # the first entry with an adapter counts
            if entry.champion is not None and entry.champion.adapter in used
        },
    )


def _sources(
    config: Config,
    manifest: AnnotationManifest,
    ids: Sequence[NDArray[np.uint64]],
    times: Sequence[NDArray[np.int64]],
    scratch: Path,
) -> Iterator[CheckFinding]:
    """Compare rows with the operator's sources: when texts were known, and that none is lost."""
    clock = _Tally("known_at: as the operator's sources say it")
    lost = _Tally("sources: each dated text of the span is a row")
    gone = _Tally("rows: in the operator's sources", state="limit")
    there = np.concatenate([*ids, np.empty(0, np.uint64)])
    known = np.concatenate([*times, np.empty(0, np.int64)])
    order = np.argsort(there, kind="stable")
    there, known = there[order], known[order]
    earliest = np.full(len(there), np.iinfo(np.int64).max)
    counts: Counter[str] = Counter()
    try:
        with Quarantine(scratch / "quarantine.jsonl") as quarantine:
            for headline in headlines(config, quarantine, counts):
                if not any(start <= headline.timestamp < end for start, end in manifest.spans):
                    continue
                text = text_of(headline)
                number = np.uint64(int(text.id[:16], 16))
                place = int(np.searchsorted(there, number))
                found = place < len(there) and there[place] == number
                lost.add(1, int(not found), f"{text.text[:80]!r} of {headline.file}, line {headline.line}")
                if found:
                    earliest[place] = min(earliest[place], text.known_at)
    except (SourceError, ConfigError) as error:
        yield CheckFinding(clock.what, "limit", 0, f"the sources are not there: {error}")
        return
    seen = earliest < np.iinfo(np.int64).max
    wrong = seen & (earliest != known)
    example = int(np.flatnonzero(wrong)[0]) if wrong.any() else -1
    clock.add(
        int(seen.sum()),
        int(wrong.sum()),
        f"row {there[example]:016x}...: {known[example]}, the source has {earliest[example]}"
        if example >= 0
        else "",
    )
    gone.add(len(there), int((~seen).sum()), "the sources have lost them since; their known_at is not proved")
    yield from (clock.finding(), lost.finding(), gone.finding())


def local_copy(out: RootFiles, path: str, scratch: Path) -> Path:
    """Return a file of an output on this machine.

    Raises:
        OSError, ArtifactError: there is no such file, or a link is on its way.
    """
    local = scratch / "file.parquet"
    out.get_file(path, local)
    return local


def _parquet(out: RootFiles) -> Iterator[str]:
    for month in out.list(ROWS):
        names = out.list(f"{ROWS}/{month}") or [""]
        yield from (f"{ROWS}/{month}/{name}" for name in names if not name.startswith("."))
