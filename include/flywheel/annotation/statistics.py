"""What a file of rows holds, counted in one pass over its row groups."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from flywheel.annotation.spec import ShardRows
from flywheel.common.digests import file_digest


def statistics_of(path: Path, name: str) -> ShardRows:
    """Return what a file holds.

    Args:
        name: its path in the output.
    """
    classes: Counter[str] = Counter()
    sums: dict[str, float] = {}
    adapters: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    first = last = None
    with pq.ParquetFile(path) as file:
        rows = file.metadata.num_rows
        for group in range(file.num_row_groups):
            table = file.read_row_group(
                group, columns=["label", "probability", "adapter", "reason", "published"]
            )
            columns = table.to_pydict()
            published = columns["published"]
            first = published[0] if first is None else first
            last = published[-1]
            for label, probability in zip(columns["label"], columns["probability"], strict=True):
                if label is not None:
                    classes[label] += 1
                    sums[label] = sums.get(label, 0.0) + probability
            adapters.update(adapter for adapter in columns["adapter"] if adapter is not None)
            reasons.update(reason for reason in columns["reason"] if reason is not None)
    assert first is not None
    return ShardRows(
        path=name,
        sha256=file_digest(path),
        size=path.stat().st_size,
        rows=rows,
        labelled=sum(classes.values()),
        first=int(first.timestamp()),
        last=int(last.timestamp()) if last else int(first.timestamp()),
        by_class={label: (classes[label], round(sums[label], 4)) for label in sorted(classes)},
        by_adapter=dict(sorted(adapters.items())),
        reasons=dict(sorted(reasons.items())),
    )
