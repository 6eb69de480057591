# mypy: disable-error-code="no-untyped-call"
"""Every operation of the GPU path in plain torch: what the kernels must compute, on any device and dtype.

The forward and backward of `engine` are written once and call these operations by name; on CUDA `kernels`
provides the same names. Matrices are row-major views whose rows may be further apart than they are wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flywheel.students.gpu.plan import AttentionPlan
from flywheel.students.normed import inverse_rms, norm_gradient, rotated


def matmul(left: Tensor, right: Tensor, out: Tensor) -> None:
    """out = left @ right, [M, K] @ [K, N]."""
    out.copy_(left @ right)


def accumulate(left: Tensor, right: Tensor, out: Tensor, scale: float = 1.0) -> None:
    """out += scale * (left @ right), with out in fp32: the gradients of the adapter."""
    out.add_((left.float() @ right.float()).to(out.dtype), alpha=scale)


def add_norm(
    x: Tensor, y: Tensor | None, weight: Tensor, eps: float, total: Tensor, out: Tensor, rstd: Tensor
) -> None:
    """total = x + y; out = RMSNorm(total) * weight; rstd = 1 / rms.

    x, y, total, out: [T, d]; rstd: fp32 [T].
    """
    total.copy_(x if y is None else x + y)
    values = _wide(total)
    scale = inverse_rms(values, eps)
    rstd.copy_(scale[:, 0])
    out.copy_(values * scale * _wide(weight))


def norm_backward(grad: Tensor, x: Tensor, rstd: Tensor, weight: Tensor, total: Tensor) -> None:
    """total += the gradient of RMSNorm's input, given that of its output; all [T, d]."""
    inner = _wide(grad) * _wide(weight)
    total.add_(norm_gradient(inner, _wide(x), rstd[:, None].to(inner.dtype)).to(total.dtype))


def rotate(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, head_dim: int, sign: int) -> None:
    """Apply RoPE (Su et al., 2021, arXiv 2104.09864) in place; sign -1 undoes it, which is its gradient.

    x: [T, heads * D], each head's first half rotated with its second, as transformers does.
    """
    view = x.view(x.shape[0], -1, head_dim)  # rows may be strided: only the last dimension is split
    wide = _wide(view)
    c, s = (torch.cat((half, half), -1)[positions.long(), None].to(wide.dtype) for half in (cos, sin))
    view.copy_(rotated(wide, c, s, sign))


def swiglu(gate_up: Tensor, out: Tensor, a: Tensor, u: Tensor, mask: Mask) -> None:
    """out = silu(gate) * up; u = dropped-out out A^T, the LoRA product of the layer that reads out.

    gate_up: [T, 2 I]; out: [T, I]; a: [r, I]; u: [T, r].
    """
    gate, up = (_wide(half) for half in gate_up.chunk(2, -1))
    out.copy_(torch.nn.functional.silu(gate) * up)
    lora_down(out, a, u, a.shape[0], mask)


def swiglu_backward(gate_up: Tensor, grad: Tensor, b: Tensor, v: Tensor) -> None:
    """Replace [gate, up] by their gradients, given that of silu(gate) * up; v = those times s*B.

    gate_up: [T, 2 I]; grad: [T, I]; b: [2 I, 2 r], block-diagonal; v: [T, 2 r].
    """
    gate, up = (_wide(half) for half in gate_up.chunk(2, -1))
    wide, sigmoid = _wide(grad), torch.sigmoid(gate)
    gate_up.copy_(torch.cat((wide * up * sigmoid * (1 + gate * (1 - sigmoid)), wide * gate * sigmoid), -1))
    v.copy_(gate_up @ b)


def cross_entropy(logits: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Return each row's loss and replace logits by scale * its gradient; rows with target -1 give 0.

    logits: [N, V]; targets: [N]; scale: fp32 [1]; returns fp32 [N].
    """
    wide, targets = _wide(logits), targets.long()
    counts = targets >= 0
    log_sum = torch.logsumexp(wide, -1)
    picked = wide.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    gradient = torch.exp(wide - log_sum[:, None])
    gradient.scatter_add_(1, targets.clamp(min=0)[:, None], -torch.ones_like(gradient[:, :1]))
    logits.copy_(gradient * (scale * counts[:, None]))
    return torch.where(counts, log_sum - picked, 0.0)


def keep_mask(rows: int, columns: int, seed: int, probability: float, device: torch.device) -> Tensor:
    """Return the dropout mask [rows, columns]: 0, or 1 / (1 - p) where an input is kept.

    A counter-based hash (the finalizer of MurmurHash3) of the element's place and the seed, so that the
    backward pass, another device or a resumed job draws the same mask without storing it.
    """
    index = torch.arange(rows, dtype=torch.int64, device=device)[:, None] * columns
    index = index + torch.arange(columns, dtype=torch.int64, device=device)[None, :]
    bits = 0xFFFFFFFF
    x = ((index * 0x9E3779B1) & bits) ^ (seed & bits)
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & bits
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & bits
    x = x ^ (x >> 16)
    return (x >= threshold(probability)).float() / (1 - probability)


def threshold(probability: float) -> int:
    """Return the hash value below which an input is dropped."""
    return min(int(probability * 2**32), 2**32 - 1)


@dataclass(frozen=True, slots=True)
class Mask:
    """Dropout of a group's inputs: module j drops where `keep_mask(seed ^ (place + j))` is 0.

    Attributes:
        probability: p; 0 keeps everything.
        seed: int64 [1] on the device, so that a CUDA graph draws new masks at every replay.
        place: Names the group and layer.
    """

    probability: float
    seed: Tensor
    place: int

    def of(self, x: Tensor, module: int) -> Tensor | float:
        """Return what x [T, K] is multiplied by."""
        if not self.probability:
            return 1.0
        seed = int(self.seed) ^ (self.place + module)
        return keep_mask(x.shape[0], x.shape[1], seed, self.probability, x.device)


def lora_down(x: Tensor, a: Tensor, out: Tensor, rank: int, mask: Mask) -> None:
    """out[:, j] = (x * mask_j) A_j^T for each module j, its own mask each, as PEFT's layers draw them.

    x: [T, K]; a: [J r, K]; out: [T, J r].
    """
    for index, part in enumerate(a.split(rank) if rank else ()):
        product = (_wide(x) * mask.of(x, index)) @ _wide(part).T
        out[:, index * rank : (index + 1) * rank] = product.to(out.dtype)


def lora_a_gradient(v: Tensor, x: Tensor, out: Tensor, rank: int, mask: Mask) -> None:
    """out[j] += v_j^T (x * mask_j). v: [T, J r]; x: [T, K]; out: fp32 [J r, K]."""
    for index, part in enumerate(v.split(rank, 1)):
        product = _wide(part).T @ (_wide(x) * mask.of(x, index))
        out[index * rank : (index + 1) * rank] += product.to(out.dtype)


def lora_input_gradient(v: Tensor, a: Tensor, total: Tensor, rank: int, mask: Mask) -> None:
    """total += sum_j mask_j * (v_j A_j). v: [T, J r]; a: [J r, K]; total: [T, K]."""
    change = torch.zeros(total.shape, dtype=_wide(total).dtype, device=total.device)
    for index, (left, right) in enumerate(zip(v.split(rank, 1), a.split(rank), strict=True)):
        change += (_wide(left) @ _wide(right)) * mask.of(total, index)
    total.add_(change.to(total.dtype))


def attention(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, scale: float, out: Tensor) -> Tensor:
    """Write softmax(q k^T) v of the row's attention to out; return the log-sum-exp of each query.

    q, out: [Tq, H, D]; k, v: [T, Hkv, D]; returns [H, Tq].
    """
    scores, values = _scores(q, k, plan, scale), _repeat(v, q.shape[1])
    log_sum = torch.logsumexp(scores, -1)
    log_sum = torch.where(log_sum.isfinite(), log_sum, 0.0)  # padding without a prefix sees nothing
    out.copy_(torch.einsum("hqk,khd->qhd", torch.exp(scores - log_sum[..., None]), values))
    return log_sum


def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_sum: Tensor,
    plan: AttentionPlan,
    scale: float,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """Write the gradients of q, k and v, given that of out; shapes as in `attention`."""
    heads, kv_heads = q.shape[1], k.shape[1]
    p = torch.exp(_scores(q, k, plan, scale) - log_sum.view(heads, -1, 1))
    wide = _wide(grad)
    delta = (wide * _wide(out)).sum(-1).T[..., None]  # [H, Tq, 1]
    ds = p * (torch.einsum("qhd,khd->hqk", wide, _repeat(v, heads)) - delta) * scale

    def by_kv_head(x: Tensor) -> Tensor:  # [T, H, D] -> [T, Hkv, D]
        return x.view(x.shape[0], kv_heads, heads // kv_heads, -1).sum(2)

    dq.copy_(torch.einsum("hqk,khd->qhd", ds, _repeat(k, heads)))
    dk.copy_(by_kv_head(torch.einsum("hqk,qhd->khd", ds, _wide(q))))
    dv.copy_(by_kv_head(torch.einsum("hqk,qhd->khd", p, wide)))


def prefix_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Return (softmax(q k^T) v, log-sum-exp) where all queries see all keys, or those up to their own place.

    q: [Tq, H, D]; k, v: [P, Hkv, D]; returns [Tq, H, D] and [H, Tq], both contiguous.
    """
    scores = torch.einsum("qhd,khd->hqk", _wide(q), _repeat(k, q.shape[1])) * scale
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), float("-inf"))
    log_sum = torch.logsumexp(scores, -1)
    out = torch.einsum("hqk,khd->qhd", torch.exp(scores - log_sum[..., None]), _repeat(v, q.shape[1]))
    return out.contiguous(), log_sum.contiguous()


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
    """Return (dq, dk, dv) of this part of a softmax, given the output and log-sum-exp of the whole."""
    heads, kv_heads = q.shape[1], k.shape[1]
    keys, values = _repeat(k, heads), _repeat(v, heads)
    p = torch.exp(torch.einsum("qhd,khd->hqk", q, keys) * scale - log_sum[..., None])
    if causal:
        p = p.tril()
    inner = (grad * out).sum(-1).T[..., None]
    ds = p * (torch.einsum("qhd,khd->hqk", grad, values) - inner) * scale
    dk = torch.einsum("hqk,qhd->khd", ds, q).unflatten(1, (kv_heads, -1)).sum(2)
    dv = torch.einsum("hqk,qhd->khd", p, grad).unflatten(1, (kv_heads, -1)).sum(2)
    return torch.einsum("hqk,khd->qhd", ds, keys).contiguous(), dk.contiguous(), dv.contiguous()


def decode_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    lengths: Tensor,
    new: Tensor,
    step: Tensor,
    before: tuple[Tensor, Tensor] | None,
    scale: float,
    out: Tensor,
) -> None:
    """Attention of one query a sample over the prefix, its prompt's own tokens and the tokens made so far.

    Args:
        q, out: [S, H, D].
        k, v: [T, Hkv, D], of the whole row; sample s owns rows starts[s] .. starts[s] + lengths[s].
        starts, lengths: int32 [S].
        new: [S, most, 2 Hkv D], keys and values of the tokens made so far; step + 1 of them count.
        step: int64 [1].
        before: The output and log-sum-exp of the prefix's part, [S, H, D] and [H, S].
        scale: Of the scores.
    """
    samples, heads, d = q.shape
    made = int(step) + 1
    for s in range(samples):
        own = slice(int(starts[s]), int(starts[s] + lengths[s]))
        k_new, v_new = new[s, :made].view(made, 2, -1, d).unbind(1)
        keys, values = (_repeat(torch.cat(parts), heads) for parts in ((k[own], k_new), (v[own], v_new)))
        scores = torch.einsum("hd,khd->hk", _wide(q[s]), keys) * scale
        if before is not None:
            scores = torch.cat((before[1][:, s, None].to(scores.dtype), scores), 1)
            values = torch.cat((_wide(before[0][s])[None], values))
        out[s] = torch.einsum("hk,khd->hd", scores.softmax(-1), values).to(out.dtype)


def _scores(q: Tensor, k: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
    """Return the masked scores [H, Tq, T]."""
    scores = torch.einsum("qhd,khd->hqk", _wide(q), _repeat(k, q.shape[1])) * scale
    key_places = places_of(plan.key_sample)
    same = plan.query_sample[:, None] == plan.key_sample[None, :]
    causal = key_places[None, :] <= plan.places[:, None]
    seen = same & causal & (plan.query_sample >= 0)[:, None]
    if plan.until is not None:
        seen = seen & (plan.places[:, None] < plan.until[None, :])
    if plan.prefix:
        seen = seen | ((plan.query_sample != 0)[:, None] & (plan.key_sample == 0)[None, :])
    return scores.masked_fill(~seen, float("-inf"))


def places_of(sample: Tensor) -> Tensor:
    """Return each token's place in its sample; samples are contiguous."""
    index = torch.arange(len(sample), device=sample.device)
    begins = torch.ones_like(sample, dtype=torch.bool)
    begins[1:] = sample[1:] != sample[:-1]
    return index - torch.where(begins, index, 0).cummax(0).values


def _repeat(x: Tensor, heads: int) -> Tensor:
    return _wide(x).repeat_interleave(heads // x.shape[1], 1)


def _wide(x: Tensor) -> Tensor:
    """Return x in at least fp32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
