# mypy: disable-error-code="no-untyped-call"
"""Greedy answers to many prompts at once: the prefix once, the prompts in one row, then one token a step.

A prompt's keys and values stay where the prefill left them; new ones go to a small static cache. A decoding
step has fixed shapes, so on CUDA it is captured once as a graph and replayed for every token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from flywheel.students.gpu.engine import KernelEngine
from flywheel.students.gpu.layout import Adapter, Weights
from flywheel.students.gpu.prefilled import Prefilled
from flywheel.students.gpu.workspace import Workspace
from flywheel.students.rows import Row, Sample, Tokens, build_row


class GpuDecoder:
    """Answers prompts greedily.

    Args:
        weights: The packed weights, the adapter packed into them.
        adapter: The adapter; zeros for the base model.
        stop: Ids that end an answer.
        most: Longest answer, in tokens.
        graphs: Whether decoding steps are replayed as CUDA graphs.
    """

    def __init__(
        self,
        weights: Weights,
        adapter: Adapter,
        stop: Collection[int],
        most: int,
        graphs: bool | None = None,
    ) -> None:
        self.engine = KernelEngine(weights, adapter)
        self._prefill = Prefilled(self.engine, decodes=True)
        self.weights, self.arch = weights, weights.arch
        self.device = weights.embedding.device
        self.stop = torch.tensor(sorted(stop), dtype=torch.int64, device=self.device)
        self.most = most
        self.graphs = weights.embedding.is_cuda if graphs is None else graphs
        # The graph with what it was captured for: the buffers among others, whose addresses it holds.
        self._graph: tuple[object, torch.cuda.CUDAGraph] | None = None
        self._step_space: Workspace | None = None
        self._state: dict[str, Tensor] = {}

    @torch.no_grad()
    def answer(self, prefix: Tokens, prompts: Sequence[Tokens]) -> list[list[int]]:
        """Return each prompt's answer as token ids, without the id that ended it.

        Args:
            prefix: What all prompts begin with; may be empty.
            prompts: The prompts, prefix included, each longer than it.
        """
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        nothing = np.zeros(1, np.int32)  # a row drops each answer's last token, so this one is never seen
        row = build_row(prefix, [Sample(prompts[index], nothing) for index in order])
        lengths = torch.from_numpy(np.diff(row.samples).astype(np.int32)).to(self.device)
        starts = torch.from_numpy((row.samples[:-1] + len(prefix)).astype(np.int32)).to(self.device)
        made = self._generate(row, starts, lengths).tolist()
        stops = set(self.stop.tolist())
        answers: list[list[int]] = [[] for _ in prompts]
        for index, tokens in zip(order, made, strict=True):
            end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
            answers[index] = tokens[:end]
        return answers

    def _generate(self, row: Row, starts: Tensor, lengths: Tensor) -> Tensor:
        """Return the tokens made, [S, at most `most`]."""
        samples, prefix = len(starts), row.prefix
        before = self._prefill.space
        hidden = self._prefill(row)
        space = self._prefill.space
        assert space is not None
        if space is not before:
            self._graph = None
        state = self._prepare(samples, prefix, starts, lengths)
        state["tokens"].copy_(self._pick(hidden[:samples]))
        made = torch.empty(samples, self.most, dtype=torch.int64, device=self.device)
        ended = torch.zeros(samples, dtype=torch.bool, device=self.device)
        for step in range(self.most):
            made[:, step] = state["tokens"]
            ended |= torch.isin(state["tokens"], self.stop)
            if step + 1 == self.most or bool(ended.all()):
                return made[:, : step + 1]
            self._run_step(space, prefix, samples)
        return made

    def _prepare(self, samples: int, prefix: int, starts: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Set up the state of a batch in static tensors."""
        arch, dtype = self.arch, self.weights.embedding.dtype
        if not self._state or len(self._state["tokens"]) != samples:
            self._graph = None
            device = self.device
            self._state = {
                "tokens": torch.zeros(samples, dtype=torch.int64, device=device),
                "positions": torch.zeros(samples, dtype=torch.int32, device=device),
                "starts": torch.zeros(samples, dtype=torch.int32, device=device),
                "lengths": torch.zeros(samples, dtype=torch.int32, device=device),
                "step": torch.zeros(1, dtype=torch.int64, device=device),
                "new": torch.zeros(
                    arch.layers, samples, self.most, 2 * arch.kv_width, dtype=dtype, device=device
                ),
            }
            self._step_space = Workspace(arch, self.weights.rank, samples, samples, dtype, device, keep="qkv")
        state = self._state
        state["positions"].copy_(lengths + prefix)
        state["starts"].copy_(starts)
        state["lengths"].copy_(lengths)
        state["step"].zero_()
        return state

    def _run_step(self, space: Workspace, prefix: int, samples: int) -> None:
        """Make one more token for each sample, by the graph if there is one."""
        if not self.graphs:
            self._step(space, prefix)
            return
        key = (prefix, samples)
        if self._graph is None or self._graph[0] != key:
            kept = {name: self._state[name].clone() for name in ("tokens", "positions", "step")}
            self._step(space, prefix)  # compiles kernels and makes library handles
            torch.cuda.synchronize()
            for name, value in kept.items():
                self._state[name].copy_(value)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._step(space, prefix)
            self._graph = (key, graph)
        self._graph[1].replay()

    def _step(self, space: Workspace, prefix: int) -> None:
        engine, arch, w, state = self.engine, self.arch, self.weights, self._state
        ops, here = engine.ops, self._step_space
        assert here is not None
        x, y = torch.index_select(w.embedding, 0, state["tokens"]), None
        for layer in range(arch.layers):
            head, tail = here.heads[layer], here.tails[layer]
            ops.add_norm(x, y, w.norm1[layer], arch.eps, head.x, head.normed[:, : arch.hidden], head.rstd)
            qkv = head.qkv[:, : engine.groups["qkv"].outputs]
            engine.linear("qkv", layer, head.normed, qkv)
            ops.rotate(
                qkv[:, : arch.q_width + arch.kv_width], state["positions"], w.cos, w.sin, arch.head_dim, 1
            )
            q = qkv[:, : arch.q_width].view(-1, arch.heads, arch.head_dim)
            state["new"][layer].index_copy_(1, state["step"], qkv[:, None, arch.q_width :])
            _, k, v = engine.split(space.heads[layer].qkv[:, : engine.groups["qkv"].outputs])
            scale = arch.head_dim**-0.5
            before = ops.prefix_attention(q, k[:prefix], v[:prefix], scale) if prefix else None
            out = tail.out[:, : arch.q_width].view(-1, arch.heads, arch.head_dim)
            ops.decode_attention(
                q,
                k,
                v,
                state["starts"],
                state["lengths"],
                state["new"][layer],
                state["step"],
                before,
                scale,
                out,
            )
            y = here.y
            engine.linear("o", layer, tail.out, y)
            ops.add_norm(
                head.x, y, w.norm2[layer], arch.eps, tail.middle, tail.normed[:, : arch.hidden], tail.rstd
            )
            gate_up = tail.gate_up[:, : 2 * arch.intermediate]
            engine.linear("gu", layer, tail.normed, gate_up)
            engine.swiglu(layer, gate_up, tail.hidden)
            engine.linear("down", layer, tail.hidden, y, has_u=True)
            x = tail.middle
        ops.add_norm(x, y, w.norm, arch.eps, here.final, here.final_normed, here.final_rstd)
        state["tokens"].copy_(self._pick(here.final_normed))
        state["positions"].add_(1)
        state["step"].add_(1)

    def _pick(self, normed: Tensor) -> Tensor:
        """Return the likeliest next token of each row of the last norm's output, [S]."""
        return torch.mm(normed, self.weights.head.T).argmax(-1)
