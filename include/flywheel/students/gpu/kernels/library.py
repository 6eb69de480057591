"""The prefix within itself, and own tokens against the prefix: the library's attention.

Asked for the log-sum-exp that its softmax leaves, so that other keys can join. cuDNN's attention, or flash
attention; in fp32 (gradient checks, never a job) the formula itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flywheel.students.gpu import reference

# Which library computes bf16 attention: "cudnn" or "flash".
BACKEND = "cudnn"
# From so many queries on, cuDNN is asked for two halves as a batch: 35,840 of them over 1,150 keys took
# 0.90 ms on an H200, at once 0.96, in four parts 0.90, in eight 0.91.
HALVED = 16_384


def _batch(x: Tensor) -> Tensor:
    """View [T, H, D] as [1, H, T, D]."""
    return x.transpose(0, 1)[None]


def prefix_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Return (softmax(q k^T) v, log-sum-exp): all queries see all keys, or those up to their place.

    q: [Tq, H, D]; k, v: [P, Hkv, D]; returns [Tq, H, D] and fp32 [H, Tq], contiguous.
    """
    if q.dtype == torch.float32:
        return reference.prefix_attention(q, k, v, scale, causal)
    aten: Any = torch.ops.aten
    if BACKEND == "cudnn":
        if not causal and len(q) >= HALVED and len(q) % 2 == 0:
            halves = q.view(2, -1, *q.shape[1:]).transpose(1, 2)
            keys, values = (_batch(x).expand(2, -1, -1, -1) for x in (k, v))
            out, log_sum, *_ = aten._scaled_dot_product_cudnn_attention(
                halves, keys, values, None, True, 0.0, causal, False, scale=scale
            )
            log_sums = log_sum.reshape(2, q.shape[1], -1).transpose(0, 1)
            return out.transpose(1, 2).flatten(0, 1), log_sums.reshape(q.shape[1], -1)
        out, log_sum, *_ = aten._scaled_dot_product_cudnn_attention(
            _batch(q), _batch(k), _batch(v), None, True, 0.0, causal, False, scale=scale
        )
        return out[0].transpose(0, 1), log_sum.reshape(q.shape[1], -1)
    out, log_sum, *_ = aten._flash_attention_forward(
        q[None], k[None], v[None], None, None, q.shape[0], k.shape[0], 0.0, causal, False, scale=scale
    )
    return out[0], log_sum.reshape(q.shape[1], -1)


def prefix_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_sum: Tensor,
    scale: float,
    causal: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (dq, dk, dv) of this part, given the output and log-sum-exp of the whole softmax."""
    if q.dtype == torch.float32:
        return reference.prefix_attention_backward(grad, q, k, v, out, log_sum, scale, causal)
    aten: Any = torch.ops.aten
    heads = q.shape[1]
    none = torch.zeros((), dtype=torch.int64, device=q.device)
    if BACKEND == "cudnn":
        dq, dk, dv = aten._scaled_dot_product_cudnn_attention_backward(
            _batch(grad), _batch(q), _batch(k), _batch(v), _batch(out), log_sum.view(1, heads, -1, 1),
            none, none, None, None, None, q.shape[0], k.shape[0], 0.0, causal, scale=scale,
        )  # fmt: skip
        return dq[0].transpose(0, 1), dk[0].transpose(0, 1), dv[0].transpose(0, 1)
    dq, dk, dv = aten._flash_attention_backward(
        grad[None], q[None], k[None], v[None], out[None], log_sum[None], None, None, q.shape[0], k.shape[0],
        0.0, causal, none, none, scale=scale,
    )  # fmt: skip
    return dq[0], dk[0], dv[0]
