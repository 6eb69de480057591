"""An eval set on which one answer is always right is refused before anything is trained."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flywheel.common.errors import NotEnoughRecordsError
from flywheel.config.loading import validate_config
from flywheel.curation.result import CurateResult
from flywheel.runs.plan import make_plan
from flywheel.stages.curate import curate
from flywheel.stores.sqlite import SqliteStore
from flywheel.workloads.records import Record

WORDS = [f"word{i}" for i in range(300)]
TOOL = {"type": "function", "function": {"name": "get_quote", "parameters": {"type": "object"}}}


def calling(name: str, **arguments: Any) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"content": None, "tool_calls": [call]}


def curated(folder: Path, answers: list[dict[str, Any]], kind: str = "auto", **split: Any) -> CurateResult:
    """Curate the log of an application: one request for each answer."""
    data = {
        "nims": [{"model_name": "test/1b"}],
        "sizes": [5],
        "store": {"path": str(folder / "records.sqlite")},
        "artifacts": {"root": str(folder / "artifacts")},
        "data_split_config": {"eval_size": 10, "min_total_records": 1, **split},
        "evaluation_config": {"workload_type": kind},
    }
    plan = make_plan(validate_config(data, "test"), run_id="n", cutoff=datetime(2026, 1, 1, tzinfo=UTC))
    records = [
        Record.from_json(
            {
                "request": {
                    "model": "m",
                    "messages": [{"role": "user", "content": " ".join(WORDS[i * 6 : i * 6 + 6])}],
                    **({"tools": [TOOL]} if kind != "classification" else {}),
                },
                "response": {"choices": [{"message": {"role": "assistant", **answer}}]},
                "workload_id": plan.workload_id,
                "client_id": plan.client_id,
                "timestamp": 1000 + i,
            },
            plan.workload.classes,
            plan.workload.aliases,
            workload_type=plan.config.evaluation_config.workload_type,
        )
        for i, answer in enumerate(answers)
    ]
    with SqliteStore(folder / "records.sqlite") as store:
        store.write(records)
    return curate(plan, folder)


def test_records_without_calls_cannot_examine_calls(tmp_path: Path) -> None:
    answers = [{"content": f"a calendar or summary {i}"} for i in range(40)]
    with pytest.raises(NotEnoughRecordsError, match=r"no record calls a function.*set workload_type to auto"):
        curated(tmp_path, answers, "tool_calling")
    with pytest.raises(NotEnoughRecordsError, match="no record calls"):  # the data set is found now
        curated(tmp_path, answers, "tool_calling")


def test_an_eval_set_without_calls_is_refused_where_training_has_some(tmp_path: Path) -> None:
    answers = [calling("get_quote", symbol="A"), *[{"content": f"nothing {i}"} for i in range(40)]]
    with pytest.raises(NotEnoughRecordsError, match="no record of the eval set calls a function; raise"):
        curated(tmp_path, answers, "tool_calling", split="temporal", gap_days=0)


def test_headlines_of_one_class_are_refused(tmp_path: Path) -> None:
    answers = [{"content": "[[[earnings]]]"}] * 40
    with pytest.raises(NotEnoughRecordsError, match="all records have one answer, 'Earnings'"):
        curated(tmp_path, answers, "classification")


def test_an_eval_set_of_one_class_is_refused_where_training_has_several(tmp_path: Path) -> None:
    answers = [{"content": f"[[[{name}]]]"} for name in ["dividends"] * 20 + ["earnings"] * 20]
    with pytest.raises(
        NotEnoughRecordsError, match=r"of the eval set have one answer, 'Earnings'.*eval_size"
    ):
        curated(tmp_path, answers, "classification", split="temporal", gap_days=0)
    assert curated(tmp_path, answers, "classification").eval == 10


def test_the_same_call_everywhere_is_refused_and_other_arguments_are_not(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughRecordsError, match=r"one answer, 'get_quote\(\)'"):
        curated(tmp_path / "a", [calling("get_quote", symbol="A")] * 40)
    result = curated(tmp_path / "b", [calling("get_quote", symbol=f"S{i}") for i in range(40)])
    assert (result.eval, result.workload_type) == (10, "tool_calling")


def test_the_same_text_everywhere_is_refused_and_other_texts_are_not(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughRecordsError, match="one answer, 'text'"):
        curated(tmp_path / "a", [{"content": f"I cannot  help{' ' * (i % 2)}"} for i in range(40)], "generic")
    assert curated(tmp_path / "b", [{"content": f"Text {i}"} for i in range(40)], "generic").eval == 10
