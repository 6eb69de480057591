"""Attention kernels: one part of an attention and its exact share of the gradient.

A query may see keys in several parts (the prefix, its own sample). With the log-sum-exp of each part's scores
the parts are joined into the attention over all of them, and given the *joined* output and log-sum-exp, the
backward pass of a part yields its share of the whole gradient: with p = exp(score - lse), ds = p * (dp - delta)
needs nothing of the other parts (FlashAttention-2, Dao 2023, arXiv 2307.08691, section 3.1).

All kernels take and return flat tensors:

    q, out, d_out  [queries, H, D]     k, v  [keys, Hkv, D]     lse  [queries, H] fp32, natural logarithm
"""

from __future__ import annotations

from typing import Protocol

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


class _BatchKernel:
    """Spans as padded batches; what a batch computes is the subclass's.

    Batches: q, out [B, H, Lq, D]; k, v [B, H, Lk, D], heads repeated where queries share them; lse [B, H, Lq].
    """

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def attend_backward(
        self,
        d_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        visible: Tensor | None,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> tuple[Tensor, Tensor]:
        repeats = q.shape[1] // k.shape[1]
        k, v = _repeat_heads(k, repeats), _repeat_heads(v, repeats)
        if len(spans.queries) == 2 and _is_plain(spans):
            out, lse = self.attend(_batch(q), _batch(k), _batch(v), None, spans.causal, scale)
            return out.squeeze(0).transpose(0, 1), lse.squeeze(0).transpose(0, 1)
        out, lse = torch.empty_like(q), q.new_empty(q.shape[:2], dtype=torch.float32)
        for group in spans.groups:
            visible = _on(group.visible, q)
            out_batch, lse_batch = self.attend(
                _pad(q[group.queries], group.query_of_cell, group.batch),
                _pad(k[group.keys], group.key_of_cell, group.batch),
                _pad(v[group.keys], group.key_of_cell, group.batch),
                visible,
                spans.causal and visible is None,
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
        repeats = q.shape[1] // k.shape[1]
        k, v = _repeat_heads(k, repeats), _repeat_heads(v, repeats)
        if len(spans.queries) == 2 and _is_plain(spans):
            whole_lse = lse.transpose(0, 1).unsqueeze(0)
            gradients = self.attend_backward(
                _batch(d_out),
                _batch(q),
                _batch(k),
                _batch(v),
                _batch(out),
                whole_lse,
                None,
                spans.causal,
                scale,
            )
            d_q, d_k, d_v = (gradient.squeeze(0).transpose(0, 1) for gradient in gradients)
            return d_q, _sum_heads(d_k, repeats), _sum_heads(d_v, repeats)
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for group in spans.groups:
            visible = _on(group.visible, q)
            queries, keys = group.query_cells.to(q.device), group.key_cells.to(q.device)
            lse_batch = lse.new_full((group.batch * group.longest_query, lse.shape[1]), PADDING_LSE)
            lse_batch.index_copy_(0, queries, lse[group.queries])
            d_out_batch = d_out.new_zeros((group.batch * group.longest_query, *d_out.shape[1:]))
            d_out_batch.index_copy_(0, queries, d_out[group.queries])
            gradients = self.attend_backward(
                d_out_batch.unflatten(0, (group.batch, -1)).transpose(1, 2),
                _pad(q[group.queries], group.query_of_cell, group.batch),
                _pad(k[group.keys], group.key_of_cell, group.batch),
                _pad(v[group.keys], group.key_of_cell, group.batch),
                _pad(out[group.queries], group.query_of_cell, group.batch),
                lse_batch.unflatten(0, (group.batch, -1)).transpose(1, 2),
                visible,
                spans.causal and visible is None,
                scale,
            )
            d_q[group.queries] = _unpad(gradients[0], queries)
            d_k[group.keys] = _unpad(gradients[1], keys)
            d_v[group.keys] = _unpad(gradients[2], keys)
        return d_q, _sum_heads(d_k, repeats), _sum_heads(d_v, repeats)


class PlainKernel(_BatchKernel):
    """Scores as one matrix, on any device in any precision: short, and what the others are checked against."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        scores = _scores(q, k, visible, causal, scale)  # [B, H, Lq, Lk]
        lse = scores.logsumexp(-1)  # [B, H, Lq]
        return (scores - lse.unsqueeze(-1)).exp().to(v.dtype) @ v, lse

    def attend_backward(
        self,
        d_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        visible: Tensor | None,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        shares = (_scores(q, k, visible, causal, scale) - lse.unsqueeze(-1)).exp()  # [B, H, Lq, Lk]
        delta = (d_out * out).float().sum(-1, keepdim=True)  # [B, H, Lq, 1]
        d_scores = (shares * ((d_out @ v.transpose(-1, -2)).float() - delta) * scale).to(q.dtype)
        return d_scores @ k, d_scores.transpose(-1, -2) @ q, shares.to(q.dtype).transpose(-1, -2) @ d_out


class CpuKernel(PlainKernel):
    """PyTorch's flash attention for the CPU, which never holds the score matrix."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        if visible is not None:
            return super().attend(q, k, v, visible, causal, scale)
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, scale=scale
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
        visible: Tensor | None,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if visible is not None:
            return super().attend_backward(d_out, q, k, v, out, lse, visible, causal, scale)
        d_q, d_k, d_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            d_out, q, k, v, out, lse, 0.0, causal, scale=scale
        )
        return d_q, d_k, d_v


class CudaKernel:
    """PyTorch's flash attention over spans of any length, without padding; bf16 and fp16 alone."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, spans: Spans, scale: float) -> tuple[Tensor, Tensor]:
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
    return (
        queries,
        keys,
        int((spans.queries[1:] - spans.queries[:-1]).max()),
        int((spans.keys[1:] - spans.keys[:-1]).max()),
    )


def _scores(q: Tensor, k: Tensor, visible: Tensor | None, causal: bool, scale: float) -> Tensor:
    scores = (q @ k.transpose(-1, -2)).float() * scale  # [B, H, Lq, Lk]
    if causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    return scores if visible is None else scores.masked_fill(~visible, -torch.inf)


def _is_plain(spans: Spans) -> bool:
    """Whether a single span needs no mask but causal order from the start."""
    return not spans.causal or int(spans.queries[1]) == int(spans.keys[1])


def _repeat_heads(tensor: Tensor, repeats: int) -> Tensor:
    """[L, Hkv, D] -> [L, Hkv * repeats, D]."""
    return tensor if repeats == 1 else tensor.repeat_interleave(repeats, dim=1)


def _sum_heads(gradient: Tensor, repeats: int) -> Tensor:
    """[L, Hkv * repeats, D] -> [L, Hkv, D]."""
    return gradient if repeats == 1 else gradient.unflatten(1, (-1, repeats)).sum(2)


def _batch(tensor: Tensor) -> Tensor:
    """[L, H, D] -> [1, H, L, D], a view."""
    return tensor.transpose(0, 1).unsqueeze(0)


def _pad(tensor: Tensor, token_of_cell: Tensor, batch: int) -> Tensor:
    """[tokens, H, D] -> [B, H, longest, D]; padding holds copies of the first token."""
    cells = tensor.index_select(0, token_of_cell.to(tensor.device))
    return cells.unflatten(0, (batch, -1)).transpose(1, 2)


def _unpad(tensor: Tensor, cells: Tensor) -> Tensor:
    """[B, H, longest, D] -> [tokens, H, D]."""
    return tensor.transpose(1, 2).flatten(0, 1).index_select(0, cells)


def _on(visible: Tensor | None, like: Tensor) -> Tensor | None:
    return None if visible is None else visible.to(like.device)
