"""Budgets, prices and what is left; the gate against people, and the list of disagreements."""

import asyncio
import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from flywheel.common.errors import BudgetError, TeacherError
from flywheel.config.teacher import Budget, Gate, Prices, RateLimits
from flywheel.stages.label import LabelResult, label
from flywheel.stores import open_store
from flywheel.teacher.agreement import AgreementCounter, check_gate
from flywheel.teacher.client import TeacherClient
from flywheel.teacher.endpoint import Endpoint
from flywheel.teacher.request import Requests
from flywheel.teacher.spending import Spending
from tests.unit.teacher_servers import Script, completion, served, stand_in
from tests.unit.test_stages_label import LABELS, WORKLOAD, lines_of, make, write_headlines
from tests.unit.test_stages_label_failures import start

USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 80}}


@pytest.fixture(autouse=True)
def _no_teacher_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLYWHEEL_TEACHER_BASE_URL", "FLYWHEEL_TEACHER_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_headlines(tmp_path, [(text, "2024-03-01", "") for text in LABELS])
    return tmp_path


# -- what is counted -----------------------------------------------------------------------------------


def test_cached_tokens_have_a_price_of_their_own() -> None:
    spending = Spending(prices=Prices(prompt=1.0, cached_prompt=0.1, completion=4.0))
    spending.end(spending.begin(b"x" * 400), b"x" * 400, USAGE)
    assert (spending.calls, spending.tokens, spending.cached_tokens) == (1, 110, 80)
    assert spending.cost == pytest.approx((20 * 1.0 + 80 * 0.1 + 10 * 4.0) / 1e6)


def test_calls_in_flight_do_not_overrun_the_tokens_together() -> None:
    spending = Spending(Budget(tokens=1000))
    body = b"x" * 400
    spending.end(spending.begin(body), body, USAGE)
    opened = []
    with pytest.raises(BudgetError, match="110 of 1,000 are spent"):
        while True:
            opened.append(spending.begin(body))
    assert len(opened) == 8
    spending.end(opened[0], body, None)  # it failed, and cost nothing
    spending.begin(body)


def test_sums_are_kept_for_a_run_that_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "spent.json"
    for calls in (1, 2):
        spending = Spending(path=path, run_id="a")
        spending.end(spending.begin(b"x"), b"x", USAGE)
        spending.save()
        assert (spending.calls, spending.prompt_tokens) == (calls, 100 * calls)
    assert Spending(path=path, run_id="b").calls == 0
    spending.forget()
    assert Spending(path=path, run_id="a").calls == 0
    path.write_text("not JSON")
    assert Spending(path=path, run_id="a").calls == 0


# -- endpoints that do not tell, or tell strangely ---------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "tokens", "estimated"),
    [
        ({"prompt_tokens": 90.0, "completion_tokens": 9.6}, (90, 10), 0),
        ({"prompt_tokens": 90, "total_tokens": 100}, (90, 10), 0),
        ({"completion_tokens": 10, "total_tokens": 100}, (90, 10), 0),
        ({}, (100, 4), 1),
        ({"prompt_tokens": None, "completion_tokens": None}, (100, 4), 1),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (100, 4), 1),
        ({"prompt_tokens": 90}, (90, 4), 1),
        ({"prompt_tokens": float("nan"), "completion_tokens": "9"}, (100, 4), 1),
        ({"prompt_tokens": -5, "completion_tokens": True}, (100, 4), 1),
        ({"prompt_tokens": 1e300, "completion_tokens": 10}, (100, 10), 1),
    ],
)
def test_what_an_endpoint_does_not_tell_is_estimated_and_counted(
    usage: dict[str, Any], tokens: tuple[int, int], estimated: int
) -> None:
    spending = Spending()
    body = b"x" * 400
    assert spending.end(spending.begin(body), body, usage, written=16) == sum(tokens)
    assert (spending.prompt_tokens, spending.completion_tokens) == tokens
    assert spending.estimated == estimated


def test_a_prompt_is_estimated_by_what_was_told_and_a_cut_off_answer_by_its_bound() -> None:
    spending = Spending()
    body = b'{"text":"' + b"x" * 373 + b'","max_tokens":64}'
    assert len(body) == 400
    spending.end(spending.begin(body), body, {"prompt_tokens": 50, "completion_tokens": 1})
    # Its thoughts are not shown; they fill what it was allowed to write.
    assert spending.end(spending.begin(body), body, {}, is_cut_off=True) == 50 + 64
    assert spending.estimated == 1


USAGES: list[Any] = [
    None,
    {},
    {"prompt_tokens": None},
    {"prompt_tokens": 0.0, "completion_tokens": 0.0},
    "none",
]


@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize(
    ("budget", "prices"),
    [({"tokens": 15_000}, {}), ({"cost": 15.0}, {"prompt": 1000, "completion": 1000})],
)
def test_a_budget_holds_without_usage_and_the_result_says_that_it_is_an_estimate(
    folder: Path, usage: Any, budget: dict[str, Any], prices: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    answer = json.loads(completion("[[[earnings]]]"))
    if usage != "none":
        answer["usage"] = usage
    script = Script([(200, {}, json.dumps(answer).encode())])
    with served(script) as url:
        plan = make(folder, url, budget={**budget, "when_spent": "go_on"}, prices=prices)
        result = label(plan, folder)
    each = len(script.calls[0]["body"]) * 0.25 + 4
    assert len(script.calls) == result.calls == pytest.approx(15_000 / each, abs=2)
    assert 13_000 < result.prompt_tokens + result.completion_tokens <= 15_100
    assert result.left == 300 - result.labelled > 0
    assert result.estimated == result.asked
    assert "do not say what they used" in caplog.text
    assert "are spent (by estimate: the endpoint tells no usage)" in caplog.text


def test_an_answer_that_cannot_be_read_is_paid_for_and_counts(folder: Path) -> None:
    script = Script([(200, {}, b'{"choices": [{"mess'), (200, {}, completion("[[[earnings]]]"))])
    write_headlines(folder, [("Acme posts results", "2024-03-01", "")])
    with served(script) as url:
        result = label(make(folder, url), folder)
    assert (result.calls, result.asked, result.estimated) == (2, 1, 2)
    assert result.prompt_tokens == pytest.approx(2 * len(script.calls[0]["body"]) / 4, abs=2)


def test_rates_hold_without_usage() -> None:
    async def wait_of(body: bytes) -> float:
        rates = RateLimits(tokens_per_minute=60)
        async with TeacherClient([Endpoint(f"{url}/v1/chat/completions")], rates=rates) as client:
            await client.ask(body)
            return client._routes[0].opens_at - time.monotonic()

    with served(Script([(200, {}, completion("[[[earnings]]]"))])) as url:
        assert asyncio.run(wait_of(b"{}" + b" " * 4000)) > 900  # a thousand tokens, one a second


# -- budgets of the stage ------------------------------------------------------------------------------


def test_a_spent_budget_stops_cleanly_says_what_is_left_and_a_later_run_goes_on(folder: Path) -> None:
    with stand_in(LABELS, latency_seconds=0.002) as (url, teacher):
        plan = make(folder, url, budget={"calls": 100}, prices={"prompt": 2.0, "completion": 6.0})
        with pytest.raises(BudgetError) as caught:
            label(plan, folder)
        assert teacher.calls["calls"] == 100
        message = str(caught.value)
        assert (
            "teacher.budget.calls: all 100 are spent. 100 headlines are labelled, 200 have no answer yet"
            in message
        )
        assert "0.46 USD" in message  # 200 of about 1,128 + 4 tokens
        saved = LabelResult.model_validate_json((folder / "label.json").read_bytes())
        assert (saved.labelled, saved.left, saved.calls, saved.quarantined) == (100, 200, 100, 0)
        assert saved.cost == pytest.approx(0.228, abs=0.01)
        assert saved.currency == "USD"
        assert len(lines_of(folder / "labelled.jsonl.gz")) == 100

        with pytest.raises(BudgetError, match="200 headlines are labelled, 100 have no answer"):
            label(plan, folder)
        result = label(plan, folder)
    assert (result.labelled, result.left, result.asked, result.found) == (300, 0, 100, 200)
    assert teacher.calls["calls"] == 300


def test_a_run_may_go_on_with_what_the_budget_has_labelled(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with stand_in(LABELS) as (url, _):
        result = label(make(folder, url, budget={"tokens": 60_000, "when_spent": "go_on"}), folder)
    assert result.labelled + result.left == 300
    assert 0 < result.prompt_tokens + result.completion_tokens <= 60_000
    assert 40 <= result.labelled <= 55
    assert "run this again to go on" in caplog.text


def test_a_budget_of_money_is_kept(folder: Path) -> None:
    prices = {"prompt": 10.0, "completion": 30.0}
    with stand_in(LABELS) as (url, _):
        result = label(make(folder, url, prices=prices, budget={"cost": 0.5, "when_spent": "go_on"}), folder)
    assert 0.4 < result.cost <= 0.5
    assert result.left > 0


def test_a_killed_run_goes_on_with_what_is_left_of_its_budget(folder: Path) -> None:
    with stand_in(LABELS, latency_seconds=0.05) as (url, teacher):
        process = start(folder, url, folder / "run")
        while teacher.calls["answered"] < 150:
            assert process.poll() is None
            time.sleep(0.01)
        # The sums are written once a second.
        spent = folder / "records.sqlite.label.spent.json"
        while not spent.exists():
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        noted = json.loads(spent.read_text())["night"]["calls"]
        assert 0 < noted <= teacher.calls["calls"]
        with pytest.raises(BudgetError, match="all 200 are spent"):
            label(make(folder, url, budget={"calls": 200}), folder / "run")
    saved = LabelResult.model_validate_json((folder / "run" / "label.json").read_bytes())
    assert saved.calls == 200
    assert saved.asked <= 200 - noted
    assert not spent.exists()


# -- confidence ----------------------------------------------------------------------------------------


def test_the_confidence_is_kept_with_answer_and_record(tmp_path: Path) -> None:
    write_headlines(tmp_path, [("Acme beats", "2024-03-01", "")])
    choice = {"message": {"content": "[[[earnings]]]"}, "logprobs": {"content": [{"logprob": -0.25}]}}
    script = Script([(200, {}, orjson.dumps({"model": "m", "choices": [choice], "usage": USAGE}))])
    with served(script) as url:
        for _ in range(2):  # asked, then found
            result = label(make(tmp_path, url, logprobs=True), tmp_path)
            (record,) = lines_of(tmp_path / result.records_file)
            assert record["response"]["confidence"] == 0.778801
    assert orjson.loads(script.calls[0]["body"])["logprobs"] is True
    assert len(script.calls) == 1
    plan = make(tmp_path, None)
    with open_store(plan.config.store) as store:
        key = Requests(WORKLOAD, model="stand-in", temperature=0.0, max_tokens=32).key("Acme beats")
        assert store.get_answers([key])[key].usage["confidence"] == 0.778801


# -- the teacher against people ------------------------------------------------------------------------


def counted(pairs: list[tuple[str, str | None, int]]) -> Any:
    counter = AgreementCounter(WORKLOAD)
    for human, teacher, times in pairs:
        for _ in range(times):
            counter.add(human, teacher, "text")
    return counter.result()


def test_the_agreement_has_a_confusion_matrix_and_intervals() -> None:
    result = counted([("Earnings", "Earnings", 80), ("Earnings", "Guidance", 10), ("Guidance", "Guidance", 45),
                      ("Guidance", None, 5)])  # fmt: skip
    assert result.confusion.labels == ("Earnings", "Guidance")
    assert result.confusion.matrix == ((80, 10, 0), (0, 45, 5))
    earnings = result.per_class["Earnings"]
    assert earnings["f1"] == pytest.approx(2 * 80 / (90 + 80))
    assert earnings["f1_low"] < earnings["f1"] < earnings["f1_high"]
    # The standard deviation of F1 is about 0.018 here.
    assert earnings["f1_high"] - earnings["f1_low"] == pytest.approx(4 * 0.018, rel=0.3)
    assert (
        result.intervals["f1_weighted"][0] < result.scores["f1_weighted"] < result.intervals["f1_weighted"][1]
    )
    assert result.intervals["f1_macro"][0] < result.scores["f1_macro"] < result.intervals["f1_macro"][1]
    assert result == counted([("Earnings", "Earnings", 80), ("Earnings", "Guidance", 10),
                              ("Guidance", "Guidance", 45), ("Guidance", None, 5)])  # fmt: skip


def test_the_gate_may_judge_the_interval_or_the_macro_f1() -> None:
    result = counted([("Earnings", "Earnings", 90), ("Guidance", "Earnings", 5), ("Guidance", "Guidance", 5)])
    check_gate(result, Gate(min_f1_weighted=0.9))
    with pytest.raises(TeacherError, match=r"weighted F1 of 0\.9\d+ .*min_f1_weighted asks for 0\.9"):
        check_gate(result, Gate(min_f1_weighted=0.9, judge="interval"))
    with pytest.raises(TeacherError, match=r"macro F1 .*min_f1_macro asks for 0\.9"):
        check_gate(result, Gate(min_f1_macro=0.9))


def test_before_all_labels_are_there_only_a_clear_failure_stops() -> None:
    gate = Gate(min_f1_weighted=0.9)
    near = counted([("Earnings", "Earnings", 88), ("Earnings", "Guidance", 12), ("Guidance", "Guidance", 20)])
    assert near.scores["f1_weighted"] < 0.92
    check_gate(near, Gate(min_f1_weighted=near.scores["f1_weighted"] + 0.01), is_all=False)
    far = counted([("Earnings", "Earnings", 30), ("Earnings", "Guidance", 70)])
    with pytest.raises(TeacherError):
        check_gate(far, gate, is_all=False)


def test_a_teacher_that_people_disagree_with_stops_the_run_before_the_rest_is_paid_for(
    tmp_path: Path,
) -> None:
    texts = {f"Bolt unit {number} says more": "Earnings" for number in range(3000)}
    names = list(texts)
    rest = write_headlines(tmp_path, [(text, "2024-03-01", "") for text in names[400:]], "rest.csv")
    checked = write_headlines(
        tmp_path, [(text, "2024-03-01", "Dividends") for text in names[:400]], "human.csv"
    )
    sources = [{"path": str(rest)}, {"path": str(checked), "columns": {"human_label": "human"}}]
    with stand_in(texts, latency_seconds=0.005) as (url, teacher):
        plan = make(tmp_path, url, source=sources, gate={"min_f1_weighted": 0.8})
        with pytest.raises(TeacherError, match="against 200 human labels"):
            label(plan, tmp_path)
    assert teacher.calls["calls"] < 1500


def test_disagreements_are_listed_for_a_person(tmp_path: Path) -> None:
    texts = [text for text, name in LABELS.items() if name == "Earnings"][:20]
    formula = "=SUM(1) beats"
    rows = [(text, "2024-03-01", "Earnings") for text in texts]
    rows[3] = (texts[3], "2024-03-01", "guidance")
    rows.append((formula, "2024-03-01", "Dividends"))
    write_headlines(tmp_path, rows)
    with stand_in(LABELS | {formula: "Earnings"}) as (url, _):
        result = label(make(tmp_path, url), tmp_path)
        assert result.disagreements_file == "label.disagreements.csv"
        with (tmp_path / result.disagreements_file).open(newline="") as file:
            listed = list(csv.DictReader(file))
        assert [
            (row["human_label"], row["teacher_label"], row["headline"], row["line"]) for row in listed
        ] == [
            ("Guidance", "Earnings", texts[3], "5"),
            ("Dividends", "Earnings", f"'{formula}", "22"),
        ]
        assert listed[0]["answer"] == "[[[earnings]]]"
        assert result.human is not None
        assert [row.text for row in result.human.disagreements] == [texts[3], formula]
        # Without any the file of an earlier run goes.
        write_headlines(tmp_path, [(texts[0], "2024-03-01", "Earnings")])
        assert label(make(tmp_path, url), tmp_path).disagreements_file == ""
    assert not (tmp_path / "label.disagreements.csv").exists()


# -- progress ------------------------------------------------------------------------------------------


def test_the_log_tells_rate_time_left_and_cost(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.setattr("flywheel.teacher.progress.LOG_SECONDS", 0.2)
    caplog.set_level("INFO")
    with stand_in(LABELS, latency_seconds=0.05) as (url, _):
        label(make(folder, url, prices={"prompt": 100.0}), folder)
    lines = [record.getMessage() for record in caplog.records if "headlines settled" in record.getMessage()]
    assert any("/s, about " in line and " left, 0 found, " in line for line in lines), lines
    assert "300 headlines settled" in lines[-1]
    assert " USD so far, " in lines[-1]
