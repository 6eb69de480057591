# mypy: disable-error-code="no-untyped-call"
"""A training step of a LoRA student, forward and backward written out: `Engine.step(row) -> loss`.

Autograd is not used. Written out, the step keeps what it needs and no more, computes no gradient of a
frozen weight (a third of full training's arithmetic), puts each LoRA product into the frozen matmul beside
it (`layout`), runs the last layer only where the loss looks, and makes logits only there. `reference` says
what each operation computes; `kernels` are the same operations on CUDA.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from flywheel.students.gpu import reference
from flywheel.students.gpu.layout import Adapter, LayerGroup, Weights
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


class KernelEngine:
    """One student's step. The adapter's gradients accumulate in `adapter.gradients`.

    Args:
        weights: The packed frozen weights; `adapter.pack_into(weights)` after each optimizer step.
        adapter: The adapter that is trained.
        dropout: Probability with which an input of an adapter is dropped, as PEFT does: each linear layer
            draws its own mask.
        ops: The operations; by default the CUDA kernels where the weights are on a GPU, else `reference`.
    """

    def __init__(
        self,
        weights: Weights,
        adapter: Adapter,
        dropout: float = 0.0,
        ops: ModuleType | None = None,
    ) -> None:
        self.weights, self.adapter, self.arch = weights, adapter, weights.arch
        self.dropout, self.rank = dropout, weights.rank
        self.groups: dict[str, LayerGroup] = {group.name: group for group in self.arch.groups}
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
        self._seed = torch.zeros(1, dtype=torch.int64, device=device)
        self._scale = torch.ones(1, dtype=torch.float32, device=device)

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
            space = Workspace(self.arch, self.rank, tokens, answers, embedding.dtype, embedding.device)
            self._workspace = space
            self.workspaces += 1
        return space

    @torch.no_grad()
    def step(self, row: DeviceRow, scale: float, seed: int = 0) -> Tensor:
        """Compute a row's loss and add its gradient to the adapter's.

        Args:
            row: The row.
            scale: What the gradient of the summed loss is multiplied by, 1 / answer tokens of the step.
            seed: Of the dropout masks; the same seed draws the same masks.

        Returns:
            The loss, summed over the answer tokens: an fp32 scalar on the device.
        """
        self.prepare(scale, seed)
        return self.compute(row)

    def prepare(self, scale: float, seed: int) -> None:
        """Put on the device what changes from step to step."""
        self._scale.fill_(scale)
        self._seed.fill_(spread(seed))

    def compute(self, row: DeviceRow) -> Tensor:
        """The step without what changes from step to step: the same kernels for each row of a shape."""
        tokens, asked = len(row.tokens), len(row.loss_rows)
        space = self.workspace(tokens, asked)
        self.forward(row, space)
        loss = self._loss(row, space, gradient=True)
        self._backward(row, space, tokens, asked)
        return loss

    @torch.no_grad()
    def loss(self, row: DeviceRow) -> Tensor:
        """Return the loss, summed over the answer tokens, without dropout or a gradient: an fp32 scalar."""
        tokens, asked, embedding = len(row.tokens), len(row.loss_rows), self.weights.embedding
        space = Workspace(
            self.arch, self.rank, tokens, asked, embedding.dtype, embedding.device, keep="nothing"
        )
        dropout, self.dropout = self.dropout, 0.0  # as the student will answer
        try:
            self.forward(row, space)
            return self._loss(row, space, gradient=False)
        finally:
            self.dropout = dropout

    # Forward

    @torch.no_grad()
    def forward(self, row: DeviceRow, space: Workspace) -> Tensor:
        """Fill the workspace; return the last norm's output at the row's `loss_rows`, a view of it: [N, d].

        Where the row's prefix is not among its tokens, its keys and values are in the workspace already.
        """
        ops, w, arch, before = self.ops, self.weights, self.arch, row.before
        tokens, asked, outputs = len(row.tokens), len(row.loss_rows), self.groups["qkv"].outputs
        x = torch.index_select(w.embedding, 0, row.tokens)  # [T, d]
        y: Tensor | None = None
        for layer in range(arch.layers):
            is_last = layer == arch.layers - 1
            head = space.heads[layer].rows(tokens)
            normed = head.normed[:, : arch.hidden]
            ops.add_norm(x, y, w.norm1[layer], arch.eps, head.x, normed, head.rstd)
            whole = space.heads[layer].qkv[: before + tokens, :outputs]
            qkv = whole[before:]
            q, count, residual = qkv, tokens, head.x
            if is_last:
                count, residual = asked, torch.index_select(head.x, 0, row.loss_rows)
            if is_last and not space.trains:
                q = self._asked_queries(layer, row, head.normed, qkv)
            else:
                self.linear("qkv", layer, head.normed, qkv)
                rotated = qkv[:, : arch.q_width + arch.kv_width]
                ops.rotate(rotated, row.positions, w.cos, w.sin, arch.head_dim, 1)
                q = torch.index_select(qkv, 0, row.loss_rows) if is_last else qkv
            q = q[:, : arch.q_width].view(count, arch.heads, arch.head_dim)
            _, k, v = self.split(whole)
            tail = space.tails[layer].rows(count, arch.heads)
            out = tail.out[:, : arch.q_width].view(-1, arch.heads, arch.head_dim)
            plan = row.last if is_last else row.full
            log_sum = ops.attention(q, k, v, plan, arch.head_dim**-0.5, out)
            tail.log_sum.copy_(log_sum.reshape(-1))
            y = space.y[:count]
            self.linear("o", layer, tail.out, y)
            ops.add_norm(
                residual, y, w.norm2[layer], arch.eps, tail.middle, tail.normed[:, : arch.hidden], tail.rstd
            )
            gate_up = tail.gate_up[:, : 2 * arch.intermediate]
            self.linear("gu", layer, tail.normed, gate_up)
            self.swiglu(layer, gate_up, tail.hidden)
            self.linear("down", layer, tail.hidden, y, has_u=True)
            x = tail.middle
        final = space.final_normed[:asked]
        ops.add_norm(x, y, w.norm, arch.eps, space.final[:asked], final, space.final_rstd[:asked])
        return final

    def linear(self, name: str, layer: int, x: Tensor, out: Tensor, has_u: bool = False) -> None:
        """out = x W^T + LoRA, for a group.

        Args:
            name: The group.
            layer: The layer.
            x: [T, K + E], its first K columns filled.
            out: [T, N].
            has_u: Whether the LoRA product x A^T is already in its columns of x.
        """
        group, matrix = self.groups[name], self.weights.packed[name][layer]
        if not has_u:
            self._lora_product(name, layer, x)
        self.ops.matmul(x, matrix[: group.outputs].T, out)

    def _lora_product(self, name: str, layer: int, x: Tensor) -> None:
        """Put x A^T of a group into its columns of x."""
        group, matrix = self.groups[name], self.weights.packed[name][layer]
        k, n, count = group.columns, group.outputs, len(group.modules) * self.rank
        if not self.rank:
            return
        a, u = matrix[n : n + count, :k], x[:, k : k + count]
        if self.dropout:
            self.ops.lora_down(x[:, :k], a, u, self.rank, self._mask(name, layer))
        else:
            self.ops.matmul(x[:, :k], a.T, u)

    def _asked_queries(self, layer: int, row: DeviceRow, x: Tensor, qkv: Tensor) -> Tensor:
        """Fill k and v of all of a row's tokens; return q of its `loss_rows` alone, [N, H D].

        Args:
            layer: The layer.
            row: The row.
            x: [T, K + E], its first K columns filled.
            qkv: [T, N].
        """
        ops, arch, w, asked = self.ops, self.arch, self.weights, row.loss_rows
        matrix, width = w.packed["qkv"][layer][: self.groups["qkv"].outputs], arch.q_width
        self._lora_product("qkv", layer, x)
        ops.matmul(x, matrix[width:].T, qkv[:, width:])
        k = qkv[:, width : width + arch.kv_width]
        ops.rotate(k, row.positions, w.cos, w.sin, arch.head_dim, 1)
        q = torch.empty(len(asked), width, dtype=qkv.dtype, device=qkv.device)
        ops.matmul(torch.index_select(x, 0, asked), matrix[:width].T, q)
        positions = torch.index_select(row.positions, 0, asked)
        ops.rotate(q, positions, w.cos, w.sin, arch.head_dim, 1)
        return q

    def swiglu(self, layer: int, gate_up: Tensor, hidden: Tensor) -> None:
        """Fill hidden, [T, I + E], and the LoRA product of the layer that reads it."""
        i, d, rank = self.arch.intermediate, self.arch.hidden, self.rank
        a = self.weights.packed["down"][layer][d : d + rank, :i]
        self.ops.swiglu(gate_up, hidden[:, :i], a, hidden[:, i : i + rank], self._mask("down", layer))

    def _mask(self, name: str, layer: int) -> reference.Mask:
        """Return the dropout of a group's inputs in a layer."""
        place = spread(layer * 4 + ("qkv", "o", "gu", "down").index(name))
        return reference.Mask(self.dropout, self._seed, place & ~3)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return views of q [T, H, D], k and v [T, Hkv, D]."""
        arch = self.arch
        q, k, v = qkv.split((arch.q_width, arch.kv_width, arch.kv_width), 1)
        rows, d = qkv.shape[0], arch.head_dim
        return q.view(rows, -1, d), k.view(rows, -1, d), v.view(rows, -1, d)

    def _loss(self, row: DeviceRow, space: Workspace, gradient: bool) -> Tensor:
        """Return the loss; if asked to, leave the gradient of the last norm's output in its place."""
        asked, head = len(row.loss_rows), self.weights.head
        losses = []
        for start in range(0, asked, LOGIT_ROWS):
            some = slice(start, min(start + LOGIT_ROWS, asked))
            x = space.final_normed[some]
            logits = torch.empty(x.shape[0], head.shape[0], dtype=x.dtype, device=x.device)
            self.ops.matmul(x, head.T, logits)
            losses.append(self.ops.cross_entropy(logits, row.targets[some], self._scale).sum())
            if gradient:
                self.ops.matmul(logits, head, x)
        return torch.stack(losses).sum()

    # Backward

    def _backward(self, row: DeviceRow, space: Workspace, tokens: int, asked: int) -> None:
        ops, w, arch, d = self.ops, self.weights, self.arch, self.arch.hidden
        last = space.last_gradient[:asked]
        last[:, :d].zero_()
        ops.norm_backward(
            space.final_normed[:asked], space.final[:asked], space.final_rstd[:asked], w.norm, last[:, :d]
        )
        gradient = last
        for layer in reversed(range(arch.layers)):
            is_last = layer == arch.layers - 1
            count = asked if is_last else tokens
            tail, head = space.tails[layer].rows(count, arch.heads), space.heads[layer].rows(tokens)
            self._mlp_backward(layer, tail, gradient, space)
            out_gradient = space.out_gradient[:count]
            self._linear_backward("o", layer, gradient, tail.out, out_gradient[:, : arch.q_width])
            qkv_gradient = space.qkv_gradient[:tokens]
            q, k, v = self.split(head.qkv[:, : self.groups["qkv"].outputs])
            dq, dk, dv = self.split(qkv_gradient[:, : self.groups["qkv"].outputs])
            if is_last:
                q = torch.index_select(q, 0, row.loss_rows)
            dq_asked = torch.empty_like(q) if is_last else dq
            d_out = out_gradient[:, : arch.q_width].view(count, arch.heads, -1)
            out = tail.out[:, : arch.q_width].view(count, arch.heads, -1)
            plan, scale = row.last if is_last else row.full, arch.head_dim**-0.5
            ops.attention_backward(d_out, q, k, v, out, tail.log_sum, plan, scale, dq_asked, dk, dv)
            if is_last:  # from the places that ask back to all rows
                gradient, loss_rows = space.gradient[:tokens], row.loss_rows.long()
                gradient[:, :d].zero_()
                gradient[:, :d].index_copy_(0, loss_rows, last[:, :d])
                dq.zero_()
                dq.index_copy_(0, loss_rows, dq_asked)
            rotated = qkv_gradient[:, : arch.q_width + arch.kv_width]
            ops.rotate(rotated, row.positions, w.cos, w.sin, arch.head_dim, -1)
            normed_gradient = space.normed_gradient[:tokens] if layer else None
            self._linear_backward("qkv", layer, qkv_gradient, head.normed, normed_gradient)
            if normed_gradient is not None:
                ops.norm_backward(normed_gradient, head.x, head.rstd, w.norm1[layer], gradient[:, :d])

    def _mlp_backward(self, layer: int, tail: Tail, gradient: Tensor, space: Workspace) -> None:
        """Add the MLP's part to the residual stream's gradient."""
        ops, arch, count, rank = self.ops, self.arch, gradient.shape[0], self.rank
        hidden_gradient = space.hidden_gradient[:count]
        self._linear_backward("down", layer, gradient, tail.hidden, hidden_gradient)
        i, d, gate_up = arch.intermediate, arch.hidden, tail.gate_up
        b = self.weights.packed["gu"][layer][: 2 * i, d : d + 2 * rank]
        ops.swiglu_backward(gate_up[:, : 2 * i], hidden_gradient, b, gate_up[:, 2 * i : 2 * (i + rank)])
        normed_gradient = space.normed_gradient[:count]
        self._linear_backward("gu", layer, gate_up, tail.normed, normed_gradient, has_v=True)
        ops.norm_backward(
            normed_gradient, tail.middle, tail.rstd, self.weights.norm2[layer], gradient[:, : arch.hidden]
        )

    def _linear_backward(
        self, name: str, layer: int, dy: Tensor, x: Tensor, dx: Tensor | None, has_v: bool = False
    ) -> None:
        """Add the adapter's gradients of a group and write that of its input.

        Args:
            name: The group.
            layer: The layer.
            dy: [T, N + E], its first N columns filled.
            x: [T, K + E], as the forward pass left it.
            dx: [T, K]; None where nobody needs it, as below the first layer.
            has_v: Whether dy s*B is already in its columns of dy.
        """
        ops, rank, adapter = self.ops, self.rank, self.adapter
        group, matrix = self.groups[name], self.weights.packed[name][layer]
        k, n, count = group.columns, group.outputs, len(group.modules) * rank
        v = dy[:, n : n + count]
        if not has_v:
            ops.matmul(dy[:, :n], matrix[:n, k : k + count], v)
        start = 0
        for module, rows in enumerate(group.rows):
            column = k + module * rank
            d_module, u = dy[:, start : start + rows], x[:, column : column + rank]
            ops.accumulate(d_module.T, u, adapter.b_gradients[name][module][layer], adapter.scale)
            start += rows
        a_gradient = adapter.a_gradients[name][layer]
        if not self.dropout:
            ops.accumulate(v.T, x[:, :k], a_gradient)
            if dx is not None:
                ops.matmul(dy, matrix[:, :k], dx)
            return
        mask = self._mask(name, layer)
        ops.lora_a_gradient(v, x[:, :k], a_gradient, rank, mask)
        if dx is not None:
            ops.matmul(dy[:, :n], matrix[:n, :k], dx)
            ops.lora_input_gradient(v, matrix[n : n + count, :k], dx, rank, mask)
