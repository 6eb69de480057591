"""Where a student and its teacher differ, as the API lists it: classes, calls and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from flywheel.artifacts.root import ArtifactRoot
from flywheel.stages.examined import PREDICTIONS
from flywheel.web.predictions import disagreements, labels_of


def keep(folder: Path, key: str, rows: list[dict[str, Any]]) -> str:
    lines = [{"id": str(number), "text": "t", "answer": "a", **row} for number, row in enumerate(rows)]
    with ArtifactRoot(str(folder)).build("evaluations", key) as made:
        (made / PREDICTIONS).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return str(folder)


def test_classes_differ_by_name(tmp_path: Path) -> None:
    rows = [{"teacher": "OTHER", "student": "OTHER"}, {"teacher": "OTHER", "student": "Earnings"}]
    root = keep(tmp_path, "k1", rows)
    assert [one.id for one in disagreements(root, "k1")] == ["1"]
    assert labels_of(root, "k1") == {"OTHER": 1}


def test_calls_differ_by_what_they_do_and_are_counted_by_function(tmp_path: Path) -> None:
    one, other = '{"name":"buy","arguments":{"n":1,"m":2}}', '{"name":"buy","arguments":{"m":2,"n":1.0}}'
    same = {"teacher": one, "student": other, "label": "buy()", "function_name_and_args_accuracy": 1.0}
    wrong = {**same, "student": "no call", "function_name_and_args_accuracy": 0.0}
    root = keep(tmp_path, "k2", [same, wrong, wrong])
    assert [one.id for one in disagreements(root, "k2")] == ["1", "2"]
    assert labels_of(root, "k2") == {"buy()": 2}


def test_texts_differ_by_more_than_spaces(tmp_path: Path) -> None:
    same = {"teacher": "Acme did well.", "student": "Acme  did well.", "label": "text", "exact_match": 1.0}
    root = keep(tmp_path, "k3", [same, {**same, "student": "Beta did.", "exact_match": 0.0}])
    assert [one.student for one in disagreements(root, "k3")] == ["Beta did."]
