"""Stage 5, evaluate: have a student answer the held-out prompts, compare its answers with the teacher's."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.common.timing import Timing
from flywheel.evaluation.icl import MOST_RECORDS, with_examples
from flywheel.evaluation.injections import Injected, injected
from flywheel.jobs.families import family_of
from flywheel.jobs.progress import ProgressCallback, telling
from flywheel.jobs.result import CustomizeResult, EvaluateResult
from flywheel.jobs.spec import RESULT, EvaluateSpec
from flywheel.stages.customize import read_records
from flywheel.stages.examined import Examined, Speed, keep_evaluation
from flywheel.workloads.short_prompts import LOOKED_AT, ShortPrompt

if TYPE_CHECKING:
    from flywheel.students.answering import Answers
    from flywheel.students.calibration import Probabilities
    from flywheel.students.chat import Chat
    from flywheel.students.label_trie import LabelTrie

log = logging.getLogger(__name__)


def evaluate(spec: EvaluateSpec, progress: ProgressCallback | None = None) -> EvaluateResult:
    """Evaluate a student with its adapter, or as it is, or find the evaluation made from the same input.

    Args:
        spec: the job.
        progress: told after each batch.

    Raises:
        StudentError: the student or its adapter cannot be loaded.
        ArtifactError: the dataset or the adapter is missing or damaged.
    """
    root, key = ArtifactRoot(spec.artifact_root), spec.key
    folder = root.lookup("evaluations", key)
    if folder is not None:
        result = EvaluateResult.model_validate_json((folder / RESULT).read_bytes())
        log.info("evaluation %s is there already", key)
        # The size is a name of the candidate and no part of the work.
        return result.model_copy(update={"found": True, "student": spec.student.name, "size": spec.size})
    result = family_of(spec.student).examine(root, key, spec, progress)
    return cast("EvaluateResult", result)


def choose_among(model: Any, prompts: Sequence[Any], trie: LabelTrie, **settings: Any) -> Answers[Any]:
    """Return the answers to prompts out of a closed set."""
    from flywheel.students.choosing import choose
    from flywheel.students.gpu.backend import gpu_choices

    return _by_the_fastest(gpu_choices, choose, model, prompts, trie, **settings)


def _answer(model: Any, prompts: Sequence[Any], stops: frozenset[int], **settings: Any) -> Answers[Any]:
    """Return the free answers to prompts."""
    from flywheel.students.generation import generate
    from flywheel.students.gpu.backend import gpu_answers

    return _by_the_fastest(gpu_answers, generate, model, prompts, stops, **settings)


def _by_the_fastest(
    gpu_path: Callable[..., Answers[Any] | None],
    clear_path: Callable[..., Answers[Any]],
    model: Any,
    *arguments: Any,
    **settings: Any,
) -> Answers[Any]:
    """Answer by the GPU path where it applies, else by the clear one."""
    from flywheel.students.decoder import answering_decoder

    decoder = answering_decoder(model)
    if decoder.device.type == "cpu":
        return clear_path(decoder, *arguments, **settings)
    answers = gpu_path(model, *arguments, **settings)
    return answers if answers is not None else clear_path(decoder, *arguments, **settings)


@dataclass(frozen=True)
class Questions:
    """What a student is asked in an evaluation.

    Attributes:
        records: the held-out ones.
        told: texts with instructions in them.
        held: the slice that probabilities are calibrated on.
    """

    records: list[dict[str, Any]]
    told: list[Injected]
    held: list[dict[str, Any]]

    @classmethod
    def of(cls, root: ArtifactRoot, spec: EvaluateSpec) -> Questions:
        """Return those of an evaluation.

        Raises:
            ArtifactError: the dataset is missing or damaged, or has no held-out records.
        """
        records = read_eval_records(root, spec)
        return cls(records, injected(spec, records), read_calibration_records(root, spec))

    def requests(self, short: ShortPrompt | None) -> list[list[dict[str, Any]]]:
        """Return the messages of all, the held-out records first, without what their prompts share."""
        held_out, held = ([record["messages"][:-1] for record in part] for part in (self.records, self.held))
        requests = [*held_out, *(one.request for one in self.told), *held]
        return [short.shorten(one) for one in requests] if short is not None else requests

    def tools(self) -> list[Any]:
        """Return the functions that each of them offers."""
        told = (self.records[one.place] for one in self.told)
        return [record.get("tools") for record in (*self.records, *told, *self.held)]


def answer_and_score(
    root: ArtifactRoot, key: str, spec: EvaluateSpec, progress: ProgressCallback | None
) -> EvaluateResult:
    """Have a causal LM answer the held-out prompts, and score and keep its answers."""
    from flywheel.students.adapter import load_adapter
    from flywheel.students.loading import count_parameters, device_name, load_student, prepare_process

    timing = Timing()
    with timing.time("load"):
        questions = Questions.of(root, spec)
        device = prepare_process()
        student = load_student(spec.student, device)
        model = student.model
        if spec.adapter is not None:
            model = load_adapter(model, root.fetch("adapters", spec.adapter))
        requests = questions.requests(short_prompt_of(root, spec))
    count, examples = len(questions.records), None
    if spec.icl is not None:
        requests[:count], examples = with_examples(
            questions.records,
            read_training_records(root, spec),
            spec.icl,
            context_length=spec.student.context_length,
            answer_tokens=spec.evaluation.answer_tokens,
            measure=student.chat.lengths,
        )
    started = time.perf_counter()
    asked, notes = _asked(student.chat, questions, requests, spec)
    for note in notes:
        log.warning("%s", note)
    fitting = [at for at in asked if at < count]
    form = requests[fitting[0] if fitting else 0]
    answers, given = _answers(root, model, student.chat, spec, list(asked.values()), form, progress)
    texts = [""] * (count + len(questions.told))
    for at, tokens in zip(asked, given, strict=True):
        if at < len(texts):
            texts[at] = student.chat.text(tokens)
    probabilities = None
    if spec.answers is not None and spec.adapter is not None and fitting:
        probabilities = _probabilities(spec, questions, list(asked), answers.given)
    seconds = time.perf_counter() - started
    timing.add("answer", seconds)
    with timing.time("score"):
        examined = Examined(
            questions.records,
            texts[:count],
            Speed.of(answers, seconds),
            device_name(device.type),
            count_parameters(model)[0],
            instructed=texts[count:],
            examples=examples,
            unanswered=count - len(fitting),
            notes=notes,
            probabilities=probabilities,
            fitting=fitting,
        )
        result = keep_evaluation(root, key, spec, examined)
    student.keep(model)
    return result.model_copy(update={"timing": timing.seconds})


def _asked(
    chat: Chat, questions: Questions, requests: Sequence[list[dict[str, Any]]], spec: EvaluateSpec
) -> tuple[dict[int, Any], tuple[str, ...]]:
    """Return the prompts that can be asked by their place, and in sentences why others cannot."""
    prompts, refused = chat.prompts(requests, questions.tools())
    longest = spec.student.context_length - spec.evaluation.answer_tokens
    asked = {at: one for at, one in enumerate(prompts) if one is not None and len(one) <= longest}
    count = len(questions.records)
    dropped = refused.first(count)
    if too_long := count - sum(at < count for at in asked) - dropped.count:
        dropped.reasons["longer than the context"] += too_long
    return asked, dropped.said([one["id"] for one in questions.records], "prompts count as unanswered")


def _answers(
    root: ArtifactRoot,
    model: Any,
    chat: Chat,
    spec: EvaluateSpec,
    asked: Sequence[Sequence[int]],
    form: list[dict[str, Any]],
    progress: ProgressCallback | None,
) -> tuple[Answers[Any], list[Any]]:
    """Return the answers to prompts, and the tokens of each.

    Args:
        form: messages of one of them, by which closed answers are written.
    """
    from flywheel.students.compile_cache import compile_cache
    from flywheel.students.label_trie import LabelTrie

    settings: dict[str, Any] = {
        "batch_size": spec.evaluation.batch_size,
        "progress": telling(progress, len(asked)),
    }
    with compile_cache(root, model.device.type):
        if spec.answers is None:
            most = spec.evaluation.answer_tokens
            answers = _answer(model, asked, chat.stops, max_new_tokens=most, **settings)
            return answers, answers.given
        answers = choose_among(model, asked, LabelTrie(chat.answers(form, spec.answers)), **settings)
        return answers, [choice.tokens for choice in answers.given]


def _probabilities(
    spec: EvaluateSpec, questions: Questions, asked: Sequence[int], given: Sequence[Any]
) -> Probabilities:
    """Return the calibrated probabilities of the choices; `asked` has the place of each question."""
    from flywheel.students.calibration import probabilities_of

    count = len(questions.records)
    after = count + len(questions.told)
    kept = [(at, one) for at, one in zip(asked, given, strict=True) if at < count or at >= after]
    return probabilities_of(
        spec.classes,
        [questions.records[at] for at, _ in kept if at < count],
        [questions.held[at - after] for at, _ in kept if at >= after],
        [one for _, one in kept],
    )


def read_eval_records(root: ArtifactRoot, spec: EvaluateSpec) -> list[dict[str, Any]]:
    """Return the held-out records of a dataset.

    Raises:
        ArtifactError: the dataset is missing or damaged, or has none.
    """
    records = read_records(root.fetch("datasets", spec.dataset) / "eval.jsonl")
    if not records:
        raise ArtifactError(f"dataset {spec.dataset}: eval.jsonl is empty")
    return records


def read_calibration_records(root: ArtifactRoot, spec: EvaluateSpec) -> list[dict[str, Any]]:
    """Return the records that probabilities are calibrated on; none where there is nothing to calibrate.

    Raises:
        ArtifactError: the dataset is missing or damaged.
    """
    path = root.fetch("datasets", spec.dataset) / "calibration.jsonl"
    chooses = spec.answers is not None or spec.student.family != "causal_lm"
    if not chooses or spec.adapter is None or not path.exists():
        return []
    return read_records(path)


def short_prompt_of(root: ArtifactRoot, spec: EvaluateSpec) -> ShortPrompt | None:
    """Return what the prompts of an evaluation leave out; None: the student is asked whole ones.

    By what tonight's prompts share: a champion may have been trained under another prompt.

    Raises:
        ArtifactError: the dataset or the adapter is missing or damaged.
    """
    if spec.adapter is None:
        return None
    result = root.fetch("adapters", spec.adapter) / RESULT
    if not result.exists() or CustomizeResult.model_validate_json(result.read_bytes()).short_prompt is None:
        return None
    return ShortPrompt.of(read_training_records(root, spec, LOOKED_AT))


def read_training_records(
    root: ArtifactRoot, spec: EvaluateSpec, most: int = MOST_RECORDS
) -> list[dict[str, Any]]:
    """Return the first training records: examples are taken from them, and what prompts share.

    Raises:
        ArtifactError: the dataset is missing or damaged.
    """
    return read_records(root.fetch("datasets", spec.dataset) / "train.jsonl", most)
