"""Load a student: weights, tokenizer, the device and the precision."""

from __future__ import annotations

import gc
import logging
import os
from dataclasses import dataclass, replace
from typing import Any

import torch

from flywheel.common.errors import StudentError
from flywheel.config.student import Student
from flywheel.jobs.weights import base_name, explain_missing, local_folder, weights_hash
from flywheel.students.chat import Chat

log = logging.getLogger(__name__)

THREADS_VARIABLE = "FLYWHEEL_THREADS"
DEVICE_VARIABLE = "FLYWHEEL_DEVICE"
# Set where jobs share a process, one after another (flywheel.runtimes.local.fork_server).
KEPT_FOR_VARIABLE = "FLYWHEEL_KEPT_FOR"


@dataclass(frozen=True, slots=True)
class LoadedStudent:
    """A student, ready for work.

    Attributes:
        model: a Hugging Face causal LM, in evaluation mode, frozen.
        chat: its tokenizer and template.
        device: where it is.
        base_name: what an adapter names as its base model; see `flywheel.jobs.weights.base_name`.
        revision: the commit of weights of the Hub.
        weights: a hash of them.
    """

    model: Any
    chat: Chat
    device: torch.device
    base_name: str
    revision: str | None = None
    weights: str = ""

    def keep(self, model: Any) -> None:
        """Stay for the next job of this process, where there may be one, without the adapter.

        Args:
            model: what a job made of this one's: the same, or a peft model around it.
        """
        if not os.environ.get(KEPT_FOR_VARIABLE):
            return
        base = model.unload() if hasattr(model, "get_base_model") else model
        base.requires_grad_(False)
        base.eval()
        _kept[self.base_name, self.weights, str(self.device)] = replace(self, model=base)


# The student of this process's last job, as it was loaded, by name, hash and device.
_kept: dict[tuple[str, str, str], LoadedStudent] = {}


def make_ready() -> None:
    """Do ahead what transformers does when a process loads its first model, for the forks of this process.

    It compiles some 900 regular expressions on the names of weights: as long as loading a small student.
    """
    import peft.utils.transformers_weight_conversion  # noqa: F401  peft's own at the first adapter
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("llama")


def prepare_process() -> torch.device:
    """Set the number of CPU threads (FLYWHEEL_THREADS) and return the device of this job.

    It is the GPU when there is one, unless FLYWHEEL_DEVICE names another.

    Raises:
        StudentError: FLYWHEEL_THREADS is no number.
    """
    threads = os.environ.get(THREADS_VARIABLE, "")
    if threads:
        if not threads.isdigit() or int(threads) < 1:
            raise StudentError(f"{THREADS_VARIABLE}: expected a number of threads from 1, got {threads!r}")
        torch.set_num_threads(int(threads))
    default = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(os.environ.get(DEVICE_VARIABLE) or default)


def gpu_names() -> list[str]:
    """Return the names of the GPUs that torch can use here."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(index) for index in range(there)]


def load_student(student: Student, device: torch.device) -> LoadedStudent:
    """Load a student's weights and tokenizer: bf16 on a GPU, fp32 on a CPU.

    Those of the Hub at the commit that `weights_hash` names. Code that comes with weights is never run.

    Raises:
        StudentError: the weights are neither a folder nor a model of the Hub that can be read, or damaged.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    folder = local_folder(student.weights)
    source = base_name(student.weights)
    kept = _kept.pop((source, weights_hash(student.weights), str(device)), None) if _kept else None
    if kept is not None:
        collect_garbage_from_now_on()
        return kept
    _kept.clear()
    revision = weights_hash(student.weights).rpartition("@")[2] if folder is None else None
    options: dict[str, Any] = {"trust_remote_code": False}
    options |= {"local_files_only": True} if folder is not None else {"revision": revision}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
    except Exception as error:  # the libraries raise many kinds
        if "custom code" in str(error):
            raise StudentError(
                f"{student.weights}: comes with code of its own, which is never run here; take a model that "
                "transformers knows by itself"
            ) from None
        raise StudentError(explain_missing(student.weights, error)) from error
    model.requires_grad_(False)
    model.eval()
    model.to(device)
    collect_garbage_from_now_on()
    return LoadedStudent(
        model=model,
        chat=Chat(tokenizer, stop_tokens(model, tokenizer)),
        device=device,
        base_name=source,
        revision=revision,
        weights=weights_hash(student.weights),
    )


def collect_garbage_from_now_on() -> None:
    """Enable garbage collection, where a job began without, and leave what there is by now out of it.

    torch and transformers make millions of objects that stay: to look at them again and again while they are
    imported is a second of eight.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the ids of the tokens that end an answer."""
    found: set[int] = set()
    for owner in (model.generation_config, model.config, tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or ())
    return frozenset(found)


def width_of(model: Any) -> int:
    """Return the length of a transformers model's hidden states, of its text part where it has several."""
    return int(model.config.get_text_config().hidden_size)


def count_parameters(model: Any) -> tuple[int, int]:
    """Return (all, trainable) parameters of a model; weights that two layers share count once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trainable in sizes if trainable)


def device_name(kind: str) -> str:
    """Return the name of the device that a job ran on; `kind` is torch's word for what it is."""
    return str(torch.cuda.get_device_name()) if kind == "cuda" else kind
