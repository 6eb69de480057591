"""Which form of prompt a student takes where that is left open: the text alone, or the whole prompt.

Short prompts are trained first, for they are nearly always right. Whole ones are trained beside them once for
each student, with the records of its smallest size (1,000 at most): what instructions tell a student beyond
the records is most where the records are fewest. Both answer the validation slice; whole prompts are taken
where they agree more often with the teacher than chance explains, by McNemar's exact test on the records that
one of the two alone has right (McNemar 1947; Dietterich, Neural Computation 10, 1998), two-sided at 5 %.

Whole prompts are not even trained where they cannot matter. What all prompts share is the same for every
record, so it tells a student something only if the student can read it before any training: one that,
untrained, chooses no better with the instructions than the most frequent answer would, by the same test,
learns all that it knows from the records. Nor are they where even a student without a mistake could not
pass the test. The calibration slice and the eval set are not looked at.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.jobs.progress import ProgressCallback
from flywheel.jobs.result import CustomizeResult, PromptChoice
from flywheel.jobs.spec import PROMPT_CHOICE_VERSION, CustomizeSpec
from flywheel.stages.agreement import MOST_ASKED, chosen_answers, teachers_answer
from flywheel.stages.customize import customize, read_records

log = logging.getLogger(__name__)

CHOICE = "prompt_choice.json"
# Of one side of McNemar's test: whole prompts cost speed, so it is they that have to show their worth.
LEVEL = 0.025
_BATCH = 100


def customize_open(spec: CustomizeSpec, progress: ProgressCallback | None = None) -> CustomizeResult:
    """Do a job whose form of prompt is open: train with short prompts, then with whole ones if these win.

    Raises:
        FlywheelError: as `customize` does.
    """
    choice = find_choice(spec)
    made = customize(spec.with_prompt(choice.form if choice else "text"), progress)
    if choice is None:
        if made.short_prompt is None:  # the prompts share nothing that could be left out
            return made
        choice = prompt_choice(spec)
        if choice.form == "full":
            made = customize(spec.with_prompt("full"), progress)
    log.info("%s", choice.reason)
    return made.model_copy(update={"prompt_choice": choice, "notes": (*made.notes, choice.reason)})


def choice_key(spec: CustomizeSpec) -> str:
    """Return the key of the choice that a job goes by: the same for all sizes of a student."""
    compared = [spec.with_prompt(form, spec.chosen_with).key for form in ("text", "full")]
    return key_of("prompt choice", PROMPT_CHOICE_VERSION, *compared, spec.answers)


def find_choice(spec: CustomizeSpec) -> PromptChoice | None:
    """Return the choice if a job has made it."""
    folder = ArtifactRoot(spec.artifact_root).lookup("evaluations", choice_key(spec))
    return PromptChoice.model_validate_json((folder / CHOICE).read_bytes()) if folder else None


def chosen_form(spec: CustomizeSpec) -> Literal["text", "full"] | None:
    """Return the form of prompt that an open job will go by; None where it is still to be chosen."""
    found = find_choice(spec)
    return found.form if found else None


def prompt_choice(spec: CustomizeSpec) -> PromptChoice:
    """Return which form of prompt a student takes, decided by the first job that asks.

    Raises:
        FlywheelError: as `customize` does.
    """
    root, key = ArtifactRoot(spec.artifact_root), choice_key(spec)
    found = find_choice(spec)
    if found is not None:
        return found
    with root.scratch("adapters", key):  # its lock: others wait for the choice
        found = find_choice(spec)
        if found is None:
            made = _choose(root, spec)
            with root.build("evaluations", key) as folder:
                (folder / CHOICE).write_bytes(made.model_dump_json(indent=2).encode() + b"\n")
            found = find_choice(spec) or made  # of two machines that chose at once, the first one's holds
        root.discard_scratch("adapters", key)
    return found


def _choose(root: ArtifactRoot, spec: CustomizeSpec) -> PromptChoice:
    started = time.monotonic()
    short = customize(spec.with_prompt("text", spec.chosen_with))
    records = read_records(root.fetch("datasets", spec.dataset) / "val.jsonl", MOST_ASKED)
    text = _right(root, spec, short, records)
    common = {"trained_on": spec.chosen_with, "dataset": spec.dataset, "compared": (short.adapter,)}
    wrong = text.count(False)
    if _p_value(wrong, 0) > LEVEL:
        return PromptChoice(
            form="text",
            reason=f"asked the text alone: on the {len(records)} validation records it makes "
            f"{wrong} mistakes, too few for whole prompts to be shown to be better",
            seconds=time.monotonic() - started,
            **common,
        )
    untrained, constant = _right(root, spec, None, records), _constant(records)
    if _p_value(*_won(untrained, constant)) > LEVEL:
        return PromptChoice(
            form="text",
            reason=f"asked the text alone: untrained, it answers {sum(untrained)} of the {len(records)} "
            f"validation records as the teacher did and one answer for all of them {sum(constant)}, so the "
            "instructions tell it nothing",
            seconds=time.monotonic() - started,
            **common,
        )
    whole = customize(spec.with_prompt("full", spec.chosen_with))
    full = _right(root, spec, whole, records)
    p_value = _p_value(*_won(full, text))
    form = "full" if p_value <= LEVEL else "text"
    asked = "whole prompts" if form == "full" else "the text alone"
    than = (
        "which is more than chance"
        if form == "full"
        else "which whole prompts do not beat by more than chance"
    )
    return PromptChoice(
        form=form,
        asked=len(records),
        text_right=sum(text),
        full_right=sum(full),
        p_value=p_value,
        reason=f"asked {asked}: with {spec.chosen_with} records, {sum(text)} of {len(records)} validation "
        f"answers agree with the teacher's by the text alone and {sum(full)} by whole prompts, {than} "
        f"(McNemar, p {p_value:.2g})",
        seconds=time.monotonic() - started,
        **{**common, "compared": (short.adapter, whole.adapter)},
    )


def _right(
    root: ArtifactRoot, spec: CustomizeSpec, made: CustomizeResult | None, records: Sequence[dict[str, Any]]
) -> list[bool]:
    """Return which validation records a student answers as the teacher did.

    Args:
        made: its training; None: it is untrained, and asked whole prompts.
    """
    from flywheel.students.adapter import load_adapter
    from flywheel.students.compile_cache import compile_cache
    from flywheel.students.loading import load_student, prepare_process

    if not records:
        return []
    assert spec.answers is not None
    device = prepare_process()
    student = load_student(spec.student, device)
    model, short = student.model, made.short_prompt if made else None
    if made is not None:
        model = load_adapter(model, root.fetch("adapters", made.adapter))
    with compile_cache(root, device.type):
        given = chosen_answers(model, student.chat, spec.student, records, spec.answers, short, _BATCH)
    return [answer == teachers_answer(record) for answer, record in zip(given, records, strict=True)]


def _constant(records: Sequence[dict[str, Any]]) -> list[bool]:
    """Return which records their most frequent answer is right for."""
    answers = [teachers_answer(record) for record in records]
    most = max(sorted(set(answers)), key=answers.count)
    return [answer == most for answer in answers]


def _won(one: Sequence[bool], other: Sequence[bool]) -> tuple[int, int]:
    """Return how many records the one alone has right, and how many the other alone."""
    pairs = list(zip(one, other, strict=True))
    return pairs.count((True, False)), pairs.count((False, True))


def _p_value(won: int, lost: int) -> float:
    """Return how likely chance alone gives so many wins, or more, out of all that either side won."""
    from scipy.special import betainc

    return float(betainc(won, lost + 1, 0.5)) if won else 1.0
