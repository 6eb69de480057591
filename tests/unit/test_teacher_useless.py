"""Replies of no use: one costs its headline, a row of them stops the run and names the key that mends it."""

import json
from pathlib import Path
from typing import Any

import pytest

from flywheel.errors import TeacherError
from tests.unit.teacher_servers import Script, completion, served, stand_in
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
        label(make(folder, url), folder)
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
