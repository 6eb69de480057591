"""Where the GPU path keeps a student's numbers: packed frozen weights and one flat adapter.

Linear layers that read the same input form a *group*: q, k, v; o; gate, up; down. A group is one matrix
(per layer; all layers are stacked), packed so that LoRA costs the frozen matmul `E` more columns and
nothing else:

                K columns      E columns
    N rows   [     W       |  s*B, block-diagonal, then a bias column ]
    E rows   [  A, stacked |  0                                       ]

forward    u = x A^T;  y  = [x, u] [W, s*B]^T          K + E columns in one matmul
backward   v = dy s*B; dx = [dy, v] [W; A]             N + E columns in one matmul

which is LoRA (Hu et al., 2021, arXiv 2106.09685) as PEFT computes it: y = W x + s B (A x). E is a multiple
of 64, the matmul's tile, so r = 16 adds one tile to 32 and more.

The adapter is one flat fp32 vector (as PEFT keeps adapters in fp32) with a flat gradient beside it: the
optimizer is one kernel, and `Adapter.bind` turns a PEFT model's parameters into views of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

TILE = 64


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Linear layers that share their input.

    Args:
        name: Key of the group.
        path: Their parent module inside a decoder layer.
        modules: Their names, in the order in which their outputs are stacked.
        columns: K, the input's width.
        rows: Each one's output width; N is their sum.
        bias: Whether they have a bias (Qwen2's q, k, v do).
    """

    name: str
    path: str
    modules: tuple[str, ...]
    columns: int
    rows: tuple[int, ...]
    bias: bool = False

    @property
    def outputs(self) -> int:
        """N, the width of the stacked outputs."""
        return sum(self.rows)

    def padding(self, rank: int) -> int:
        """E, the columns that LoRA (and a bias) add, a multiple of the matmul's tile."""
        wanted = len(self.modules) * rank + int(self.bias)
        return -(-wanted // TILE) * TILE


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of a Llama-like decoder."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    eps: float
    qkv_bias: bool

    @classmethod
    def of(cls, config: Any) -> Architecture:
        """Read the shape from a transformers config.

        Raises:
            ValueError: The GPU path does not know this architecture; the message says what is unknown.
        """
        reason = unsupported(config)
        if reason:
            raise ValueError(reason)
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
            eps=config.rms_norm_eps,
            qkv_bias=config.model_type == "qwen2",
        )

    @property
    def q_width(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key (or value) heads."""
        return self.kv_heads * self.head_dim

    @property
    def groups(self) -> tuple[LayerGroup, ...]:
        """The four groups of a layer, in the order in which they are computed."""
        d, i, q, kv = self.hidden, self.intermediate, self.q_width, self.kv_width
        return (
            LayerGroup("qkv", "self_attn", ("q_proj", "k_proj", "v_proj"), d, (q, kv, kv), self.qkv_bias),
            LayerGroup("o", "self_attn", ("o_proj",), q, (d,)),
            LayerGroup("gu", "mlp", ("gate_proj", "up_proj"), d, (i, i)),
            LayerGroup("down", "mlp", ("down_proj",), i, (d,)),
        )


def unsupported(config: Any) -> str | None:
    """Return why the GPU path cannot run this architecture, or None if it can."""
    if config.model_type not in ("llama", "mistral", "qwen2"):
        return f"model_type {config.model_type!r} is not one of llama, mistral, qwen2"
    if getattr(config, "hidden_act", "silu") != "silu":
        return f"hidden_act {config.hidden_act!r} is not silu"
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        return "attention_bias or mlp_bias is set"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "sliding-window attention"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") in ("dynamic", "longrope"):
        return f"rope_type {rope['rope_type']!r} depends on the sequence length"
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim not in (16, 32, 64, 128):
        return f"head_dim {head_dim} is not 16, 32, 64 or 128"
    return None


@dataclass(slots=True)
class Weights:
    """A student's frozen weights in the packed layout, all layers stacked.

    Attributes:
        packed: Group name -> [layers, N + E, K + E].
        norm1, norm2: RMSNorm weights before attention and before the MLP, [layers, d].
        norm: The last RMSNorm's weight, [d].
        embedding, head: [vocabulary, d]; one tensor when the model ties them.
        cos, sin: RoPE tables, fp32 [positions, head_dim / 2].
    """

    arch: Architecture
    rank: int
    packed: dict[str, Tensor]
    norm1: Tensor
    norm2: Tensor
    norm: Tensor
    embedding: Tensor
    head: Tensor
    cos: Tensor
    sin: Tensor

    @classmethod
    def pack(
        cls,
        model: Any,
        rank: int,
        positions: int,
        dtype: torch.dtype,
        device: torch.device,
        release: bool = False,
    ) -> Weights:
        """Pack a transformers causal LM (not wrapped by PEFT, or `peft_model.get_base_model()`).

        Args:
            model: The model; its linear layers may be PEFT's wrappers.
            rank: r of the adapter to make room for.
            positions: Length of the RoPE tables: the longest sequence, prefix included.
            dtype: bf16 or fp32.
            device: Where the packed weights go.
            release: Free each linear layer's own weight once it is packed (3B and 8B need the memory).
        """
        arch = Architecture.of(model.config)
        decoder = model.model
        packed = {}
        for group in arch.groups:
            extra = group.padding(rank)
            matrix = torch.zeros(
                arch.layers, group.outputs + extra, group.columns + extra, dtype=dtype, device=device
            )
            for index, layer in enumerate(decoder.layers):
                start = 0
                for name, rows in zip(group.modules, group.rows, strict=True):
                    linear = getattr(getattr(layer, group.path), name)
                    linear = getattr(linear, "base_layer", linear)
                    matrix[index, start : start + rows, : group.columns].copy_(linear.weight.data)
                    if group.bias:
                        column = group.columns + len(group.modules) * rank
                        matrix[index, start : start + rows, column].copy_(linear.bias.data)
                    if release:
                        linear.weight.data = torch.empty(0, dtype=dtype, device=device)
                    start += rows
            packed[group.name] = matrix

        def put(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device=device, dtype=dtype)

        embedding = put(model.get_input_embeddings().weight)
        head_weight = model.get_output_embeddings().weight
        tied = head_weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
        angles = (
            torch.arange(positions, dtype=torch.float32)[:, None]
            * decoder.rotary_emb.inv_freq.detach().float().cpu()[None, :]
        )
        scaling = float(decoder.rotary_emb.attention_scaling)
        return cls(
            arch=arch,
            rank=rank,
            packed=packed,
            norm1=torch.stack([put(layer.input_layernorm.weight) for layer in decoder.layers]),
            norm2=torch.stack([put(layer.post_attention_layernorm.weight) for layer in decoder.layers]),
            norm=put(decoder.norm.weight),
            embedding=embedding,
            head=embedding if tied else put(head_weight),
            cos=(angles.cos() * scaling).to(device),
            sin=(angles.sin() * scaling).to(device),
        )


@dataclass(slots=True)
class Adapter:
    """A LoRA adapter as one flat fp32 vector and its flat gradient.

    Attributes:
        values, gradients: fp32 [parameters]; `values` is a leaf whose `.grad` is `gradients`.
        a, a_gradients: Group name -> [layers, modules * r, K], the group's A matrices one above another.
        b, b_gradients: Group name -> for each module [layers, rows, r].
    """

    arch: Architecture
    rank: int
    scale: float
    values: Tensor
    gradients: Tensor
    a: dict[str, Tensor] = field(default_factory=dict)
    b: dict[str, list[Tensor]] = field(default_factory=dict)
    a_gradients: dict[str, Tensor] = field(default_factory=dict)
    b_gradients: dict[str, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def zeros(cls, arch: Architecture, rank: int, scale: float, device: torch.device) -> Adapter:
        """Make an adapter of zeros."""
        shapes = [
            (group, rank * (len(group.modules) * group.columns + group.outputs)) for group in arch.groups
        ]
        total = arch.layers * sum(size for _, size in shapes)
        values = torch.zeros(total, device=device)
        adapter = cls(arch, rank, scale, values, torch.zeros_like(values))
        start = 0

        def views(*shape: int) -> tuple[Tensor, Tensor]:
            nonlocal start
            size = 1
            for length in shape:
                size *= length
            part = slice(start, start + size)
            start += size
            return adapter.values[part].view(shape), adapter.gradients[part].view(shape)

        for group in arch.groups:
            name = group.name
            adapter.a[name], adapter.a_gradients[name] = views(
                arch.layers, len(group.modules) * rank, group.columns
            )
            pairs = [views(arch.layers, rows, rank) for rows in group.rows]
            adapter.b[name] = [value for value, _ in pairs]
            adapter.b_gradients[name] = [gradient for _, gradient in pairs]
        adapter.values.grad = adapter.gradients
        return adapter

    def parts(self) -> Iterator[tuple[int, LayerGroup, int, str]]:
        """Yield (layer, group, index in the group, dotted name of the linear layer)."""
        for layer in range(self.arch.layers):
            for group in self.arch.groups:
                for index, module in enumerate(group.modules):
                    yield layer, group, index, f"model.layers.{layer}.{group.path}.{module}"

    def bind(self, peft_model: Any, name: str = "default") -> None:
        """Take over a PEFT model's adapter: its values move here, its parameters become views of this one."""
        with torch.no_grad():
            for parameter, value, gradient in self._pairs(peft_model, name):
                value.copy_(parameter.data)
                parameter.data = value
                parameter.grad = gradient

    def _pairs(self, peft_model: Any, name: str) -> Iterator[tuple[Any, Tensor, Tensor]]:
        """Yield (parameter, its values here, its gradient here)."""
        modules = dict(peft_model.get_base_model().named_modules())
        for layer, group, index, path in self.parts():
            rows = slice(index * self.rank, (index + 1) * self.rank)
            yield (
                modules[path].lora_A[name].weight,
                self.a[group.name][layer, rows],
                self.a_gradients[group.name][layer, rows],
            )
            yield (
                modules[path].lora_B[name].weight,
                self.b[group.name][index][layer],
                self.b_gradients[group.name][index][layer],
            )

    @torch.no_grad()
    def pack_into(self, weights: Weights) -> None:
        """Copy A and s*B into the packed matrices: 11 copies for all layers. Call it after each step."""
        rank = self.rank
        for group in self.arch.groups:
            matrix = weights.packed[group.name]
            count = len(group.modules) * rank
            first = group.outputs
            matrix[:, first : first + count, : group.columns].copy_(self.a[group.name])
            start = 0
            for index, (rows, b) in enumerate(zip(group.rows, self.b[group.name], strict=True)):
                column = group.columns + index * rank
                matrix[:, start : start + rows, column : column + rank].copy_(b * self.scale)
                start += rows
