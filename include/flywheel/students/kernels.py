"""Attention kernels: one part of an attention and its exact share of the gradient.

A query may see keys in several parts (the prefix, its own sample). With the log-sum-exp of each part's
scores the parts are joined into the attention over all of them. Given the *joined* output and log-sum-exp,
the backward pass of a part yields its share of the whole gradient: ds = p * (dp - delta), where
p = exp(score - lse) and delta = sum(d_out * out), needs nothing of the other parts (FlashAttention-2,
Dao 2023, arXiv 2307.08691).

All kernels take and return flat tensors:

    q, out, d_out  [queries, H, D]     k, v  [keys, Hkv, D]     lse  [queries, H] fp32, natural logarithm
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from flywheel.students.rows import Group, Spans

# The log-sum-exp of queries in padding: exp(score - PADDING_LSE) is 0, so that they have no gradient.
PADDING_LSE = 1e9


class Kernel(Protocol):
    """Attention of queries to the keys of their span."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> tuple[Tensor, Tensor]:
        """Return (out, lse)."""

    def backward(
        self,
        d_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        spans: Spans,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of q, k and v, given the joined `out` and `lse`."""


def kernel_for(tensor: Tensor) -> Kernel:
    """Return the kernel for tensors like this one."""
    if tensor.device.type == "cpu":
        return _CPU
    if tensor.dtype in (torch.bfloat16, torch.float16):
        return _CUDA
    return _PLAIN


# What the queries of a batch see: "all" keys, the keys up to their own place ("causal"), or those of a mask
# that broadcasts to [B, H, Lq, Lk].
Mask = Tensor | Literal["all", "causal"]


class PlainKernel:
    """Spans as padded batches, with all scores as one matrix: on any device, in any precision.

    Batches: q, out [B, H, Lq, D]; k, v [B, H, Lk, D], repeated where query heads share them; lse [B, H, Lq].
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> tuple[Tensor, Tensor]:
        """Return (out, lse) of a batch."""
        scores = _scores(q, k, mask, scale)  # [B, H, Lq, Lk]
        lse = scores.logsumexp(-1)
        return (scores - lse.unsqueeze(-1)).exp().to(v.dtype) @ v, lse

    def attend_backward(
        self,
        d_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        mask: Mask,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of a batch's q, k and v."""
        shares = (_scores(q, k, mask, scale) - lse.unsqueeze(-1)).exp()  # [B, H, Lq, Lk]
        delta = (d_out * out).float().sum(-1, keepdim=True)  # [B, H, Lq, 1]
        d_scores = (shares * ((d_out @ v.transpose(-1, -2)).float() - delta) * scale).to(q.dtype)
        return d_scores @ k, d_scores.transpose(-1, -2) @ q, shares.to(q.dtype).transpose(-1, -2) @ d_out

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> tuple[Tensor, Tensor]:
        """See `Kernel`."""
        repeats = q.shape[1] // k.shape[1]
        if repeats > 1 and spans.is_one_block and not spans.causal:
            # Query heads that share keys are more queries of one head, as all of them see all keys.
            out, lse = self.forward(_fold(q, repeats), k, v, spans, scale)
            return _unfold(out, repeats), _unfold(lse, repeats)
        k, v = _repeat_heads(k, repeats), _repeat_heads(v, repeats)
        if spans.is_one_block:
            out, lse = self.attend(_batch(q), _batch(k), _batch(v), _mask(spans), scale)
            return out.squeeze(0).transpose(0, 1), lse.squeeze(0).transpose(0, 1)
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)
        for group in spans.groups:
            out_batch, lse_batch = self.attend(
                _pad(q[group.queries], group.query_of_cell, group.batch),
                _pad(k[group.keys], group.key_of_cell, group.batch),
                _pad(v[group.keys], group.key_of_cell, group.batch),
                _mask(spans, group, q.device),
                scale,
            )
            cells = group.query_cells.to(q.device)
            out[group.queries] = _unpad(out_batch, cells)
            lse[group.queries] = lse_batch.transpose(1, 2).flatten(0, 1).index_select(0, cells)
        return out, lse

    def backward(
        self,
        d_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        spans: Spans,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Kernel`."""
        repeats = q.shape[1] // k.shape[1]
        if repeats > 1 and spans.is_one_block and not spans.causal:
            d_out, q, out, lse = (_fold(tensor, repeats) for tensor in (d_out, q, out, lse))
            d_q, d_k, d_v = self.backward(d_out, q, k, v, out, lse, spans, scale)
            return _unfold(d_q, repeats), d_k, d_v
        k, v = _repeat_heads(k, repeats), _repeat_heads(v, repeats)
        if spans.is_one_block:
            shares = self.attend_backward(
                _batch(d_out),
                _batch(q),
                _batch(k),
                _batch(v),
                _batch(out),
                lse.transpose(0, 1).unsqueeze(0),
                _mask(spans),
                scale,
            )
            d_q, d_k, d_v = (share.squeeze(0).transpose(0, 1) for share in shares)
            return d_q, _sum_heads(d_k, repeats), _sum_heads(d_v, repeats)
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for group in spans.groups:
            at, to = group.queries, group.keys
            query_cells, key_cells = group.query_cells.to(q.device), group.key_cells.to(q.device)
            # Queries in padding must have no gradient: zero for theirs, and shares exp(score - lse) of zero.
            padded = group.batch * group.longest_query
            d_out_cells = d_out.new_zeros((padded, *d_out.shape[1:])).index_copy_(0, query_cells, d_out[at])
            lse_cells = lse.new_full((padded, lse.shape[1]), PADDING_LSE).index_copy_(0, query_cells, lse[at])
            shares = self.attend_backward(
                _as_batch(d_out_cells, group.batch),
                _pad(q[at], group.query_of_cell, group.batch),
                _pad(k[to], group.key_of_cell, group.batch),
                _pad(v[to], group.key_of_cell, group.batch),
                _pad(out[at], group.query_of_cell, group.batch),
                _as_batch(lse_cells, group.batch),
                _mask(spans, group, q.device),
                scale,
            )
            d_q[at] = _unpad(shares[0], query_cells)
            d_k[to], d_v[to] = _unpad(shares[1], key_cells), _unpad(shares[2], key_cells)
        return d_q, _sum_heads(d_k, repeats), _sum_heads(d_v, repeats)


class CpuKernel(PlainKernel):
    """PyTorch's flash attention for the CPU, which never holds the score matrix."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> tuple[Tensor, Tensor]:
        """See `PlainKernel`."""
        if isinstance(mask, Tensor):  # small ones: the answers' places in their own samples
            return super().attend(q, k, v, mask, scale)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, mask == "causal", scale=scale
        )
        return out, lse

    def attend_backward(
        self,
        d_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        mask: Mask,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `PlainKernel`."""
        if isinstance(mask, Tensor):
            return super().attend_backward(d_out, q, k, v, out, lse, mask, scale)
        d_q, d_k, d_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            d_out, q, k, v, out, lse, 0.0, mask == "causal", scale=scale
        )
        return d_q, d_k, d_v


class CudaKernel:
    """PyTorch's flash attention over spans of any length, without padding; bf16 and fp16 alone.

    Spans whose keys are seen by some of the later queries only go to `PlainKernel`: they are short.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> tuple[Tensor, Tensor]:
        """See `Kernel`."""
        if spans.until is not None:
            return _PLAIN.forward(q, k, v, spans, scale)
        queries, keys, longest_query, longest_key = _span_ends(spans, q)
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, queries, keys, longest_query, longest_key, 0.0, spans.causal, False, scale=scale
        )  # lse: [H, queries]
        return out, lse.transpose(0, 1)

    def backward(
        self,
        d_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        spans: Spans,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Kernel`."""
        queries, keys, longest_query, longest_key = _span_ends(spans, q)
        no_dropout = torch.empty(2, dtype=torch.uint64, device=q.device)
        d_q, d_k, d_v = torch.ops.aten._flash_attention_backward(
            d_out,
            q,
            k,
            v,
            out,
            lse.transpose(0, 1).contiguous(),
            queries,
            keys,
            longest_query,
            longest_key,
            0.0,
            spans.causal,
            no_dropout,
            no_dropout,
            scale=scale,
        )
        return d_q, d_k, d_v


_PLAIN, _CPU, _CUDA = PlainKernel(), CpuKernel(), CudaKernel()


def _span_ends(spans: Spans, like: Tensor) -> tuple[Tensor, Tensor, int, int]:
    queries = torch.from_numpy(spans.queries).to(like.device, torch.int32)
    keys = torch.from_numpy(spans.keys).to(like.device, torch.int32)
    return queries, keys, int(np.diff(spans.queries).max()), int(np.diff(spans.keys).max())


def _scores(q: Tensor, k: Tensor, mask: Mask, scale: float) -> Tensor:
    scores = (q @ k.transpose(-1, -2)).float() * scale  # [B, H, Lq, Lk]
    if isinstance(mask, Tensor):
        return scores.masked_fill(~mask, -torch.inf)
    if mask == "causal":
        return scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), -torch.inf)
    return scores


def _mask(spans: Spans, group: Group | None = None, device: torch.device | None = None) -> Mask:
    if group is not None and group.visible is not None:
        return group.visible.to(device)
    return "causal" if spans.causal else "all"


def _repeat_heads(tensor: Tensor, repeats: int) -> Tensor:
    """[L, Hkv, D] -> [L, Hkv * repeats, D]."""
    return tensor if repeats == 1 else tensor.repeat_interleave(repeats, dim=1)


def _sum_heads(gradient: Tensor, repeats: int) -> Tensor:
    """[L, Hkv * repeats, D] -> [L, Hkv, D]."""
    if repeats == 1:
        return gradient
    return gradient.reshape(len(gradient), -1, repeats, gradient.shape[-1]).sum(2)


def _fold(tensor: Tensor, repeats: int) -> Tensor:
    """[L, Hkv * repeats, ...] -> [L * repeats, Hkv, ...]; a view where Hkv is 1."""
    grouped = tensor.reshape(len(tensor), -1, repeats, *tensor.shape[2:])
    return grouped.transpose(1, 2).reshape(len(tensor) * repeats, -1, *tensor.shape[2:])


def _unfold(tensor: Tensor, repeats: int) -> Tensor:
    """[L * repeats, Hkv, ...] -> [L, Hkv * repeats, ...]."""
    grouped = tensor.reshape(-1, repeats, *tensor.shape[1:])
    return grouped.transpose(1, 2).reshape(len(grouped), -1, *tensor.shape[2:])


def _batch(tensor: Tensor) -> Tensor:
    """[L, H, D] -> [1, H, L, D], a view."""
    return tensor.transpose(0, 1).unsqueeze(0)


def _as_batch(cells: Tensor, batch: int) -> Tensor:
    """[B * longest, H, ...] -> [B, H, longest, ...], a view."""
    return cells.view(batch, -1, *cells.shape[1:]).transpose(1, 2)


def _pad(tensor: Tensor, token_of_cell: Tensor, batch: int) -> Tensor:
    """[tokens, H, D] -> [B, H, longest, D]; padding holds copies of the first token."""
    return _as_batch(tensor.index_select(0, token_of_cell.to(tensor.device)), batch)


def _unpad(tensor: Tensor, cells: Tensor) -> Tensor:
    """[B, H, longest, D] -> [tokens, H, D]."""
    return tensor.transpose(1, 2).flatten(0, 1).index_select(0, cells)
