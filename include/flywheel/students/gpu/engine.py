# mypy: disable-error-code="no-untyped-call"
"""A training step of a LoRA student, forward and backward written out: `Engine.step(row) -> loss`.

Autograd is not used. Written out, the step keeps what it needs and no more, computes no gradient of a
frozen weight (a third of full training's arithmetic), puts each LoRA product into the frozen matmul beside
it (`layout`), runs the last layer only where the loss looks, and makes logits only there. `reference` says
what each operation computes; `kernels` are the same operations on CUDA.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from flywheel.students.gpu import reference
from flywheel.students.gpu.layout import Adapter, Group, Weights
from flywheel.students.gpu.plan import DeviceRow
from flywheel.students.gpu.workspace import Tail, Workspace

# Rows of logits made at once; 2,048 x 128,256 bf16 values are 0.5 GB.
LOGIT_ROWS = 2048


def spread(number: int) -> int:
    """Return a 31-bit hash of a number: neighbouring steps and layers draw unrelated masks."""
    x = (number * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return (x ^ (x >> 16)) & 0x7FFFFFFF


class Engine:
    """One student's step. The adapter's gradients accumulate in `adapter.gradients`.

    Args:
        weights: The packed frozen weights; `adapter.pack_into(weights)` after each optimizer step.
        adapter: The adapter that is trained; or as many as the weights have room for, to be trained side by
            side: each on a part of the row, all in one pass over the frozen weights.
        dropout: Probability with which an input of an adapter is dropped, as PEFT does: each linear layer
            draws its own mask.
        ops: The operations; by default the CUDA kernels where the weights are on a GPU, else `reference`.
    """

    def __init__(
        self,
        weights: Weights,
        adapter: Adapter | Sequence[Adapter],
        dropout: float = 0.0,
        ops: ModuleType | None = None,
    ) -> None:
        self.adapters = (adapter,) if isinstance(adapter, Adapter) else tuple(adapter)
        self.weights, self.adapter, self.arch = weights, self.adapters[0], weights.arch
        self.dropout, self.rank = dropout, weights.rank
        self.groups: dict[str, Group] = {group.name: group for group in self.arch.groups}
        if ops is None:
            ops = reference
            if weights.embedding.is_cuda:
                from flywheel.students.gpu import kernels

                ops = kernels
        self.ops = ops
        self._workspace: Workspace | None = None
        self.workspaces = 0  # so many have been made; a graph fits the one that it was captured with
        device = weights.embedding.device
        # What changes from step to step is on the device, so that a CUDA graph can replay the step.
        self._seed = torch.zeros(len(self.adapters), dtype=torch.int64, device=device)
        self._scale = torch.ones(len(self.adapters), dtype=torch.float32, device=device)

    def workspace(self, tokens: int, answers: int) -> Workspace:
        """Return buffers for such a row: the last ones where they are large enough."""
        space = self._workspace
        if space is None or space.tokens < tokens or space.answers < answers:
            if space is not None:
                tokens, answers = max(tokens, space.tokens), max(answers, space.answers)
            self._workspace = None  # the old ones go before the new ones come
            # Rows of a job differ a little in length, and new buffers cost the graphs of the old ones.
            tokens, answers = tokens + tokens // 16, answers + answers // 16
            embedding = self.weights.embedding
            columns = self.rank * len(self.adapters)
            space = Workspace(self.arch, columns, tokens, answers, embedding.dtype, embedding.device)
            self._workspace = space
            self.workspaces += 1
        return space

    @torch.no_grad()
    def step(self, row: DeviceRow, scale: float | Sequence[float], seed: int | Sequence[int] = 0) -> Tensor:
        """Compute a row's loss and add its gradient to the adapter's.

        Args:
            row: The row, of as many parts as there are adapters.
            scale: What the gradient of the summed loss is multiplied by, 1 / answer tokens of the step; one
                for each part where there are several.
            seed: Of the dropout masks; the same seed draws the same masks. One for each part likewise.

        Returns:
            The loss of each part, summed over its answer tokens: fp32 [parts] on the device.
        """
        self._prepare(scale, seed)
        return self._compute(row)

    def _prepare(self, scale: float | Sequence[float], seed: int | Sequence[int]) -> None:
        """Put on the device what changes from step to step."""
        scales = [scale] if isinstance(scale, (int, float)) else scale
        seeds = [seed] if isinstance(seed, int) else seed
        for index, (factor, number) in enumerate(zip(scales, seeds, strict=True)):
            self._scale[index].fill_(factor)
            self._seed[index].fill_(spread(number))

    def _compute(self, row: DeviceRow) -> Tensor:
        """The step without what changes from step to step: the same kernels for each row of a shape."""
        tokens, asked = len(row.tokens), len(row.loss_rows)
        space = self.workspace(tokens, asked)
        self._forward(row, space, tokens, asked)
        loss = self._loss(row, space, gradient=True)
        self._backward(row, space, tokens, asked)
        return loss

    @torch.no_grad()
    def loss(self, row: DeviceRow) -> Tensor:
        """Return the loss of each part, summed over its answer tokens, without dropout or a gradient."""
        tokens, asked, embedding = len(row.tokens), len(row.loss_rows), self.weights.embedding
        space = Workspace(
            self.arch, self.rank, tokens, asked, embedding.dtype, embedding.device, keep="nothing"
        )
        dropout, self.dropout = self.dropout, 0.0  # as the student will answer
        try:
            self._forward(row, space, tokens, asked)
            return self._loss(row, space, gradient=False)
        finally:
            self.dropout = dropout

    @torch.no_grad()
    def states(self, row: DeviceRow, space: Workspace) -> Tensor:
        """Return the last norm's output at the row's `loss_rows`, [N, d]: a view into the workspace."""
        self._forward(row, space, len(row.tokens), len(row.loss_rows))
        return space.final_normed[: len(row.loss_rows)]

    # Forward

    def _forward(self, row: DeviceRow, space: Workspace, tokens: int, asked: int) -> None:
        """Fill the workspace up to the last norm's output, [N, d]."""
        ops, w, arch = self.ops, self.weights, self.arch
        whole, places = [part.tokens for part in row.parts], [part.asked for part in row.parts]
        x = torch.index_select(w.embedding, 0, row.tokens)  # [T, d]
        y: Tensor | None = None
        for layer in range(arch.layers):
            is_last = layer == arch.layers - 1
            head = space.heads[layer].rows(tokens)
            normed = head.normed[:, : arch.hidden]
            ops.add_norm(x, y, w.norm1[layer], arch.eps, head.x, normed, head.rstd)
            qkv = head.qkv[:, : self.groups["qkv"].outputs]
            self._linear("qkv", layer, head.normed, qkv, whole)
            ops.rotate(qkv[:, : arch.q_width + arch.kv_width], row.positions, w.cos, w.sin, arch.head_dim, 1)
            q, k, v = self._split(qkv)
            count, spans, residual = tokens, whole, head.x
            if is_last:
                count, spans = asked, places
                q = torch.index_select(q, 0, row.loss_rows)
                residual = torch.index_select(head.x, 0, row.loss_rows)
            tail = space.tails[layer].rows(count, arch.heads)
            self._attend(q, k, v, row, tail, is_last)
            y = space.y[:count]
            self._linear("o", layer, tail.out, y, spans)
            ops.add_norm(
                residual, y, w.norm2[layer], arch.eps, tail.middle, tail.normed[:, : arch.hidden], tail.rstd
            )
            gate_up = tail.gate_up[:, : 2 * arch.intermediate]
            self._linear("gu", layer, tail.normed, gate_up, spans)
            self._swiglu(layer, gate_up, tail.hidden, spans)
            self._linear("down", layer, tail.hidden, y, spans, has_u=True)
            x = tail.middle
        ops.add_norm(
            x, y, w.norm, arch.eps, space.final[:asked], space.final_normed[:asked], space.final_rstd[:asked]
        )

    def _linear(
        self, name: str, layer: int, x: Tensor, out: Tensor, spans: Sequence[slice], has_u: bool = False
    ) -> None:
        """out = x W^T + LoRA, for a group.

        Args:
            name: The group.
            layer: The layer.
            x: [T, K + E], its first K columns filled.
            out: [T, N].
            spans: The rows of each adapter.
            has_u: Whether the LoRA product x A^T is already in its columns of x.
        """
        group, matrix = self.groups[name], self.weights.packed[name][layer]
        k, n, count = group.columns, group.outputs, len(group.modules) * self.rank
        if not has_u:
            self._clear(x, k, count)
            for index, span in enumerate(spans):
                first = index * count
                a = matrix[n + first : n + first + count, :k]
                u = x[span, k + first : k + first + count]
                if self.dropout:
                    self.ops.lora_down(x[span, :k], a, u, self.rank, self._mask(name, layer, index))
                else:
                    self.ops.matmul(x[span, :k], a.T, u)
        self.ops.matmul(x, matrix[:n].T, out)

    def _swiglu(self, layer: int, gate_up: Tensor, hidden: Tensor, spans: Sequence[slice]) -> None:
        """Fill hidden, [T, I + E], and the LoRA product of the layer that reads it."""
        i, d, rank = self.arch.intermediate, self.arch.hidden, self.rank
        self._clear(hidden, i, rank)
        for index, span in enumerate(spans):
            first = index * rank
            a = self.weights.packed["down"][layer][d + first : d + first + rank, :i]
            u = hidden[span, i + first : i + first + rank]
            self.ops.swiglu(gate_up[span], hidden[span, :i], a, u, self._mask("down", layer, index))

    def _clear(self, x: Tensor, start: int, count: int) -> None:
        """Set the columns of all adapters' products to zero: each writes those of its own rows alone."""
        if len(self.adapters) > 1:
            x[:, start : start + count * len(self.adapters)].zero_()

    def _mask(self, name: str, layer: int, index: int = 0) -> reference.Mask:
        """Return the dropout of a group's inputs in a layer, for an adapter."""
        place = spread(layer * 4 + ("qkv", "o", "gu", "down").index(name))
        return reference.Mask(self.dropout, self._seed[index : index + 1], place & ~3)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return views of q [T, H, D], k and v [T, Hkv, D]."""
        arch = self.arch
        q, k, v = qkv.split((arch.q_width, arch.kv_width, arch.kv_width), 1)
        rows, d = qkv.shape[0], arch.head_dim
        return q.view(rows, -1, d), k.view(rows, -1, d), v.view(rows, -1, d)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, row: DeviceRow, tail: Tail, is_last: bool) -> None:
        arch = self.arch
        out = tail.out[:, : arch.q_width].view(-1, arch.heads, arch.head_dim)
        for part in row.parts:
            at, to = (part.asked if is_last else part.tokens), part.tokens
            plan = part.last if is_last else part.full
            log_sum = self.ops.attention(q[at], k[to], v[to], plan, arch.head_dim**-0.5, out[at])
            _log_sum_of(tail, at, arch.heads).copy_(log_sum.reshape(-1))

    def _loss(self, row: DeviceRow, space: Workspace, gradient: bool) -> Tensor:
        """Return each part's loss; if asked to, leave the gradient of the last norm's output in its place."""
        losses = torch.zeros(len(row.parts), dtype=torch.float32, device=row.tokens.device)
        head = self.weights.head
        for index, part in enumerate(row.parts):
            scale = self._scale[index : index + 1]
            for start in range(part.asked.start, part.asked.stop, LOGIT_ROWS):
                some = slice(start, min(start + LOGIT_ROWS, part.asked.stop))
                x = space.final_normed[some]
                logits = torch.empty(x.shape[0], head.shape[0], dtype=x.dtype, device=x.device)
                self.ops.matmul(x, head.T, logits)
                losses[index] += self.ops.cross_entropy(logits, row.targets[some], scale).sum()
                if gradient:
                    self.ops.matmul(logits, head, x)
        return losses

    # Backward

    def _backward(self, row: DeviceRow, space: Workspace, tokens: int, asked: int) -> None:
        ops, w, arch, d = self.ops, self.weights, self.arch, self.arch.hidden
        whole, places = [part.tokens for part in row.parts], [part.asked for part in row.parts]
        last = space.last_gradient[:asked]
        last[:, :d].zero_()
        ops.norm_backward(
            space.final_normed[:asked], space.final[:asked], space.final_rstd[:asked], w.norm, last[:, :d]
        )
        gradient = last
        for layer in reversed(range(arch.layers)):
            is_last = layer == arch.layers - 1
            count, spans = (asked, places) if is_last else (tokens, whole)
            tail, head = space.tails[layer].rows(count, arch.heads), space.heads[layer].rows(tokens)
            self._mlp_backward(layer, tail, gradient, space, spans)
            out_gradient = space.out_gradient[:count]
            self._linear_backward("o", layer, gradient, tail.out, out_gradient[:, : arch.q_width], spans)
            qkv_gradient = space.qkv_gradient[:tokens]
            q, k, v = self._split(head.qkv[:, : self.groups["qkv"].outputs])
            dq, dk, dv = self._split(qkv_gradient[:, : self.groups["qkv"].outputs])
            if is_last:
                q = torch.index_select(q, 0, row.loss_rows)
            dq_asked = torch.empty_like(q) if is_last else dq
            d_out = out_gradient[:, : arch.q_width].view(count, arch.heads, -1)
            out = tail.out[:, : arch.q_width].view(count, arch.heads, -1)
            for part, at in zip(row.parts, spans, strict=True):
                to, plan = part.tokens, part.last if is_last else part.full
                log_sum, scale = _log_sum_of(tail, at, arch.heads), arch.head_dim**-0.5
                known = (d_out[at], q[at], k[to], v[to], out[at], log_sum, plan, scale)
                ops.attention_backward(*known, dq_asked[at], dk[to], dv[to])
            if is_last:  # from the places that ask back to all rows
                gradient = space.gradient[:tokens]
                gradient[:, :d].zero_()
                gradient[:, :d].index_copy_(0, row.loss_rows, last[:, :d])
                dq.zero_()
                dq.index_copy_(0, row.loss_rows, dq_asked)
            rotated = qkv_gradient[:, : arch.q_width + arch.kv_width]
            ops.rotate(rotated, row.positions, w.cos, w.sin, arch.head_dim, -1)
            normed_gradient = space.normed_gradient[:tokens] if layer else None
            self._linear_backward("qkv", layer, qkv_gradient, head.normed, normed_gradient, whole)
            if normed_gradient is not None:
                ops.norm_backward(normed_gradient, head.x, head.rstd, w.norm1[layer], gradient[:, :d])

    def _mlp_backward(
        self, layer: int, tail: Tail, gradient: Tensor, space: Workspace, spans: Sequence[slice]
    ) -> None:
        """Add the MLP's part to the residual stream's gradient."""
        ops, arch, count = self.ops, self.arch, gradient.shape[0]
        hidden_gradient = space.hidden_gradient[:count]
        self._linear_backward("down", layer, gradient, tail.hidden, hidden_gradient, spans)
        i, d, count_gu = arch.intermediate, arch.hidden, 2 * self.rank
        gate_up = tail.gate_up
        self._clear(gate_up, 2 * i, count_gu)
        for index, span in enumerate(spans):
            first = index * count_gu
            b = self.weights.packed["gu"][layer][: 2 * i, d + first : d + first + count_gu]
            v = gate_up[span, 2 * i + first : 2 * i + first + count_gu]
            ops.swiglu_backward(gate_up[span, : 2 * i], hidden_gradient[span], b, v)
        normed_gradient = space.normed_gradient[:count]
        self._linear_backward("gu", layer, gate_up, tail.normed, normed_gradient, spans, has_v=True)
        ops.norm_backward(
            normed_gradient, tail.middle, tail.rstd, self.weights.norm2[layer], gradient[:, : arch.hidden]
        )

    def _linear_backward(
        self,
        name: str,
        layer: int,
        dy: Tensor,
        x: Tensor,
        dx: Tensor | None,
        spans: Sequence[slice],
        has_v: bool = False,
    ) -> None:
        """Add the adapters' gradients of a group and write that of its input.

        Args:
            name: The group.
            layer: The layer.
            dy: [T, N + E], its first N columns filled.
            x: [T, K + E], as the forward pass left it.
            dx: [T, K]; None where nobody needs it, as below the first layer.
            spans: The rows of each adapter.
            has_v: Whether dy s*B is already in its columns of dy.
        """
        ops, rank = self.ops, self.rank
        group, matrix = self.groups[name], self.weights.packed[name][layer]
        k, n, count = group.columns, group.outputs, len(group.modules) * rank
        if not has_v:
            self._clear(dy, n, count)
        if dx is not None and self.dropout:
            self.ops.matmul(dy[:, :n], matrix[:n, :k], dx)
        for index, (adapter, span) in enumerate(zip(self.adapters, spans, strict=True)):
            first = index * count
            v = dy[span, n + first : n + first + count]
            if not has_v:
                ops.matmul(dy[span, :n], matrix[:n, k + first : k + first + count], v)
            start = 0
            for module, rows in enumerate(group.rows):
                column = k + first + module * rank
                b_gradient = adapter.b_gradients[name][module][layer]
                d_module, u = dy[span, start : start + rows], x[span, column : column + rank]
                ops.accumulate(d_module.T, u, b_gradient, adapter.scale)
                start += rows
            a_gradient = adapter.a_gradients[name][layer]
            if not self.dropout:
                ops.accumulate(v.T, x[span, :k], a_gradient)
                continue
            mask = self._mask(name, layer, index)
            ops.lora_a_gradient(v, x[span, :k], a_gradient, rank, mask)
            if dx is not None:
                a = matrix[n + first : n + first + count, :k]
                ops.lora_input_gradient(v, a, dx[span], rank, mask)
        if dx is not None and not self.dropout:
            self.ops.matmul(dy, matrix[:, :k], dx)


def _log_sum_of(tail: Tail, rows: slice, heads: int) -> Tensor:
    """Return the place of some rows' log-sum-exp, [H rows]: a part's lies where its rows begin."""
    return tail.log_sum[heads * rows.start : heads * rows.stop]
