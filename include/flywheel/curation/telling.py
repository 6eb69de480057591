"""Whether an eval set can tell a good student from one that always gives the same answer.

On held-out records of one answer alone, a student that has learned nothing but that answer has a score of 1.
Such a split is refused before anything is trained on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from flywheel.common.errors import NotEnoughRecordsError
from flywheel.config.evaluation import WorkloadType
from flywheel.workloads.tool_calls import NO_CALL, normal_text, read_calls


def check_can_tell(
    whose: str, workload_type: WorkloadType, per_class: Mapping[str, Mapping[str, int]], eval_file: Path
) -> None:
    """Refuse an eval set on which one and the same answer is always right.

    Args:
        whose: the data, for messages.
        per_class: by label, with the counts `total` and `eval`.
        eval_file: the eval set; it is read where one label may still be several answers.

    Raises:
        NotEnoughRecordsError: with what to do.
    """
    held_out = [label for label, counts in per_class.items() if counts["eval"]]
    everywhere = [label for label, counts in per_class.items() if counts["total"]]
    if workload_type == "tool_calling" and held_out == [NO_CALL]:
        if everywhere == [NO_CALL]:
            raise NotEnoughRecordsError(
                f"{whose}: no record calls a function, but evaluation_config.workload_type is tool_calling: "
                "a student that never calls any would be right; set workload_type to auto, generic or "
                "classification, or log the calls in response.choices.0.message.tool_calls"
            )
        raise NotEnoughRecordsError(f"{whose}: no record of the eval set calls a function; {_MORE}")
    if len(held_out) > 1:
        return
    if workload_type != "classification" and len({*map(_answer, _rows(eval_file))}) > 1:
        return  # calls of one function with several arguments, or several texts
    if len(everywhere) > 1:
        raise NotEnoughRecordsError(
            f"{whose}: all records of the eval set have one answer, {held_out[0]!r}, so that a student which "
            f"always gives it would be right; {_MORE}"
        )
    raise NotEnoughRecordsError(
        f"{whose}: all records have one answer, {everywhere[0]!r}, so that there is nothing to learn and "
        "nothing to examine; add records with other answers, or check the source and the workload's classes"
    )


_MORE = (
    "raise data_split_config.eval_size, keep data_split_config.stratify_enabled true, or add records with "
    "other answers"
)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        yield from map(orjson.loads, file)


def _answer(row: Mapping[str, Any]) -> str:
    """Return what a record's answer says, the same for answers that agree."""
    answer = row["messages"][-1]
    calls = answer.get("tool_calls")
    if calls:
        return normal_text(read_calls(calls, "tool_calls", parse_arguments=False))
    return " ".join(str(answer.get("content") or "").split())
