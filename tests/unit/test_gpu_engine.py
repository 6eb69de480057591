"""The written-out step of the GPU path, on a CPU with the reference operations, against autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from flywheel.students.adapter import trainable
from flywheel.students.decoder import Decoder as ReferenceDecoder
from flywheel.students.engine import AutogradEngine
from flywheel.students.generation import generate
from flywheel.students.gpu import reference
from flywheel.students.gpu.backend import GpuEngine, gpu_answers, pack, reason_against
from flywheel.students.gpu.decoder import GpuDecoder
from flywheel.students.gpu.engine import KernelEngine
from flywheel.students.gpu.layout import Adapter, Architecture, Weights, unsupported
from flywheel.students.gpu.plan import place_row
from flywheel.students.gpu.prefilled import Prefilled
from flywheel.students.gpu.workspace import fitting_batch
from flywheel.students.rows import Sample, build_row

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
}


def make_peft(kind: str = "llama", dropout: float = 0.0, seed: int = 0):
    torch.manual_seed(seed)
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True))
    else:
        shape = {key: value for key, value in SHAPE.items() if key != "head_dim"} | {"hidden_size": 64}
        model = Qwen2ForCausalLM(Qwen2Config(**shape))
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=modules))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    return peft


def make_samples(prefix: int, count: int = 7, seed: int = 1) -> tuple[np.ndarray, list[Sample]]:
    rng = np.random.default_rng(seed)
    shared = rng.integers(0, 97, prefix, dtype=np.int32)
    samples = []
    for _ in range(count):
        own = rng.integers(0, 97, rng.integers(1, 90), dtype=np.int32)
        answer = rng.integers(0, 97, rng.integers(1, 9), dtype=np.int32)
        samples.append(Sample(np.concatenate([shared, own]), answer))
    return shared, samples


def make_engine(peft, dropout: float = 0.0, ops=None) -> KernelEngine:
    base = peft.get_base_model()
    weights = Weights.pack(base, 4, 256, torch.float32, CPU)
    adapter = Adapter.zeros(weights.arch, 4, 2.0, CPU)
    adapter.bind(peft)
    adapter.pack_into(weights)
    return KernelEngine(weights, adapter, dropout, ops)


def plain_gradients(peft, samples: list[Sample]) -> tuple[float, dict[str, torch.Tensor]]:
    """The plain loop in float64: each sample alone, through transformers and autograd."""
    double = peft.double()
    double.zero_grad(set_to_none=True)
    answers = sum(len(sample.answer) for sample in samples)
    total = 0.0
    for sample in samples:
        ids = torch.from_numpy(np.concatenate([sample.prompt, sample.answer]).astype(np.int64))
        logits = double(ids[None]).logits[0, len(sample.prompt) - 1 : -1]
        targets = torch.from_numpy(sample.answer.astype(np.int64))
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / answers
        loss.backward()
        total += float(loss.detach())
    return total, {name: p.grad for name, p in double.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("prefix", [0, 50])
def test_gradient_of_each_parameter_is_that_of_the_plain_loop(kind: str, prefix: int):
    shared, samples = make_samples(prefix)
    wanted_loss, wanted = plain_gradients(make_peft(kind), samples)
    peft = make_peft(kind)
    engine = make_engine(peft)
    row = build_row(shared, samples)
    loss = engine.step(place_row(row, CPU, tile=16, bucket=32), 1 / len(row.targets))
    assert float(loss) / len(row.targets) == pytest.approx(wanted_loss, rel=1e-6)
    found = {name: p.grad for name, p in peft.named_parameters() if "lora_" in name}
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        error = torch.linalg.norm(gradient - wanted[name]) / torch.linalg.norm(wanted[name])
        assert error < 1e-5, name


def test_rows_of_one_step_add_up():
    shared, samples = make_samples(40)
    whole, parts = make_engine(make_peft()), make_engine(make_peft())
    answers = sum(len(sample.answer) for sample in samples)
    whole.step(place_row(build_row(shared, samples), CPU), 1 / answers)
    for part in (samples[:3], samples[3:]):
        parts.step(place_row(build_row(shared, part), CPU), 1 / answers)
    # By the size of the gradient, as above: float32 in another order differs by 1e-6 of it on some processors.
    error = torch.linalg.norm(parts.adapter.gradients - whole.adapter.gradients)
    assert error < 1e-5 * torch.linalg.norm(whole.adapter.gradients)


class FixedMask(torch.nn.Module):
    """Stands in for a LoRA layer's dropout: the mask that the engine draws, as a constant."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask


def test_dropout_is_that_of_peft_with_a_mask_for_each_linear_layer():
    shared, samples = make_samples(30)
    row = build_row(shared, samples)
    peft = make_peft()
    engine = make_engine(peft, dropout=0.25)
    placed = place_row(row, CPU, bucket=32)
    engine.step(placed, 1.0, seed=11)
    found = engine.adapter.gradients.clone()

    plan, tokens = placed.full, len(placed.tokens)
    modules = dict(peft.get_base_model().named_modules())
    for layer, group, index, path in engine.adapter.parts():
        seed = int(engine._seed) ^ (engine._mask(group.name, layer).place + index)
        if layer == engine.arch.layers - 1 and group.name != "qkv":  # drawn for the places that ask
            mask = torch.zeros(tokens, group.columns)
            asked = placed.answers
            mask[placed.loss_rows[:asked]] = reference.keep_mask(asked, group.columns, seed, 0.25, CPU)
        else:
            mask = reference.keep_mask(tokens, group.columns, seed, 0.25, CPU)
        modules[path].lora_dropout["default"] = FixedMask(mask)
    peft.train()
    for parameter in peft.parameters():
        parameter.grad = None
    places = plan.places
    seen = (plan.query_sample[:, None] == plan.key_sample[None]) & (places[None] <= places[:, None])
    seen |= (plan.query_sample != 0)[:, None] & (plan.key_sample == 0)[None]
    mask = torch.zeros(1, 1, tokens, tokens).masked_fill(~seen[None, None], -1e30)
    logits = peft(
        placed.tokens[None], attention_mask=mask, position_ids=placed.positions[None].long()
    ).logits[0, placed.loss_rows[: placed.answers]]
    torch.nn.functional.cross_entropy(
        logits, placed.targets[: placed.answers].long(), reduction="sum"
    ).backward()
    for layer, group, index, path in engine.adapter.parts():
        rows = slice(index * 4, (index + 1) * 4)
        start = engine.adapter.a_gradients[group.name][layer, rows]
        flat = start.storage_offset()
        ours = found[flat : flat + start.numel()].view_as(start)
        wanted = modules[path].lora_A["default"].weight.grad
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))
        b = engine.adapter.b_gradients[group.name][index][layer]
        ours = found[b.storage_offset() : b.storage_offset() + b.numel()].view_as(b)
        wanted = modules[path].lora_B["default"].weight.grad
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


def test_dropout_mask_keeps_its_share_and_its_mean():
    mask = reference.keep_mask(512, 256, 7, 0.1, CPU)
    other = reference.keep_mask(512, 256, 8, 0.1, CPU)
    assert float((mask == 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert float(mask.mean()) == pytest.approx(1.0, abs=0.01)
    both = ((mask == 0) & (other == 0)).float().mean()
    assert float(both) == pytest.approx(0.01, abs=0.002)


def test_validation_loss_ignores_dropout():
    shared, samples = make_samples(30)
    row = place_row(build_row(shared, samples), CPU)
    with_dropout, without = make_engine(make_peft(), 0.5), make_engine(make_peft())
    assert float(with_dropout.loss(row)) == float(without.loss(row))


def test_bound_parameters_are_the_adapter():
    peft = make_peft()
    engine = make_engine(peft)
    engine.adapter.values.zero_()
    assert all(not p.any() for name, p in peft.named_parameters() if "lora_" in name)
    assert engine.adapter.values.numel() == sum(
        p.numel() for name, p in peft.named_parameters() if "lora_" in name
    )


def test_unknown_architectures_are_named():
    assert unsupported(LlamaConfig(**SHAPE)) is None
    reason = unsupported(LlamaConfig(**SHAPE, attention_bias=True))
    assert reason is not None and "attention_bias" in reason
    with pytest.raises(ValueError, match="mlp_bias"):
        Architecture.of(LlamaConfig(**SHAPE, mlp_bias=True))


@pytest.mark.parametrize("prefix", [0, 40])
def test_answers_are_those_of_generate(prefix: int):
    shared, samples = make_samples(prefix, count=5)
    peft = make_peft().eval()
    engine = make_engine(peft)
    decoder = GpuDecoder(engine.weights, engine.adapter, stop={3, 7, 11, 60, 61, 62}, most=9)
    found = decoder.answer(shared, [sample.prompt for sample in samples])
    for sample, answer in zip(samples, found, strict=True):
        ids = torch.from_numpy(sample.prompt.astype(np.int64))[None]
        made = peft.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False,
            eos_token_id=[3, 7, 11, 60, 61, 62], pad_token_id=0,
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        wanted = made[: next((i for i, t in enumerate(made) if t in {3, 7, 11, 60, 61, 62}), len(made))]
        assert answer == wanted


def test_gpu_engine_keeps_the_protocol_of_the_reference_engine():
    shared, samples = make_samples(30)
    row = build_row(shared, samples)
    ours, theirs = make_peft(), make_peft()
    fast, plain = GpuEngine(ours, 0.0, graphs=False), AutogradEngine(theirs, 0.0)
    optimizers = [torch.optim.AdamW([engine.values], lr=1e-2) for engine in (fast, plain)]
    for step in range(3):
        losses = []
        for engine, optimizer in zip((fast, plain), optimizers, strict=True):
            engine.begin()
            losses.append(float(engine.backward(row, 1 / len(row.targets), (0, step, 0))))
            optimizer.step()
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert float(fast.loss(row)) == pytest.approx(float(plain.loss(row)), rel=1e-4)
    assert "on cpu" in (reason_against(ours) or "")


def test_adapter_of_the_gpu_engine_is_saved_and_loaded_by_peft(tmp_path):
    shared, samples = make_samples(30)
    row = build_row(shared, samples)
    peft = make_peft()
    engine = GpuEngine(peft, 0.0, graphs=False)
    optimizer = torch.optim.AdamW([engine.values], lr=1e-2)
    engine.begin()
    engine.backward(row, 1 / len(row.targets), (0, 0, 0))
    optimizer.step()
    save_file(dict(trainable(peft)), tmp_path / "checkpoint.safetensors")
    peft.save_pretrained(str(tmp_path))
    base = make_peft().unload()
    loaded = PeftModel.from_pretrained(base, str(tmp_path))
    ids = torch.from_numpy(samples[0].prompt.astype(np.int64))[None]
    torch.testing.assert_close(loaded(ids).logits, peft(ids).logits)
    assert torch.allclose(loaded(ids).logits, peft(ids).logits)


def test_answers_in_batches_are_those_of_the_reference_path():
    _, samples = make_samples(40, count=7)
    prompts = [sample.prompt for sample in samples]
    stops = frozenset({3, 7, 11, 60, 61, 62})
    settings = {"max_new_tokens": 6, "batch_size": 3}
    found = gpu_answers(make_peft().eval(), prompts, stops, force=True, **settings)
    wanted = generate(ReferenceDecoder(make_peft().eval()), prompts, stops, **settings)
    assert found is not None
    assert found.given == wanted.given
    assert found.batch_of == wanted.batch_of
    assert gpu_answers(make_peft(), prompts, stops, **settings) is None


def test_a_prefix_is_computed_once_and_anew_where_another_follows():
    engine = make_engine(make_peft().eval())
    computed = []
    whole, forward = Prefilled(make_engine(make_peft().eval())), engine.forward

    def counted(row, space):
        computed.append(len(row.tokens))
        return forward(row, space)

    engine.forward = counted
    prefilled = Prefilled(engine)
    for seed in (1, 1, 2, 1):
        shared, samples = make_samples(60, seed=seed)
        row = build_row(shared, samples)
        found = prefilled(row)[: len(row.predicting)].clone()
        alone = build_row(shared[:0], samples)  # the prefix again before each sample's own tokens
        torch.testing.assert_close(found, whole(alone)[: len(row.predicting)], rtol=1e-4, atol=1e-5)
    assert len(computed) == 7  # four rows, three times a prefix that was not that of the row before


def test_prompts_at_once_follow_from_memory_and_from_the_work_of_a_row():
    arch = Architecture(16, 2048, 8192, 32, 8, 64, 128256, 1e-5, False)
    large, small = (fitting_batch(arch, 16, 40, free << 30, has_prefix=True) for free in (100, 5))
    assert 1000 < large < 2048  # more only wait longer
    assert 100 < small < large
    assert fitting_batch(arch, 16, 40, 5 << 30) > small  # no keys of all layers are kept
    assert fitting_batch(arch, 16, 40, 5 << 30, has_prefix=True, decodes=512) < small
    assert fitting_batch(arch, 16, 40, 1) == 1
    tiny = Architecture(30, 576, 1536, 9, 3, 64, 49152, 1e-5, False)
    assert fitting_batch(tiny, 16, 40, 100 << 30, has_prefix=True) == 2048


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_student_without_an_adapter_pays_for_none_and_answers_alike(kind: str):
    base = make_peft(kind).unload().eval()
    weights, _ = pack(base)
    extra = weights.packed["qkv"].shape[2] - weights.arch.hidden
    assert extra == (64 if kind == "qwen2" else 0)  # of a bias alone
    prompts = [sample.prompt for sample in make_samples(40)[1]]
    settings = {"max_new_tokens": 4, "batch_size": 4}
    found = gpu_answers(base, prompts, frozenset({3}), force=True, **settings)
    assert found is not None
    assert found.given == generate(ReferenceDecoder(base), prompts, frozenset({3}), **settings).given


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_answering_asks_the_last_layer_only_for_the_queries_that_are_looked_at(kind: str):
    engine = make_engine(make_peft(kind).eval())
    widths = []

    class Counting:
        def __getattr__(self, name):
            return getattr(reference, name)

        def matmul(self, left, right, out):
            widths.append(right.shape[1])
            reference.matmul(left, right, out)

    shared, samples = make_samples(40)
    row = build_row(shared, samples)
    wanted = Prefilled(engine)(row)[: len(row.predicting)].clone()
    engine.ops = Counting()
    found = Prefilled(engine)(row)[: len(row.predicting)]
    torch.testing.assert_close(found, wanted)
    # The prefix and the row after it: queries, keys and values of all tokens in every layer but the last.
    assert widths.count(engine.groups["qkv"].outputs) == 2 * (engine.arch.layers - 1)
