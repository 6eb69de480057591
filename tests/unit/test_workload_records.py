"""Records of tool calls and free texts: validated, kept, told apart, and split."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flywheel.common.errors import ConfigError, RecordError, WorkloadError
from flywheel.config.evaluation import EvaluationConfig, WorkloadType
from flywheel.config.loading import validate_config
from flywheel.curation.result import CurateResult
from flywheel.demo.tasks import records, tools
from flywheel.jobs.spec import EvaluateSpec
from flywheel.runs.plan import make_plan
from flywheel.stages.curate import curate, line_of
from flywheel.stores.sqlite import SqliteStore
from flywheel.workloads.lines import read_lines
from flywheel.workloads.records import Record
from flywheel.workloads.workload import Workload
from tests.unit.news_records import news_plan, news_record

CLASSES = ("Earnings", "OTHER")


def logged(message: dict[str, Any], **request: Any) -> dict[str, Any]:
    asked = {"model": "m", "messages": [{"role": "user", "content": "File: Acme beats"}], **request}
    response = {"choices": [{"message": {"role": "assistant", **message}}]}
    return {"request": asked, "response": response, "workload_id": "w", "client_id": "c", "timestamp": 5}


def call(name: str = "file_results", arguments: Any = '{"company": "Acme"}') -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def read(
    data: dict[str, Any], kind: WorkloadType = "auto", classes: tuple[str, ...] = (), **more: Any
) -> Record:
    return Record.from_json(data, classes, {}, workload_type=kind, **more)


def test_an_answer_is_counted_by_its_function_class_or_as_text() -> None:
    calling = logged({"content": None, "tool_calls": [call()]}, tools=tools())
    assert read(calling).label == read(calling, "tool_calling", CLASSES).label == "file_results()"
    assert read(logged({"content": "Nothing."}, tools=tools()), classes=CLASSES).label == "no call"
    assert read(logged({"content": "Acme did well."})).label == "text"
    assert read(logged({"content": "[[[earnings]]]"}), classes=CLASSES).label == "Earnings"
    assert read(logged({"content": "[[[earnings]]]"}), "generic", CLASSES).label == "text"


@pytest.mark.parametrize(
    "data, kind, expected",
    [
        (logged({"content": None, "tool_calls": [call()]}), "classification", "calls functions, but .* classification"),
        (logged({"content": None, "tool_calls": [call()]}), "generic", "calls functions, but .* generic"),
        (logged({"content": None, "tool_calls": [call("sell")]}, tools=tools()), "auto", "'sell' is none of request.tools"),
        (logged({"content": None, "tool_calls": [call(arguments="{")]}), "auto", "function.arguments: not valid JSON"),
        (logged({"content": None}), "auto", "content: expected a text"),
        (logged({"content": " ", "tool_calls": []}), "auto", "content: expected a text that is not empty"),
        (logged({"content": "x"}, tools={"a": 1}), "auto", "request.tools: expected a list"),
        (logged({"content": "x"}, tools=[{"type": "function"}]), "auto", "request.tools.0: expected an object"),
        (
            logged({"content": "x"}, messages=[{"role": "assistant", "content": None, "tool_calls": [call()]}]),
            "auto",
            "request.messages.0.content: expected a text",
        ),
        (logged({"content": "sports"}), "auto", "names none of the classes"),
    ],
)  # fmt: skip
def test_a_bad_record_says_which_key_is_wrong(
    data: dict[str, Any], kind: WorkloadType, expected: str
) -> None:
    with pytest.raises(RecordError, match=expected):
        read(data, kind, CLASSES)


def test_arguments_that_are_no_json_are_kept_where_the_config_says_so() -> None:
    data = logged({"content": None, "tool_calls": [call(arguments="company=Acme")]})
    record = read(data, parse_arguments=False)
    assert record.tool_calls[0]["function"]["arguments"] == "company=Acme"


def test_ids_of_logs_take_no_part_in_a_record_s_id_but_calls_and_tools_do() -> None:
    one = logged({"content": None, "tool_calls": [call()]}, tools=tools())
    other = logged({"content": None, "tool_calls": [{**call(), "id": "call_2"}]}, tools=tools())
    assert read(one).id == read(other).id
    more = logged({"content": None, "tool_calls": [call(arguments='{"company": "Beta"}')]}, tools=tools())
    fewer = logged({"content": None, "tool_calls": [call()]}, tools=tools()[:1])
    assert len({read(data).id for data in (one, more, fewer)}) == 3


def test_the_ids_of_records_without_tools_are_what_they_were() -> None:
    plain = news_record("Acme beats estimates", "Earnings")
    assert plain.id == "8fdfb00a3ced44b594f40848509227fe"
    assert Record.from_json(plain.to_json(), ("Earnings",), {}).id == plain.id


def test_tool_calls_come_back_from_the_store_as_they_were(tmp_path: Path) -> None:
    written = [read(data) for data in records("calls", 30)]
    turns = logged(
        {"content": "Done."},
        messages=[
            {"role": "user", "content": "File it"},
            {"role": "assistant", "content": None, "tool_calls": [call()]},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"ok": true}'},
        ],
        tools=tools(),
    )
    written.append(read(turns))
    with SqliteStore(tmp_path / "records.sqlite") as store:
        store.write(written)
        assert list(store.get(record.id for record in written)) == written


PARTS = [{"type": "text", "text": "File: "}, {"type": "text", "text": "Acme beats"}]
THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "Guidance? No."}]}


def test_a_content_in_parts_is_the_text_that_they_are(tmp_path: Path) -> None:
    in_parts = logged(
        {"content": [THOUGHT, {"type": "text", "text": "[[[earn"}, {"type": "text", "text": "ings]]]"}]},
        messages=[{"role": "user", "content": PARTS}],
    )
    plain = read(logged({"content": "[[[earnings]]]"}), classes=CLASSES)
    record = read(in_parts, classes=CLASSES)
    assert (record.messages, record.answer, record.label) == (plain.messages, "[[[earnings]]]", "Earnings")
    assert record.id == plain.id
    assert record.response == in_parts["response"]  # as it was logged
    with SqliteStore(tmp_path / "records.sqlite") as store:
        store.write([record])
        (kept,) = store.get([record.id])
    assert kept == record
    assert json.loads(line_of(kept, kept.id, parse_arguments=True))["messages"][-1]["content"] == kept.answer


def test_results_of_tools_and_earlier_turns_may_come_in_parts() -> None:
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": PARTS},
        {"role": "assistant", "content": [THOUGHT], "tool_calls": [call()]},
        {
            "role": "tool",
            "tool_call_id": "call_1",
            "content": [{"type": "text", "text": '{"ok": true}'}, "!"],
        },
    ]
    record = read(logged({"content": "Done."}, messages=turns, tools=tools()))
    contents = [message["content"] for message in record.messages]
    assert contents == ["Be brief.", "File: Acme beats", "", '{"ok": true}!']
    assert record.messages[2]["tool_calls"] == [call()]


@pytest.mark.parametrize(
    ("message", "request_", "expected"),
    [
        ({"content": "x"}, [{"type": "image_url", "image_url": {"url": "u"}}], r"0: .* got 'image_url'"),
        ({"content": "x"}, [{"type": "text", "text": "a"}, 5], r"content.1: expected an object or a text"),
        ({"content": "x"}, [{"type": "text"}], r"request.messages.0.content.0.text: expected a text"),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "a", r"message.content.0: .* got 'refusal'"),
        ({"content": [THOUGHT]}, "a", r"expected a text that is not empty"),
        ({"content": "<think>Perhaps guidance"}, "a", r"nothing but thoughts"),
    ],
)
def test_a_part_that_is_no_text_sets_its_record_aside_and_is_named(
    message: dict[str, Any], request_: Any, expected: str
) -> None:
    with pytest.raises(RecordError, match=expected):
        read(logged(message, messages=[{"role": "user", "content": request_}]))


@pytest.mark.parametrize(
    "thought",
    ["<think>Hm, {x}.</think>\n\n", "Hm, {x}.\n</think>\n", "[THINK]{x}[/THINK]", "<thought>{x}</thought> "],
)
def test_a_student_learns_free_texts_and_calls_without_the_thoughts_before_them(thought: str) -> None:
    calls = {"content": f"{thought}I file it.", "tool_calls": [call()]}
    for message in ({"content": f"{thought}Acme did well."}, calls):
        data = logged(
            message,
            messages=[
                {"role": "user", "content": "Why does </think> stand here?"},
                {"role": "assistant", "content": f"{thought}I do not know."},
                {"role": "user", "content": "File: Acme beats"},
            ],
            tools=tools(),
        )
        record = read(data)
        assert record.response == data["response"]  # the log stays as it came
        line = json.loads(line_of(record, record.id, parse_arguments=True))
        contents = [message["content"] for message in line["messages"]]
        assert contents[:2] == ["Why does < /think> stand here?", "I do not know."]
        assert contents[-1] in ("Acme did well.", "I file it.")
        assert ("tool_calls" in line["messages"][-1]) == ("tool_calls" in message)


def curated(folder: Path, made: list[Record], **sections: Any) -> tuple[CurateResult, list[dict[str, Any]]]:
    with SqliteStore(folder / "records.sqlite") as store:
        store.write(made)
    data = {
        "nims": [{"model_name": "test/1b"}],
        "sizes": [5],
        "workload": str(folder / "workload.yaml"),
        "store": {"path": str(folder / "records.sqlite")},
        "artifacts": {"root": str(folder / "artifacts")},
        "data_split_config": {"eval_size": 10, "min_total_records": 1},
        **sections,
    }
    (folder / "workload.yaml").write_text(f"workload_id: {made[0].workload_id}\n")
    plan = make_plan(
        validate_config(data, "test"),
        run_id="night",
        cutoff=datetime.fromtimestamp(1 << 32, UTC),
        client_id=made[0].client_id,
    )
    result = curate(plan, folder)
    path = folder / "artifacts/datasets" / result.dataset / "train.jsonl"
    return result, list(read_lines(path))


def test_the_type_is_told_from_the_records(tmp_path: Path) -> None:
    for task, expected in (("calls", "tool_calling"), ("briefs", "generic")):
        folder = tmp_path / task
        folder.mkdir()
        made = [read(data) for data in records(task, 60)]  # type: ignore[arg-type]  # of the two tasks
        assert curated(folder, made)[0].workload_type == expected
    (tmp_path / "news").mkdir()
    news = [news_record(f"Acme number {i} beats estimate {i * 7}", timestamp=1000 + i) for i in range(40)]
    with SqliteStore(tmp_path / "news" / "records.sqlite") as store:
        store.write(news)
    plan = news_plan(tmp_path / "news")
    assert curate(plan, tmp_path / "news").workload_type == "classification"


def test_a_dataset_of_calls_is_stratified_by_function_and_has_objects_as_arguments(tmp_path: Path) -> None:
    result, lines = curated(tmp_path, [read(data) for data in records("calls", 80)])
    assert result.stratified
    assert {"file_results()", "file_opinion()", "no call"} <= set(result.per_class)
    calling = next(line for line in lines if line["label"] == "file_results()")
    (made,) = calling["messages"][-1]["tool_calls"]
    assert set(made["function"]["arguments"]) == {"company", "tone"}
    assert calling["messages"][-1]["content"] == ""
    assert calling["tools"] == tools()


def test_arguments_stay_text_in_the_dataset_where_the_config_says_so(tmp_path: Path) -> None:
    split = {"eval_size": 10, "min_total_records": 1, "parse_function_arguments": False}
    _, lines = curated(tmp_path, [read(data) for data in records("calls", 80)], data_split_config=split)
    calling = next(line for line in lines if line["label"] == "file_results()")
    assert isinstance(calling["messages"][-1]["tool_calls"][0]["function"]["arguments"], str)


def test_turns_of_one_conversation_are_not_duplicates_of_each_other(tmp_path: Path) -> None:
    made = []
    for number in range(30):
        asked = {"role": "user", "content": f"File story {number} of {number * 13} about Acme{number}"}
        first = logged({"content": None, "tool_calls": [call()]}, messages=[asked], tools=tools())
        turns = [asked, {"role": "assistant", "content": None, "tool_calls": [call()]}]
        turns.append({"role": "tool", "content": f"kept as entry {number * 7} of the desk, thank you"})
        second = logged({"content": f"Filed {number}."}, messages=turns, tools=tools())
        made += [read({**first, "timestamp": number + 1}), read({**second, "timestamp": number + 1})]
    result, _ = curated(tmp_path, made)
    assert (result.duplicates, result.near_duplicates, result.used) == (0, 0, 60)


def test_a_workload_without_classes_cannot_label_or_classify(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("workload_id: desk\n")
    workload = Workload.load(path)
    assert (workload.id, workload.classes) == ("desk", ())
    assert workload.text_of([{"role": "user", "content": "Acme"}]) is None
    base = {"nims": [{"model_name": "a/b"}], "workload": str(path)}
    cutoff = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(ConfigError, match="classification needs classes"):
        config = validate_config({**base, "evaluation_config": {"workload_type": "classification"}}, "test")
        make_plan(config, run_id="r", cutoff=cutoff)
    with pytest.raises(ConfigError, match=r"source\.0\.kind: headlines are labelled"):
        config = validate_config({**base, "source": [{"path": "x.csv"}]}, "test")
        make_plan(config, run_id="r", cutoff=cutoff)
    path.write_text("workload_id: desk\nsystem: You help.\n")
    with pytest.raises(WorkloadError, match="missing, and required"):
        Workload.load(path)


def test_the_longest_answer_goes_by_the_type() -> None:
    assert [EvaluationConfig().of_type(kind).answer_tokens for kind in ("classification", "tool_calling", "generic")] == [
        12,
        256,
        512,
    ]  # fmt: skip
    assert EvaluationConfig(max_new_tokens=7).of_type("generic").answer_tokens == 7


def test_an_evaluation_of_a_classification_needs_classes() -> None:
    student = {"model_name": "a/b"}
    with pytest.raises(ValueError, match="classes"):
        EvaluateSpec.model_validate({"artifact_root": "a", "student": student, "dataset": "d"})
    spec = EvaluateSpec.model_validate(
        {"artifact_root": "a", "student": student, "dataset": "d", "evaluation": {"workload_type": "generic"}}
    )
    assert spec.workload_type == "generic"
