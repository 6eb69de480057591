"""A span of texts labelled: planned into shards, each shard a job, and the manifest at the end.

    annotations/WORKLOAD/CLIENT/MODE/                  the output, unless `annotation.out` names another place
    annotations/work/KEY/plan.json                     what is to be done: the shards, the span, what was read
    annotations/work/KEY/SHARD.spec.json, .texts       of each shard; its result is beside it, SHARD.json

A step that was killed is done again and finds what is there: the same sources and timeline give the same
plan, shards that are finished stay, and one in the middle goes on from its last row group.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from flywheel.annotation.card import card_of
from flywheel.annotation.manifest import (
    AnnotationManifest,
    joined,
    months_of,
    read_manifest,
    write_manifest,
)
from flywheel.annotation.rows import CODE_VERSION, shard_in
from flywheel.annotation.shard import TextLabeller, annotate_shard, room_for
from flywheel.annotation.spec import ShardResult, ShardSpec
from flywheel.annotation.spread import spread
from flywheel.annotation.stretches import Stretch, stretches_of, today
from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.artifacts.root_files import RootFiles
from flywheel.common.digests import file_digest
from flywheel.common.errors import ArtifactError, ConfigError
from flywheel.config import Config
from flywheel.promotion.champion import champion_folder
from flywheel.promotion.timeline import Timeline
from flywheel.workloads.workload import Workload

log = logging.getLogger(__name__)

SPEC_SUFFIX = ".spec.json"
_HOUR = 3600


class Work(BaseModel):
    """What is to be done for a span.

    Attributes:
        config: as it was when the work was planned; an edit of the file changes nothing of it.
        path: its folder in the artifact root.
        span: [from, to) in unix seconds.
        shards: names of those with new texts, or of another form than today's.
        counts: of the rows that were read; see `flywheel.annotation.spread.Spread`.
        stretches: who labels when.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Config
    path: str
    out: str
    workload_id: str
    client_id: str
    mode: str
    lag: int
    text: str
    span: tuple[int, int]
    classes: tuple[str, ...]
    shards: tuple[str, ...]
    counts: dict[str, int]
    stretches: tuple[Stretch, ...]

    def spec_path(self, shard: str) -> str:
        """Return where the spec of a shard is, in the artifact root."""
        return f"{self.path}/{shard}{SPEC_SUFFIX}"

    def read_spec(self, root: ArtifactRoot, shard: str) -> ShardSpec:
        """Return the spec of a shard, as it was planned."""
        return ShardSpec.model_validate(root.read_json(self.spec_path(shard)))

    def result_path(self, shard: str) -> str:
        """Return where the result of a shard is."""
        return f"{self.path}/{shard}.json"


def plan_work(config: Config, start: datetime, end: datetime, *, client_id: str = "") -> Work:
    """Read the sources once and write the specs of the shards of a span.

    Args:
        config: with mode, lag and place of the output in its section `annotation`.
        start, end: with their zone; texts published in [start, end).
        client_id: whose champions; empty: the config's.

    Raises:
        ConfigError, SourceError: there is nothing to read, or it cannot be read.
        ArtifactError: there is no champion (of today), or what one knows of cannot be told.
    """
    span = (int(start.timestamp()), int(end.timestamp()))
    if span[0] >= span[1]:
        raise ConfigError(f"from {start} to {end}: expected a time and a later one")
    if config.runtime.type == "nemo":
        raise ConfigError(
            "runtime.type: nemo: its students are its services' own; label with runtime local or kubernetes"
        )
    root = ArtifactRoot(config.artifacts.root)
    settings = config.annotation
    workload_id, client_id = Workload.load(config.workload).id, client_id or config.client_id
    if settings.mode == "champion":
        stretches = today(root, workload_id, client_id)
    else:
        month = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        since = int(month.timestamp()) - settings.lag - 24 * _HOUR
        stretches = stretches_of(Timeline(root, workload_id, client_id), since)
    out = RootFiles(place_of(config, workload_id, client_id))
    there = read_manifest(out)
    _check_same(there, config, workload_id, client_id, out)
    known = [*(there.classes if there else ()), *(c for one in stretches for c in one.classes)]
    path = f"annotations/work/{key_of('work', out.url)}"
    work = Work(
        config=config,
        path=path,
        out=out.url,
        workload_id=workload_id,
        client_id=client_id,
        mode=settings.mode,
        lag=settings.lag,
        text=settings.text,
        span=span,
        classes=tuple(dict.fromkeys(known)),
        shards=(),
        counts={},
        stretches=tuple(stretches),
    )
    return _with_shards(root, work, config, there)


def run_here(work: Work, opened: Callable[[Stretch], TextLabeller] | None = None) -> None:
    """Do all shards in this process, one after another; those that are finished are found.

    Commands and the DAG give each shard a process of its own; research code may do without.

    Args:
        opened: loads champions; None: `opener`.
    """
    root = ArtifactRoot(work.config.artifacts.root)
    for shard in unfinished(work):
        spec = work.read_spec(root, shard)
        result = annotate_shard(spec, opened or opener(spec))
        root.write_json(work.result_path(shard), {"result": result.model_dump(mode="json")})


def unfinished(work: Work) -> list[str]:
    """Return the shards that are still to be done."""
    root = ArtifactRoot(work.config.artifacts.root)
    return [
        shard
        for shard in work.shards
        if not is_finished(root, work.read_spec(root, shard), work.result_path(shard))
    ]


def read_work(root: ArtifactRoot, path: str) -> Work:
    """Return what was planned.

    Raises:
        ArtifactError: nothing was, or it is damaged.
    """
    try:
        return Work.model_validate(root.read_json(f"{path}/plan.json".lstrip("/")))
    except ValidationError as error:
        raise ArtifactError(f"{root.url}/{path}/plan.json: damaged: {error}; plan the span again") from None


def finish_work(work: Work) -> AnnotationManifest:
    """Write the manifest and the data card over all files, those of this span and of before.

    Raises:
        ArtifactError: a shard is not finished.
    """
    root, out = ArtifactRoot(work.config.artifacts.root), RootFiles(work.out)
    there = read_manifest(out)
    files = dict(there.files) if there else {}
    used = {(one.at, one.adapter): one for one in (there.champions if there else ())}
    for shard in work.shards:
        spec = work.read_spec(root, shard)
        result = result_of(root, work.result_path(shard))
        if result is None or result.key != spec.key:
            raise ArtifactError(
                f"{root.url}/{work.result_path(shard)}: the shard is not finished; start it again"
            )
        if result.file is not None:
            files[spec.path] = result.file
    used |= {(one.at, one.adapter): one for one in work.stretches if one.champion is not None}
    files = dict(sorted(files.items()))
    adapters = {adapter for file in files.values() for adapter in file.by_adapter}
    manifest = AnnotationManifest(
        workload_id=work.workload_id,
        client_id=work.client_id,
        mode="champion" if work.mode == "champion" else "point_in_time",
        lag=work.lag,
        text="hash" if work.text == "hash" else "keep",
        spans=joined([*(there.spans if there else ()), work.span]),
        classes=work.classes,
        rows=sum(file.rows for file in files.values()),
        labelled=sum(file.labelled for file in files.values()),
        months=months_of(files.values()),
        files=files,
        champions=tuple(
            sorted((one for one in used.values() if one.adapter in adapters), key=lambda one: one.at)
        ),
    ).sealed()
    with room_for(out.url):
        write_manifest(root, out, manifest, card_of(manifest))
    for shard in work.shards:  # its texts are in its file
        root.discard(f"{work.path}/{shard}.texts")
    return manifest


def place_of(config: Config, workload_id: str, client_id: str) -> str:
    """Return the folder or URL of a workload's and client's output."""
    whose = champion_folder(workload_id, client_id).removeprefix("champions/")
    base = config.annotation.out or f"{config.artifacts.root.rstrip('/')}/annotations"
    return f"{base.rstrip('/')}/{whose}/{config.annotation.mode}"


def is_finished(root: ArtifactRoot, spec: ShardSpec, result_path: str) -> bool:
    """Return whether a shard was done as its spec says, and its file is still what came out."""
    result = result_of(root, result_path)
    if result is None or result.key != spec.key:
        return False
    if result.file is None:
        return True
    out = RootFiles(spec.out)
    if not out.exists(spec.path):
        return False
    with root.scratch("annotation", key_of("look", spec.key)) as folder:
        local = folder / "file"
        out.get_file(spec.path, local)
        same = file_digest(local) == result.file.sha256
    root.discard_scratch("annotation", key_of("look", spec.key))
    return same


def result_of(root: ArtifactRoot, path: str) -> ShardResult | None:
    """Return the result of a shard; None where there is none that can be read."""
    if root.exists(path):
        with suppress(ArtifactError, ValidationError, KeyError, TypeError):
            return ShardResult.model_validate(root.read_json(path)["result"])
    return None


def opener(spec: ShardSpec) -> Callable[[Stretch], TextLabeller]:
    """Return what loads the champion of a stretch."""
    from flywheel.annotation.labelling import open_labeller

    return lambda stretch: open_labeller(spec, stretch)


def _with_shards(root: ArtifactRoot, work: Work, config: Config, there: AnnotationManifest | None) -> Work:
    """Write the texts and the spec of each shard; return the work with their names."""
    key = key_of("spread", work.path)
    texts: dict[str, str] = {}
    with room_for(f"{root.url}/{work.path}"), root.scratch("annotation", key) as scratch:
        found = spread(config, *work.span, scratch / "texts")
        for shard, texts_file in found.shards.items():
            texts[shard] = file_digest(texts_file)
            root.put_file(texts_file, f"{work.path}/{shard}.texts")
        root.discard_scratch("annotation", key)
    form = (work.classes, work.text, CODE_VERSION)
    if there and (there.classes, there.text, there.code_version) != form:
        for file in there.files.values():  # no new texts, and yet another form than today's
            texts.setdefault(shard_in(file.path), "")
    for shard, digest in texts.items():
        spec = ShardSpec(
            artifact_root=config.artifacts.root,  # as the config has it: a pod's project is elsewhere
            out=place_of(config, work.workload_id, work.client_id),
            name=shard,
            texts=f"{work.path}/{shard}.texts" if digest else "",
            texts_sha256=digest,
            stretches=work.stretches,
            mode="champion" if work.mode == "champion" else "point_in_time",
            lag=work.lag,
            classes=work.classes,
            text="hash" if work.text == "hash" else "keep",
            students=config.nims,
            batch_size=config.evaluation_config.batch_size,
            log_level=config.logging_config.level,
        )
        root.write_json(work.spec_path(shard), spec.model_dump(mode="json"))
    work = work.model_copy(update={"shards": tuple(sorted(texts)), "counts": found.counts})
    root.write_json(f"{work.path}/plan.json", work.model_dump(mode="json"))
    log.info("%s", lines_of(work))
    return work


def lines_of(work: Work) -> str:
    """Return in a line what was read, and what is to be done."""
    counts = ", ".join(f"{name} {count:,}" for name, count in work.counts.items() if count)
    return f"{len(work.shards)} shards; texts: {counts or 'none'}"


def _check_same(
    there: AnnotationManifest | None, config: Config, workload_id: str, client_id: str, out: RootFiles
) -> None:
    """Refuse an output that was made with another lag, mode, or for somebody else."""
    if there is None:
        return
    asked = (workload_id, client_id, config.annotation.mode, config.annotation.lag)
    found = (there.workload_id, there.client_id, there.mode, there.lag)
    if asked != found:
        raise ConfigError(
            f"{out.url}: holds rows of workload, client, mode and lag {found}, asked for are {asked}; label "
            "into another folder (annotation.out, --out)"
        )
