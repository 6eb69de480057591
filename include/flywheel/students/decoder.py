"""The forward pass of a Llama-like decoder over flat tokens, on the weights of a Hugging Face model.

The model's own `forward` computes all places of all layers, with masks and caches. Here attention is a
function that the caller gives, and the last layer computes its queries, MLP and logits only at the places
that predict an answer: nearly a quarter of a four-layer student is saved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from flywheel.common.errors import StudentError
from flywheel.students import lora
from flywheel.students.lora import Dropout, Linear
from flywheel.students.normed import Norm, rotate
from flywheel.students.products import padding

# Model types that this forward pass is right for, as transformers names them.
SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
# Rotary embeddings whose frequencies do not depend on the length of the text.
_FIXED_ROTARY = ("default", "linear", "llama3", "yarn")

# attend(layer, q [Tq, H, D], k [T, Hkv, D], v [T, Hkv, D]) -> [Tq, H, D]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer."""

    attention_norm: Norm
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    mlp_norm: Norm
    gate: Linear
    up: Linear
    down: Linear

    def merged(self) -> Layer:
        """Return the layer with its adapters merged into the weights."""
        names = ("q", "k", "v", "o", "gate", "up", "down")
        return replace(self, **{name: getattr(self, name).merged() for name in names})


def answering_decoder(model: Any) -> Decoder:
    """Return a model's decoder as it answers fastest: on a CPU with its adapters merged.

    In bf16 the sum W + s B A would round the adapter away; on a GPU it stays beside the weights.
    """
    decoder = Decoder(model)
    return decoder.merge() if decoder.device.type == "cpu" else decoder


class Decoder:
    """A view of a causal LM's weights, of a plain or a peft model, that computes flat rows.

    Args:
        model: a Hugging Face causal LM of a supported architecture, or a peft LoRA model around one.

    Raises:
        StudentError: the architecture is not supported.
    """

    def __init__(self, model: Any) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        config = base.config
        _check_supported(config)
        inner = base.model
        self.config = config
        self.embedding: Tensor = inner.embed_tokens.weight  # [V, d]
        self.output: Tensor = base.lm_head.weight  # [V, d]
        self.norm = _norm(inner.norm)
        self.layers = [_layer(layer) for layer in inner.layers]
        attention = inner.layers[0].self_attn
        self.head_dim: int = attention.head_dim
        self.scale: float = attention.scaling
        self._rotary = inner.rotary_emb
        self._rotary_table: tuple[Tensor, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the base weights and of the activations."""
        return self.embedding.dtype

    def merge(self) -> Decoder:
        """Merge the adapters into copies of the weights, for answering; the model stays as it is."""
        self.layers = [layer.merged() for layer in self.layers]
        return self

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        attend: Attend,
        *,
        end: int,
        at: Tensor | None = None,
        dropout: Dropout | None = None,
    ) -> Tensor:
        """Return the normalised last hidden states.

        Args:
            tokens: [T].
            positions: [T].
            end: beyond the highest position.
            attend: the attention; where `at` is given, the last layer's queries are at those places alone.
            at: places whose states are wanted, [N]; None for all.
            dropout: of the adapters' inputs, in training.

        Returns:
            [N, d], or [T, d].
        """
        cos, sin = self._rotary_at(positions, end)  # [T, 1, D]
        count, last = len(tokens), len(self.layers) - 1
        spare = padding(count) if lora.is_by_onednn(self.layers[0].q) else 0
        x = _padded(nn.functional.embedding(tokens, self.embedding), spare)  # [T + spare, d]
        for index, layer in enumerate(self.layers):
            chosen = at if index == last else None
            normed = layer.attention_norm(x)
            if chosen is None:
                q, k, v = lora.apply([layer.q, layer.k, layer.v], normed, dropout)
                q_cos, q_sin = cos, sin
            else:
                k, v = lora.apply([layer.k, layer.v], normed, dropout)
                (q,) = lora.apply([layer.q], normed.index_select(0, chosen), dropout)
                x, q_cos, q_sin = (tensor.index_select(0, chosen) for tensor in (x, cos, sin))
            q, k, v = (part[:count] for part in (q, k, v))
            q, k, v = (part.view(len(part), -1, self.head_dim) for part in (q, k, v))  # [T, heads, D]
            if layer.q_norm is not None and layer.k_norm is not None:
                q, k = layer.q_norm(q), layer.k_norm(k)
            out = attend(index, rotate(q, q_cos, q_sin), rotate(k, cos, sin), v).flatten(1)
            (out,) = lora.apply([layer.o], out if chosen is not None else _padded(out, spare), dropout)
            x = x + out
            gate, up = lora.apply([layer.gate, layer.up], layer.mlp_norm(x), dropout)
            (out,) = lora.apply([layer.down], nn.functional.silu(gate) * up, dropout)
            x = x + out
        return self.norm(x if at is not None else x[:count])

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, d] -> [N, V], in fp32."""
        return nn.functional.linear(hidden, self.output).float()

    def _rotary_at(self, positions: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """Return (cos, sin) of positions [T], all below `end`: [T, 1, D] each."""
        if self._rotary_table is None or len(self._rotary_table[0]) < end:
            # A table up to the next power of two, as positions recur from row to row.
            places = torch.arange(1 << (end - 1).bit_length(), device=self.device)
            cos, sin = self._rotary(self.embedding[:1].unsqueeze(0), position_ids=places.unsqueeze(0))
            self._rotary_table = (cos[0].unsqueeze(1), sin[0].unsqueeze(1))
        cos, sin = self._rotary_table
        return cos.index_select(0, positions), sin.index_select(0, positions)


def _padded(x: Tensor, rows: int) -> Tensor:
    """Return x [T, d] with so many rows of zeros behind it."""
    return nn.functional.pad(x, (0, 0, 0, rows)) if rows else x


def _check_supported(config: Any) -> None:
    kind = getattr(config, "model_type", None)
    if kind not in SUPPORTED:
        raise StudentError(
            f"model type {kind!r} is not supported; a student is one of {', '.join(SUPPORTED)}"
        )
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotary not in _FIXED_ROTARY:
        raise StudentError(
            f"rotary embedding {rotary!r} is not supported; expected one of {', '.join(_FIXED_ROTARY)}"
        )
    if config.hidden_act != "silu":
        raise StudentError(f"activation {config.hidden_act!r} is not supported; expected 'silu'")
    sliding = getattr(config, "layer_types", None) or ()
    if any(kind != "full_attention" for kind in sliding) or (
        kind == "mistral" and getattr(config, "sliding_window", None)
    ):
        raise StudentError("attention with a sliding window is not supported")


def _norm(module: Any) -> Norm:
    return Norm(module.weight, float(module.variance_epsilon))


def _layer(module: Any) -> Layer:
    attention, mlp = module.self_attn, module.mlp
    return Layer(
        attention_norm=_norm(module.input_layernorm),
        q=Linear.of(attention.q_proj),
        k=Linear.of(attention.k_proj),
        v=Linear.of(attention.v_proj),
        o=Linear.of(attention.o_proj),
        q_norm=_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        k_norm=_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        mlp_norm=_norm(module.post_attention_layernorm),
        gate=Linear.of(mlp.gate_proj),
        up=Linear.of(mlp.up_proj),
        down=Linear.of(mlp.down_proj),
    )
