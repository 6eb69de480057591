"""Replies of no use: one costs its headline, a row of them stops the run and names the key that mends it."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from flywheel.common.errors import TeacherError
from flywheel.runs.plan import Plan
from flywheel.stages.forecast import forecast
from flywheel.stores import open_store
from flywheel.teacher.without_label import WithoutLabel
from tests.unit.teacher_servers import Script, body_of, completion, served, stand_in
from tests.unit.test_stages_label import LABELS, figures, label, lines_of, make, write_headlines


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FLYWHEEL_TEACHER_BASE_URL", "FLYWHEEL_TEACHER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    write_headlines(tmp_path, [(text, "2024-03-01", "") for text in LABELS])
    return tmp_path


GOOD = (200, {}, completion("[[[earnings]]]"))


def reply(message: dict[str, Any], finish_reason: str = "stop") -> tuple[int, dict[str, str], bytes]:
    body = {"model": "m", "choices": [{"message": message, "finish_reason": finish_reason}]}
    return 200, {}, json.dumps(body).encode()


def no_message(finish_reason: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps({"choices": [{"finish_reason": finish_reason}]}).encode()


CALL = {"id": "a", "type": "function", "function": {"name": "search", "arguments": "{}"}}


@pytest.mark.parametrize("good", [0, 12])
@pytest.mark.parametrize(
    ("useless", "named", "most"),
    [
        (reply({"content": None}, "length"), r"finish_reason length.*teacher\.max_tokens", 10),
        (reply({"reasoning_content": "Hmm"}, "length"), r"finish_reason length.*teacher\.max_tokens", 10),
        (reply({"content": "<think>Maybe guidance"}), r"nothing but thoughts.*teacher\.max_tokens", 20),
        (reply({"content": ""}), r"is empty.*teacher\.max_tokens", 20),
        (reply({"content": None, "refusal": "I cannot."}), r"refused to answer.*teacher\.model", 20),
        (reply({"content": "No."}, "content_filter"), r"refused to answer.*teacher\.model", 20),
        (reply({"content": None, "tool_calls": [CALL]}, "tool_calls"), r"tool_calls.*teacher\.model", 20),
        (reply({"role": "assistant"}, "length"), r"finish_reason length.*teacher\.max_tokens", 10),
        (reply({"role": "assistant"}, "content_filter: PROHIBITED_CONTENT"), "refused to answer", 20),
        (no_message("content_filter"), "refused to answer", 20),
        (reply({"content": None, "reasoning": "[[[earnings]]]"}), r"thoughts alone.*reasoning parser", 20),
        (reply({"content": "I am an assistant."}), "names no class", 20),
        ((400, {}, b"DEGRADED function cannot be invoked"), "400: DEGRADED", 10),
        ((401, {}, b"expired"), "401: expired; check the key", 10),
    ],
)
def test_replies_that_are_of_no_use_stop_the_run_early_and_name_what_mends_them(
    folder: Path, useless: Any, named: str, most: int, good: int
) -> None:
    script = Script([GOOD] * good + [useless])
    with served(script) as url, pytest.raises(TeacherError, match=f"(?s){named}"):
        label(make(folder, url, outage_seconds=0.5), folder)
    assert len(script.calls) <= good + most + 8 + most // 2  # 8 at once, each asked again once at most
    with stand_in(LABELS) as (url, _):  # what came before it is kept
        assert label(make(folder, url), folder).found >= good


@pytest.mark.parametrize("status", [202, 400, 401, 403, 404])
def test_one_refused_headline_among_good_ones_is_set_aside_alone(folder: Path, status: int) -> None:
    write_headlines(folder, [(text, "2024-03-01", "") for text in list(LABELS)[:40]])
    script = Script([GOOD] * 12 + [(status, {}, b"input was flagged")] + [GOOD])
    with served(script) as url:
        result = label(make(folder, url), folder)
    assert figures(result) == (40, 39, 39, 0, 1)
    (bad,) = lines_of(folder / "label.quarantine.jsonl")
    assert f"{status}: input was flagged" in bad["reason"]


@pytest.mark.parametrize(("status", "asked"), [(401, 3), (402, 3), (403, 0)])
def test_a_key_that_is_refused_between_good_answers_is_no_text_s_fault(
    folder: Path, status: int, asked: int
) -> None:
    few(folder)
    with served(Script([GOOD] * 5 + [(status, {}, b"no")] * 3 + [GOOD])) as url:
        assert figures(label(make(folder, url), folder)) == (40, 37, 37, 0, 3)
    with served(Script([GOOD])) as url:
        assert label(make(folder, url), folder).asked == asked


# -- night after night ---------------------------------------------------------------------------------


def on(plan: Plan, night: int) -> Plan:
    return plan.model_copy(update={"run_id": f"night {night}"})


class ByText:
    """Answers each headline by its text: a list of steps, the last of which repeats."""

    def __init__(self, steps: dict[str, list[Any]]) -> None:
        self.steps = steps
        self.calls: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = await body_of(receive)
        prompt = orjson.loads(body)["messages"][-1]["content"]
        text = next((text for text in self.steps if text in prompt), "")
        self.calls.append(text)
        steps = self.steps.get(text, [GOOD])
        status, _, data = steps.pop(0) if len(steps) > 1 else steps[0]
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": data})


FLAGGED = (403, {}, b"input was flagged")
BAD = "Acme unit 7 posts results"


def few(folder: Path) -> None:
    write_headlines(folder, [(text, "2024-03-01", "") for text in list(LABELS)[:40]])


@pytest.mark.parametrize(
    ("useless", "a_night", "reason"),
    [
        (reply({"content": None}, "length"), 1, "finish_reason length"),
        (reply({"content": ""}), 2, "is empty"),
        (reply({"content": None, "refusal": "I cannot."}), 2, "refused to answer"),
        (reply({"content": None, "tool_calls": [CALL]}, "tool_calls"), 2, "called a function"),
        (FLAGGED, 1, "403: input was flagged"),
    ],
)
def test_what_is_of_no_use_is_asked_for_on_three_nights_then_set_aside_with_its_reason(
    folder: Path, useless: Any, a_night: int, reason: str
) -> None:
    few(folder)
    app = ByText({BAD: [useless]})
    with served(app) as url:
        plan = make(folder, url)
        for night in (1, 1, 2, 3, 4, 5):
            expected = forecast(on(plan, night))
            assert expected is not None
            before = len(app.calls)
            result = label(on(plan, night), folder)
            assert (result.labelled, result.quarantined) == (39, 1)
            assert (expected.ask > 0) == (len(app.calls) > before)
            (bad,) = lines_of(folder / "label.quarantine.jsonl")
            assert reason in bad["reason"]
            assert ("asked for on 3 nights, and not again" in bad["reason"]) == (night > 3)
    assert app.calls.count(BAD) == 3 * a_night
    assert len(app.calls) == 39 + 3 * a_night


def test_the_log_and_the_result_say_why_headlines_have_no_label(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few(folder)
    cut_off = reply({"content": None}, "length")
    bad = list(LABELS)[3:30:3]
    app = ByText({text: [cut_off if place % 3 else FLAGGED] for place, text in enumerate(bad)})
    with served(app) as url:
        result = label(make(folder, url), folder)
        again = label(on(make(folder, url), 2), folder)
    (cut, times), (flagged, others) = result.reasons.items()
    assert "finish_reason length): raise teacher.max_tokens" in cut
    assert (times, flagged, others) == (6, "the teacher said 403: input was flagged", 3)
    assert "9 headlines have no label. 6: the teacher's answer was cut off" in caplog.text
    assert again.reasons == result.reasons


def test_kinds_of_reasons_are_bounded() -> None:
    counts = WithoutLabel()
    for number in range(1000):
        counts.add(f"the teacher at http://a.test/v1 said 400: {number} is no headline")
    assert len(counts.reasons()) == 10
    assert counts.reasons()["other reasons"] == 991
    assert sum(counts.reasons().values()) == 1000
    assert counts.line().startswith(
        "1,000 headlines have no label. 950: other reasons; 1: the teacher said 400: 0"
    )
    assert counts.line().endswith("46 others")


@pytest.mark.parametrize("status", [202, 400, 403, 404])
def test_a_flagged_headline_that_comes_first_stops_no_run(folder: Path, status: int) -> None:
    texts = list(LABELS)[:40]
    write_headlines(folder, [(text, "2024-03-01", "") for text in texts])
    app = ByText({texts[0]: [(status, {}, b"input was flagged")]})
    with served(app) as url:
        for night in (1, 2, 3, 4):
            result = label(on(make(folder, url), night), folder)
            assert (result.labelled, result.quarantined) == (39, 1)
    assert app.calls.count(texts[0]) == 3


def test_a_wrong_model_stops_the_run_and_counts_for_no_headline(folder: Path) -> None:
    few(folder)
    wrong = Script([(404, {}, b"no such model")])
    with served(wrong) as url:
        for _ in range(4):
            with pytest.raises(
                TeacherError, match=r"404: no such model; check the address .* teacher\.model"
            ):
                label(make(folder, url), folder)
    assert len(wrong.calls) == 8
    with stand_in(LABELS) as (url, _):
        assert label(make(folder, url), folder).labelled == 40


def test_what_was_of_no_use_one_night_is_labelled_on_another_and_paid_for_no_more(folder: Path) -> None:
    few(folder)
    app = ByText(
        {BAD: [reply({"content": None}, "length"), FLAGGED, (200, {}, completion("[[[guidance]]]"))]}
    )
    with served(app) as url:
        found = [label(on(make(folder, url), night), folder) for night in (1, 2, 3, 4)]
    assert [(result.asked, result.labelled) for result in found] == [(40, 39), (0, 39), (1, 40), (0, 40)]
    with open_store(make(folder, None).config.store) as store:
        kept = [answer.usage.get("fault", "") for _, answer in store.read_answers() if answer.usage]
    assert len(kept) == 2
    assert any("cut off" in text for text in kept)
    assert any("403: input was flagged" in text for text in kept)


def test_a_row_that_stopped_the_run_counts_for_no_headline(folder: Path) -> None:
    with served(Script([GOOD] * 12 + [reply({"content": None}, "length")])) as url:
        for _ in range(4):
            with pytest.raises(TeacherError, match="10 answers in a row"):
                label(make(folder, url), folder)
    with stand_in(LABELS) as (url, _):
        result = label(make(folder, url), folder)
    assert (result.labelled, result.quarantined) == (300, 0)


# -- degraded for a while, and errors in a 200 -----------------------------------------------------------


def test_an_endpoint_that_refuses_all_for_a_while_is_waited_for(folder: Path) -> None:
    degraded = (400, {}, b"DEGRADED function cannot be invoked")
    script = Script([GOOD] * 12 + [degraded] * 11 + [GOOD])
    with served(script) as url:
        result = label(make(folder, url, outage_seconds=60), folder)
    # Those before it was known to be ill, and asked again the next night: five in a row, and those that an
    # answer from before came between.
    assert result.quarantined <= 8
    assert result.labelled == 300 - result.quarantined
    with stand_in(LABELS) as (url, _):
        assert label(on(make(folder, url), 2), folder).labelled == 300


def test_an_answer_that_is_pending_is_fetched_when_it_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.teacher.connections.PENDING_SECONDS", 0)
    few(folder)
    pending = (202, {"NVCF-REQID": "3f2a-77"}, b"")
    script = Script([GOOD] * 5 + [pending, (202, {}, b""), GOOD])
    with served(script) as url:
        result = label(make(folder, url, concurrency=1), folder)
    assert figures(result) == (40, 40, 40, 0, 0)
    assert [call["path"] for call in script.calls[5:9]] == [
        "/v1/chat/completions",
        "/v1/status/3f2a-77",
        "/v1/status/3f2a-77",
        "/v1/chat/completions",
    ]
    script = Script([GOOD] * 5 + [(202, {"NVCF-REQID": "../../x?y"}, b"pending"), GOOD])
    with served(script) as url:
        result = label(make(folder, url, max_tokens=9), folder)
    assert (result.labelled, result.quarantined) == (39, 1)
    assert {call["path"] for call in script.calls} == {"/v1/chat/completions"}


def error(code: Any, message: str = "Provider returned error") -> tuple[int, dict[str, str], bytes]:
    return 200, {}, json.dumps({"error": {"message": message, "code": code}}).encode()


@pytest.mark.parametrize("code", [503, "429", None, "server_error"])
def test_an_error_in_a_200_is_tried_again(folder: Path, code: Any) -> None:
    few(folder)
    broken = reply({"content": ""}, "error")
    script = Script([GOOD] * 5 + [error(code), broken, GOOD])
    with served(script) as url:
        result = label(make(folder, url), folder)
    assert figures(result) == (40, 40, 40, 0, 0)
    assert len(script.calls) == 42


def test_an_error_in_a_200_is_told_as_what_it_is(folder: Path) -> None:
    few(folder)
    with served(Script([GOOD] * 5 + [error(403, "input was flagged"), GOOD])) as url:
        assert figures(label(make(folder, url), folder)) == (40, 39, 39, 0, 1)
    (bad,) = lines_of(folder / "label.quarantine.jsonl")
    assert "200 with an error of status 403: input was flagged" in bad["reason"]
    with served(Script([error("model_not_loaded", "no such model")])) as url:
        message = "200 with an error of status 502: no such model"
        with pytest.raises(TeacherError, match=message):
            label(make(folder, url, max_attempts=1, max_tokens=9, outage_seconds=0.3), folder)
