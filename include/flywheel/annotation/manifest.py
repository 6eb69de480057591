"""The manifest of a labelled history: what its files hold, who labelled them, and one digest over it all.

    OUT/rows/month=2019-03/from-01.parquet     the rows of a shard (flywheel.annotation.rows)
    OUT/manifest.json                     this, with `digest`, the SHA-256 of all the rest of it
    OUT/README.md                         the data card, made from it
    annotations/seals/<key>.json          in the artifact root: the digest once more, so that a manifest which
                                          was changed together with its digest is told

Nothing in it says when or where it was written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from flywheel.annotation.rows import CODE_VERSION, SCHEMA_VERSION, shard_in
from flywheel.annotation.spec import ShardRows
from flywheel.annotation.stretches import Stretch
from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.artifacts.root_files import RootFiles
from flywheel.common.errors import ArtifactError
from flywheel.config.annotation import Mode

MANIFEST = "manifest.json"
CARD = "README.md"


class Month(BaseModel):
    """What the rows of a month are.

    Attributes:
        labelled: rows with a label.
        by_class: rows of each class, and their mean probability.
        by_adapter: rows that each adapter labelled.
        reasons: rows without a label, by why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    labelled: int
    by_class: dict[str, tuple[int, float]]
    by_adapter: dict[str, int]
    reasons: dict[str, int]


class AnnotationManifest(BaseModel):
    """What a labelled history consists of.

    Attributes:
        spans: the times that were asked for, [from, to) in unix seconds, joined.
        lag: seconds between a champion's cutoff and a text, at least.
        classes: in the order of their columns, whose names each file's metadata has.
        files: by path.
        champions: who labelled any row, in the order of their decisions, as the timeline said when they did.
        digest: SHA-256 of all the above, as JSON with sorted keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    code_version: int = CODE_VERSION
    workload_id: str
    client_id: str
    mode: Mode
    lag: int
    text: Literal["keep", "hash"]
    spans: tuple[tuple[int, int], ...]
    classes: tuple[str, ...]
    rows: int
    labelled: int
    months: dict[str, Month]
    files: dict[str, ShardRows]
    champions: tuple[Stretch, ...]
    digest: str = ""

    def sealed(self) -> AnnotationManifest:
        """Return it with its digest."""
        return self.model_copy(update={"digest": digest_of(self.model_dump(mode="json"))})


def digest_of(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's JSON object, but for the digest in it."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)).hexdigest()


def seal_path(out: str) -> str:
    """Return where the artifact root keeps the digest of an output's manifest."""
    return f"annotations/seals/{key_of('seal', out)}.json"


def write_manifest(root: ArtifactRoot, out: RootFiles, manifest: AnnotationManifest, card: str) -> None:
    """Write a manifest, its seal and its data card, each whole or not at all."""
    out.write_bytes(CARD, card.encode())
    root.write_json(seal_path(out.url), {"out": out.url, "digest": manifest.digest})
    option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    out.write_bytes(MANIFEST, orjson.dumps(manifest.model_dump(mode="json"), option=option))


def read_manifest(out: RootFiles) -> AnnotationManifest | None:
    """Return the manifest of an output; None where there is none yet.

    Raises:
        ArtifactError: it is damaged, or of another version of the schema.
    """
    if not out.exists(MANIFEST):
        return None
    content = out.read_json(MANIFEST)
    place = f"{out.url}/{MANIFEST}"
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{place}: schema_version {version}, expected {SCHEMA_VERSION}; label into another folder (--out)"
        )
    try:
        return AnnotationManifest.model_validate(content)
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        raise ArtifactError(f"{place}: damaged: {key}: {detail['msg']}; label the span anew") from None


def months_of(files: Iterable[ShardRows]) -> dict[str, Month]:
    """Return what the rows of each month are, summed over its files."""
    by_month: dict[str, list[ShardRows]] = {}
    for file in files:
        by_month.setdefault(shard_in(file.path)[:7], []).append(file)
    return {month: _month(by_month[month]) for month in sorted(by_month)}


def joined(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return spans in order, those that touch as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def _month(files: list[ShardRows]) -> Month:
    classes: dict[str, tuple[int, float]] = {}
    adapters: dict[str, int] = {}
    reasons: dict[str, int] = {}
    for file in files:
        for label, (rows, total) in file.by_class.items():
            before = classes.get(label, (0, 0.0))
            classes[label] = (before[0] + rows, before[1] + total)
        for counts, more in ((adapters, file.by_adapter), (reasons, file.reasons)):
            for name, rows in more.items():
                counts[name] = counts.get(name, 0) + rows
    return Month(
        rows=sum(file.rows for file in files),
        labelled=sum(file.labelled for file in files),
        by_class={label: (n, round(total / n, 4)) for label, (n, total) in sorted(classes.items())},
        by_adapter=dict(sorted(adapters.items())),
        reasons=dict(sorted(reasons.items())),
    )
