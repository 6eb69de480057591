"""What somebody who may write everywhere does to a labelled history, for the checker to find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.annotation.manifest import digest_of, months_of, seal_path
from flywheel.annotation.spec import ShardRows
from flywheel.annotation.statistics import statistics_of
from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Config


def change_rows(out: str, path: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Have the last row of a file say something else."""
    file = Path(out) / path
    table = pq.read_table(file, partitioning=None)
    rows = table.to_pylist()
    change(rows[-1])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file, compression="zstd")


def seal_again(config: Config, out: str) -> None:
    """Have manifest and seal say what the files are now, as one who may write everywhere would."""
    manifest = orjson.loads((Path(out) / "manifest.json").read_bytes())
    for path in manifest["files"]:
        manifest["files"][path] = statistics_of(Path(out) / path, path).model_dump(mode="json")
    files = [ShardRows.model_validate(one) for one in manifest["files"].values()]
    manifest["months"] = {name: one.model_dump(mode="json") for name, one in months_of(files).items()}
    manifest["digest"] = digest_of(manifest)
    (Path(out) / "manifest.json").write_bytes(orjson.dumps(manifest))
    root = ArtifactRoot(config.artifacts.root)
    root.write_json(seal_path(out), {"out": out, "digest": manifest["digest"]})
