"""A row as the GPU kernels read it: token buckets, tiles of queries and of keys, ranges of the loss.

Attention in a row has three parts. The prefix within itself, causal, and all own tokens against the whole
prefix, dense, are left to the library's attention. The rest is each sample within itself: the tiles here list
that part's work, so its kernels compute no pair of two samples and need no padding to a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flywheel.students.rows import Row

# Own tokens are padded to a multiple of this: few shapes mean few plans of the library's attention.
BUCKET = 128
LOSS_BUCKET = 64
# Tables of tiles are padded with empty ones to a multiple of this.
TILE_BUCKET = 64
# Samples up to so many own tokens are one tile of keys.
TILE = 128
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Who attends to whom, for queries [Tq] over keys [T].

    Attributes:
        prefix: P, keys that all own queries see.
        prefix_queries: The first so many queries are the prefix itself (0 or P).
        queries, keys: Tq and T, padding included.
        places: int32 [Tq]: a query's place in its own sample, -1 in padding.
        query_tiles: int32 [n, 4]: first query, queries, first key of the sample, keys of the sample.
        key_tiles: int32 [m, 5]: first key, keys, first key of the sample, first query that may see the tile,
            end of the sample's queries.
        longest: Keys of the longest sample.
        query_sample, key_sample: int64 [Tq], [T]: 0 is the prefix, 1.. the samples, -1 padding.
        until: int32 [T]: the place from which on its sample's queries do not see a key; None: all later do.
    """

    prefix: int
    prefix_queries: int
    queries: int
    keys: int
    places: Tensor
    query_tiles: Tensor
    key_tiles: Tensor
    longest: int
    query_sample: Tensor
    key_sample: Tensor
    until: Tensor | None = None

    @property
    def own_queries(self) -> int:
        """Queries after the prefix, padding included."""
        return self.queries - self.prefix_queries

    @property
    def is_short(self) -> bool:
        """Whether every sample's own tokens are one tile of keys."""
        return self.longest <= TILE


@dataclass(frozen=True, slots=True)
class RowPart:
    """A stretch of a row that sees only itself: a prefix and its samples, all of one adapter.

    Attributes:
        tokens, asked: Its range among the row's T tokens, and among its N places of the loss.
        full: Attention of all layers but the last: all its tokens ask.
        last: Attention of the last layer: only its places of the loss ask.
        answers: Answer tokens that count, without padding.
    """

    tokens: slice
    asked: slice
    full: AttentionPlan
    last: AttentionPlan
    answers: int


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A row on its device.

    Attributes:
        tokens, positions: int64, int32 [T], T = P + own tokens + padding.
        loss_rows: int64 [N]: the rows of the last layer that the loss looks at, padded with row T - 1.
        targets: int64 [N]; -1 in padding.
        parts: One, or several that are computed side by side (`join_rows`).
    """

    tokens: Tensor
    positions: Tensor
    loss_rows: Tensor
    targets: Tensor
    parts: tuple[RowPart, ...]

    @property
    def answers(self) -> int:
        """Answer tokens that count."""
        return sum(part.answers for part in self.parts)


def join_rows(rows: Sequence[DeviceRow]) -> DeviceRow:
    """Return rows as one, whose parts see nothing of each other: one pass over the weights serves all."""
    parts: list[RowPart] = []
    token = asked = 0
    loss_rows = []
    for row in rows:
        loss_rows.append(row.loss_rows + token)
        for part in row.parts:
            tokens = slice(part.tokens.start + token, part.tokens.stop + token)
            places = slice(part.asked.start + asked, part.asked.stop + asked)
            parts.append(replace(part, tokens=tokens, asked=places))
        token, asked = token + len(row.tokens), asked + len(row.loss_rows)
    return DeviceRow(
        tokens=torch.cat([row.tokens for row in rows]),
        positions=torch.cat([row.positions for row in rows]),
        loss_rows=torch.cat(loss_rows),
        targets=torch.cat([row.targets for row in rows]),
        parts=tuple(parts),
    )


def place_row(row: Row, device: torch.device, tile: int = TILE, bucket: int = BUCKET) -> DeviceRow:
    """Lay out a row for the kernels and copy it to its device.

    Args:
        row: The row.
        device: Where it is computed.
        tile: Tokens in a tile of the block-causal part.
        bucket: Multiple to which the row is padded.
    """
    lengths, prefix = np.diff(row.samples), row.prefix
    real = prefix + int(lengths.sum())
    total = -(-real // bucket) * bucket
    pad = total - real
    if pad == 0 and len(row.predicting) % LOSS_BUCKET:
        pad, total = bucket, total + bucket  # the loss's padding asks from a padded row
    answers = len(row.predicting)
    asked = -(-answers // LOSS_BUCKET) * LOSS_BUCKET

    def padded(values: Tensor, length: int, fill: int, dtype: torch.dtype) -> Tensor:
        out = torch.full((length,), fill, dtype=dtype)
        out[: len(values)] = values
        return out.to(device, non_blocking=True)

    segments = ([prefix] if prefix else []) + lengths.tolist()
    starts = np.cumsum([0, *segments])[:-1]
    places = np.full(total, -1)
    key_sample = np.full(total, -1)
    for index, (start, length) in enumerate(zip(starts, segments, strict=True)):
        places[start : start + length] = np.arange(length)
        key_sample[start : start + length] = index if prefix else index + 1
    until = None
    if row.until is not None:
        until = np.full(total, np.iinfo(np.int32).max)
        until[prefix:real] = row.until
    predicting = row.predicting.numpy()
    last_places = np.full(asked, -1)
    last_places[:answers] = places[predicting]
    last_sample = np.full(asked, -1)
    last_sample[:answers] = key_sample[predicting]
    own_starts = np.cumsum([prefix, *lengths])[:-1]
    real_keys = (own_starts, lengths, real, pad)
    # Queries of the full plan are the keys themselves; of the last, the places that predict.
    full = _tiles(real_keys, (own_starts, lengths, real, pad), places, tile)
    asking = (row.predicted[:-1], np.diff(row.predicted), answers, asked - answers)
    last = _tiles(real_keys, asking, last_places, tile)

    def plan(tiles: tuple[Ints, Ints], places: Ints, sample: Ints, prefix_queries: int) -> AttentionPlan:
        def put(array: Ints) -> Tensor:
            return torch.from_numpy(array.astype(np.int32)).to(device, non_blocking=True)

        return AttentionPlan(
            prefix=prefix,
            prefix_queries=prefix_queries,
            queries=len(places),
            keys=total,
            places=put(places),
            query_tiles=put(tiles[0]),
            key_tiles=put(tiles[1]),
            longest=int(lengths.max()),
            query_sample=torch.from_numpy(sample).to(device),
            key_sample=torch.from_numpy(key_sample).to(device),
            until=None if until is None else put(until),
        )

    return DeviceRow(
        tokens=padded(row.tokens, total, 0, torch.int64),
        positions=padded(row.positions, total, 0, torch.int32),
        loss_rows=padded(row.predicting, asked, total - 1, torch.int64),
        targets=padded(row.targets, asked, -1, torch.int64),
        parts=(
            RowPart(
                tokens=slice(0, total),
                asked=slice(0, asked),
                full=plan(full, places, key_sample, prefix),
                last=plan(last, last_places, last_sample, 0),
                answers=answers,
            ),
        ),
    )


Spans = tuple[Ints, Ints, int, int]  # starts and counts of the samples, first row of padding, rows of padding


def _tiles(keys: Spans, queries: Spans, places: Ints, tile: int) -> tuple[Ints, Ints]:
    """Return (query tiles, key tiles); see `AttentionPlan`.

    Padding has tiles too, of queries that see no key of a sample and of keys that no query sees, so that the
    kernels write every row. A key tile of padding comes with a share of the queries in padding.
    """
    query_tiles: list[tuple[int, ...]] = []
    key_tiles: list[tuple[int, ...]] = []
    for key, length, query, count in zip(keys[0], keys[1], queries[0], queries[1], strict=True):
        for start in range(0, count, tile):
            query_tiles.append((query + start, min(tile, count - start), key, length))
        seen = places[query : query + count]
        for start in range(0, length, tile):
            first = query + int(np.searchsorted(seen, start))
            key_tiles.append((key + start, min(tile, length - start), key, first, query + count))
    for start in range(0, max(keys[3], queries[3]), tile):
        key_count = min(max(keys[3] - start, 0), tile)
        query_count = min(max(queries[3] - start, 0), tile)
        first = queries[2] + start
        if query_count:
            query_tiles.append((first, query_count, keys[2], 0))
        key_tiles.append((keys[2] + start, key_count, keys[2] + start, first, first + query_count))
    return _table(query_tiles, 4), _table(key_tiles, 5)


def _table(rows: list[tuple[int, ...]], columns: int) -> Ints:
    """Return rows as an array, padded with zeros: tiles that hold nothing."""
    table = np.zeros((-(-len(rows) // TILE_BUCKET) * TILE_BUCKET, columns), np.int64)
    table[: len(rows)] = rows
    return table
