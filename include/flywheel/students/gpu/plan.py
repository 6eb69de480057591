"""A row as the GPU kernels read it: token buckets, tiles of queries and of keys, ranges of the loss.

Attention in a row has three parts. The prefix within itself, causal, and all own tokens against the whole
prefix, dense, are left to the library's attention. The rest is each sample within itself: the tiles here list
that part's work, so its kernels compute no pair of two samples and need no padding to a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flywheel.students.rows import Row

# Rows are padded to a multiple of this, and of a 32nd of their length rounded down to a power of two: those
# of a job differ by a few tokens in a hundred, and each shape costs a CUDA graph of its own.
BUCKET, BUCKET_SHARE = 128, 32
LOSS_BUCKET = 128
# Tables of tiles are padded with empty ones to a multiple of this.
TILE_BUCKET = 64
# Samples up to so many own tokens are one tile of keys.
TILE = 128
# Values of four bytes; so begins each tensor of a row.
ALIGNED = 32
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
        query_sample, key_sample: int32 [Tq], [T]: 0 is the prefix, 1.. the samples, -1 padding.
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
class DeviceRow:
    """A row on its device; its tensors, those of its plans too, are views of one.

    Attributes:
        flat: int32, all of it: one copy to the device, and one into a graph's row.
        tokens, positions: int32 [T], T = P + own tokens + padding; the own ones alone where `before` is P.
        loss_rows: int32 [N]: the rows of the last layer that the loss looks at, padded with row T - 1.
        targets: int32 [N]; -1 in padding.
        full: Attention of all layers but the last: all its tokens ask.
        last: Attention of the last layer: only its places of the loss ask.
        answers: Answer tokens that count, without padding.
        before: Keys in the buffers before the row's own: P where the prefix was computed earlier, else 0.
    """

    flat: Tensor
    tokens: Tensor
    positions: Tensor
    loss_rows: Tensor
    targets: Tensor
    full: AttentionPlan
    last: AttentionPlan
    answers: int
    before: int = 0


def place_row(  # long: one layout, whose parts need the same numbers
    row: Row,
    device: torch.device,
    *,
    after_prefix: bool = False,
    tile: int = TILE,
    bucket: int | None = None,
) -> DeviceRow:
    """Lay out a row for the kernels and copy it to its device.

    Args:
        row: The row.
        device: Where it is computed.
        after_prefix: Whether the prefix is left out, as its keys and values are there already.
        tile: Tokens in a tile of the block-causal part.
        bucket: Multiple to which the row is padded; default: by its length.
    """
    lengths, prefix, answers = np.diff(row.samples), row.prefix, len(row.predicting)
    before = prefix if after_prefix else 0
    own = int(lengths.sum())
    asked = _padded(answers, LOSS_BUCKET)
    # The loss's padding asks from a padded row.
    total = _padded(prefix - before + own + (asked > answers), bucket or _bucket(prefix - before + own))
    keys, real = before + total, prefix + own  # the row's place among the keys begins at `before`
    segments = np.array([prefix, *lengths] if prefix else lengths)
    key_sample, key_places = np.full(keys, -1), np.full(keys, -1)
    key_sample[:real] = np.repeat(np.arange(len(segments)) + (0 if prefix else 1), segments)
    key_places[:real] = _counted(segments)
    predicting = row.predicting.numpy()
    last_places, last_sample = np.full(asked, -1), np.full(asked, -1)
    last_places[:answers], last_sample[:answers] = key_places[predicting], key_sample[predicting]
    starts = row.samples[:-1] + prefix
    own_keys = (starts, lengths, real, keys - real)
    # Queries of the full plan are the row's tokens; of the last, the places that predict.
    full = _tiles(own_keys, (starts - before, lengths, real - before, keys - real), tile)
    asking = (row.predicted[:-1], np.diff(row.predicted), answers, asked - answers)
    last = _tiles(own_keys, asking, tile)
    parts = [
        _filled(row.tokens.numpy()[before:], total, 0),
        _filled(row.positions.numpy()[before:], total, 0),
        _filled(predicting - before, asked, total - 1),
        _filled(row.targets.numpy(), asked, -1),
        key_sample,
        *(key_places[before:], *full, key_sample[before:]),
        *(last_places, *last, last_sample),
    ]
    if row.until is not None:
        until = np.full(keys, np.iinfo(np.int32).max)
        until[prefix:real] = row.until
        parts.append(until)
    flat, views = _put(parts, device)
    tokens, positions, loss_rows, targets, samples = views[:5]
    seen_until = views[13] if row.until is not None else None

    def plan(first: int, places: Tensor, queries: Tensor, tiles: Tensor, sample: Tensor) -> AttentionPlan:
        longest = int(lengths.max())
        return AttentionPlan(
            prefix, first, len(places), keys, places, queries, tiles, longest, sample, samples, seen_until
        )

    return DeviceRow(
        flat=flat,
        tokens=tokens,
        positions=positions,
        loss_rows=loss_rows,
        targets=targets,
        full=plan(prefix - before, *views[5:9]),
        last=plan(0, *views[9:13]),
        answers=answers,
        before=before,
    )


def _put(parts: Sequence[Ints], device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Copy arrays to a device as one int32 tensor, without waiting for it; return it and its parts.

    Parts are aligned: for addresses that are not, Triton compiles kernels of their own.
    """
    ends = np.cumsum([_padded(part.size, ALIGNED) for part in parts])
    host = torch.zeros(int(ends[-1]), dtype=torch.int32, pin_memory=device.type == "cuda")
    places = [slice(end - _padded(part.size, ALIGNED), end) for end, part in zip(ends, parts, strict=True)]
    values = host.numpy()
    for place, part in zip(places, parts, strict=True):
        values[place][: part.size] = part.ravel()
    flat = host.to(device, non_blocking=True)
    views = [flat[place][: part.size].view(part.shape) for place, part in zip(places, parts, strict=True)]
    return flat, views


def _padded(count: int, bucket: int) -> int:
    return -(-count // bucket) * bucket


def _bucket(tokens: int) -> int:
    return max(BUCKET, 1 << (max(tokens // BUCKET_SHARE, 1).bit_length() - 1))


def _filled(values: NDArray[Any], length: int, fill: int) -> Ints:
    out = np.full(length, fill, np.int64)
    out[: len(values)] = values
    return out


def _counted(counts: Ints) -> Ints:
    """Return 0, 1, .. for each of some counts, one after another."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) - np.repeat(ends - counts, counts)


Spans = tuple[Ints, Ints, int, int]  # starts and counts of the samples, first row of padding, rows of padding


def _tiles(keys: Spans, queries: Spans, tile: int) -> tuple[Ints, Ints]:
    """Return (query tiles, key tiles); see `AttentionPlan`.

    The queries of a sample are at its last places. Padding has tiles too, of queries that see no key of a
    sample and of keys that no query sees, so that the kernels write every row. A key tile of padding comes
    with a share of the queries in padding.
    """
    (key, length, key_padding, key_pads), (query, count, query_padding, query_pads) = keys, queries
    of, start = _pieces(count, tile)
    query_tiles = [query[of] + start, np.minimum(tile, count[of] - start), key[of], length[of]]
    of, start = _pieces(length, tile)
    first = query[of] + np.clip(start - (length - count)[of], 0, count[of])
    key_tiles = [key[of] + start, np.minimum(tile, length[of] - start), key[of], first, (query + count)[of]]
    pads = np.arange(0, max(key_pads, query_pads), tile)
    key_counts, query_counts = (np.clip(most - pads, 0, tile) for most in (key_pads, query_pads))
    at, ask = key_padding + pads, query_padding + pads
    asked = query_counts > 0
    query_pad = [ask[asked], query_counts[asked], np.full(int(asked.sum()), key_padding), 0 * ask[asked]]
    key_pad = [at, key_counts, at, ask, ask + query_counts]
    return _table(query_tiles, query_pad), _table(key_tiles, key_pad)


def _pieces(counts: Ints, tile: int) -> tuple[Ints, Ints]:
    """Return, for pieces of at most a tile, which of the counts each is of and where in it it begins."""
    pieces = -(-counts // tile)
    return np.repeat(np.arange(len(counts)), pieces), _counted(pieces) * tile


def _table(columns: Sequence[Ints], more: Sequence[Ints]) -> Ints:
    """Return columns as an array, padded with zeros: tiles that hold nothing."""
    rows = len(columns[0]) + len(more[0])
    table = np.zeros((_padded(rows + 1, TILE_BUCKET), len(columns)), np.int64)
    table[:rows] = np.concatenate([np.stack(columns, 1), np.stack(more, 1)])
    return table
