"""Fine-tune and question a demo student on one CPU core, beside transformers and peft used plainly.

    python -m benchmarks.students_cpu [--quick] [--student medium]

Ours: rows of 64 samples after one copy of the prompt's 1,146 shared tokens, as the customize stage trains.
The peer: the same model, adapter, batch of 64 and optimizer; the Hugging Face model's own forward, one sample
at a time (padded batches of 2, 4 and 8 were no faster), loss on the answers' tokens, gradients accumulated.
Answers: `generate` of transformers in batches of 16, beside ours in batches of 64. Both start from the same
adapter; `loss_difference` is that of the first batch, without dropout. Where TRL is installed, its SFTTrainer
is measured, too: no checkpointing, batches of one sample, 16 a step. Each runs in a process of its own with
one thread and is timed in CPU seconds, so that other work on the machine counts little. `ratio` is ours by
the peer's, in records a second of training.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch

from flywheel.config import Student, resolve_path
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.demo.headlines import generate as make_headlines
from flywheel.students.adapter import add_adapter, trainable
from flywheel.students.decoder import Decoder
from flywheel.students.engine import engine_for
from flywheel.students.generation import generate
from flywheel.students.loading import LoadedStudent, load_student
from flywheel.students.rows import Sample, build_row, common_prefix
from flywheel.students.training import fine_tune
from flywheel.workloads.workload import Workload

CPU = torch.device("cpu")
BATCH = 64
DROPOUT = 0.1
MICRO_BATCH = 1
ANSWER_TOKENS = 12


def main() -> None:
    """Measure and print; with --part, be one of the measured processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few steps")
    parser.add_argument("--student", choices=["small", "medium", "large"], default="medium")
    parser.add_argument("--part", choices=["ours", "peer", "trl"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        torch.set_num_threads(1)
        parts = {"ours": measure_ours, "peer": measure_peer, "trl": measure_trl}
        print(json.dumps(parts[arguments.part](arguments.student, arguments.quick)))
        return
    results = {}
    has_trl = importlib.util.find_spec("trl") is not None
    for part_name in ("ours", "peer", *(["trl"] if has_trl else [])):
        command = [sys.executable, "-m", "benchmarks.students_cpu", "--student", arguments.student]
        command += ["--part", part_name, *(["--quick"] if arguments.quick else [])]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        results[part_name] = json.loads(output.splitlines()[-1])
    ours, peer = results["ours"], results["peer"]
    report = {
        "name": "students_cpu",
        "ours": ours["train"],
        "peer": peer["train"],
        "ratio": round(ours["train"] / peer["train"], 1),
        "unit": "records/s",
        "peak_rss_mb": ours["peak_rss_mb"],
        "peer_peak_rss_mb": peer["peak_rss_mb"],
        "answers": {"ours": ours["answers"], "peer": peer["answers"], "unit": "prompts/s"},
        "trl": results.get("trl"),
        "ratio_to_trl": round(ours["train"] / results["trl"], 1) if has_trl else None,
        "loss_difference": abs(ours["loss"] - peer["loss"]),
        "student": arguments.student,
        "machine": f"{platform.processor() or platform.machine()}, 1 thread, torch {torch.__version__}",
    }
    print(json.dumps(report))


def prepare(name: str, count: int) -> tuple[LoadedStudent, Any, list[Sample]]:
    """Return a demo student, the same with an adapter, and training samples."""
    workload = Workload.load(resolve_path("include/workloads/news_classifier.yaml"))
    rng = random.Random(0)
    chats = []
    for headline in make_headlines(count, seed=1):
        answer = workload.answer_for(rng.choice(workload.classes))
        chats.append([*workload.messages(headline.text), {"role": "assistant", "content": answer}])
    student = load_student(Student(model_name=name, weights=f"include/flywheel/demo/students/{name}"), CPU)
    samples, _ = student.chat.samples(chats, 1 << 20)
    model = add_adapter(student.model, LoraConfig(adapter_dropout=DROPOUT), student.base_name, seed=0)
    return student, model, samples


def measure_ours(name: str, quick: bool) -> dict[str, Any]:
    """Return records a second of training and answering, the first batch's loss, and the memory taken."""
    steps = 3 if quick else 10
    student, model, samples = prepare(name, steps * BATCH)
    prefix = samples[0].prompt[: common_prefix([sample.prompt for sample in samples])]
    row = build_row(prefix, samples[:BATCH])
    loss = float(engine_for(model, 0.0).loss(row)) / len(row.targets)
    settings = TrainingConfig(batch_size=BATCH, learning_rate=1e-3, validations=0)
    fine_tune(model, samples[:BATCH], [], settings, dropout=DROPOUT)  # warm
    started = time.process_time()
    outcome = fine_tune(model, samples, [], settings, dropout=DROPOUT)
    train = outcome.state.samples / (time.process_time() - started)
    prompts = [sample.prompt for sample in samples]
    started = time.process_time()
    generate(
        Decoder(model).merge(), prompts, student.chat.stops, max_new_tokens=ANSWER_TOKENS, batch_size=BATCH
    )
    return report_of(train, len(prompts) / (time.process_time() - started), loss)


def measure_peer(name: str, quick: bool) -> dict[str, Any]:
    """Return the same of a plain loop: fewer records, as it is slower."""
    count = 16 if quick else BATCH
    student, model, samples = prepare(name, BATCH)
    model.eval()
    tokens = sum(len(sample.answer) for sample in samples)
    with torch.no_grad():
        loss = sum(float(padded_loss(model, samples[i : i + 4])) for i in range(0, BATCH, 4)) / tokens
    model.train()
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-3, fused=True)
    started = time.process_time()
    for start in range(0, count, MICRO_BATCH):
        (padded_loss(model, samples[start : start + MICRO_BATCH]) / tokens).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(trainable(model).values(), 1.0)
    optimizer.step()
    train = count / (time.process_time() - started)
    model.eval()
    started = time.process_time()
    for start in range(0, count, 16):
        ids, mask, _ = pad([sample.prompt for sample in samples[start : start + 16]], left=True)
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=ANSWER_TOKENS,
            eos_token_id=sorted(student.chat.stops),
            pad_token_id=0,
        )
    return report_of(train, count / (time.process_time() - started), loss)


def measure_trl(name: str, quick: bool) -> float:
    """Return TRL's records a second of training: CPU time of whole optimizer steps after the first."""
    from datasets import Dataset
    from peft import LoraConfig as PeftConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.times.append(time.process_time() - self.started)

    steps, batch = (2 if quick else 4), 16
    student, model, samples = prepare(name, steps * batch)
    base = model.unload()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=base,
            args=SFTConfig(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=MICRO_BATCH,
                gradient_accumulation_steps=batch // MICRO_BATCH,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                max_length=None,
                dataset_kwargs={"skip_prepare_dataset": True},
                disable_tqdm=True,
                optim="adamw_torch_fused",
            ),
            train_dataset=Dataset.from_list(
                [
                    {
                        "input_ids": np.concatenate([s.prompt, s.answer]).tolist(),
                        "labels": [-100] * len(s.prompt) + s.answer.tolist(),
                    }
                    for s in samples
                ]
            ),
            processing_class=student.chat.tokenizer,
            peft_config=PeftConfig(
                r=16, lora_alpha=32, lora_dropout=DROPOUT, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[clock],
        )
        trainer.train()
    return round(batch * len(clock.times[1:]) / sum(clock.times[1:]), 2)


def padded_loss(model: Any, samples: list[Sample]) -> torch.Tensor:
    """Return the loss of a padded batch, summed over the answers' tokens."""
    ids, mask, _ = pad([np.concatenate([sample.prompt, sample.answer]) for sample in samples], left=False)
    labels = torch.full_like(ids, -100)
    for row, sample in enumerate(samples):
        labels[row, len(sample.prompt) : len(sample)] = torch.from_numpy(sample.answer.astype(np.int64))
    logits = model(input_ids=ids, attention_mask=mask).logits  # [B, L, V]
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )


def pad(rows: list[Any], *, left: bool) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return (ids, mask, longest) of rows of tokens: [B, longest]."""
    longest = max(map(len, rows))
    ids, mask = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[index, place], mask[index, place] = row, 1
    return torch.from_numpy(ids), torch.from_numpy(mask), longest


def report_of(train: float, answers: float, loss: float) -> dict[str, Any]:
    """Return the figures of one process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"train": round(train, 1), "answers": round(answers, 1), "loss": loss, "peak_rss_mb": round(peak)}


if __name__ == "__main__":
    main()
