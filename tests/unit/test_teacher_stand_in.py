"""The stand-in teacher: it speaks the protocol, says what it is, and invents nothing."""

import gzip
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flywheel.common.errors import SourceError, TeacherError
from flywheel.workloads.workload import Workload
from flywheel_stand_ins.teacher import read_answers, serve
from tests.unit.teacher_servers import stand_in

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
EXAMPLE = "Five habits of patient investors"
LABELS = {"Acme: results beat": "Earnings", EXAMPLE: "OTHER"}


def ask(url: str, text: str) -> httpx.Response:
    body = {"model": "any", "messages": WORKLOAD.messages(text)}
    return httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False)


def test_it_answers_a_text_of_its_file_and_says_that_it_is_a_stand_in() -> None:
    with stand_in(LABELS) as (url, _):
        answer = ask(url, "Acme: results  beat").json()
        models = httpx.get(f"{url}/v1/models", trust_env=False).json()
        health = httpx.get(f"{url}/health", trust_env=False).json()
        stats = httpx.get(f"{url}/stats", trust_env=False).json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "[[[earnings]]]"}
    assert answer["model"] == models["data"][0]["id"] == health["model"] == stats["model"] == "stand-in"
    assert answer["usage"]["prompt_tokens"] > 1000
    assert (stats["calls"], stats["answered"]) == (1, 1)


def test_an_unknown_text_gets_no_invented_answer_not_even_of_an_example() -> None:
    with stand_in(LABELS) as (url, teacher):
        response = ask(url, "Nobody knows this")
        assert EXAMPLE in WORKLOAD.before
    assert response.status_code == 422
    assert "stand-in has no answer for" in response.json()["error"]["message"]
    assert "Nobody knows this" in response.json()["error"]["message"]
    assert teacher.calls["unknown"] == 1


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"messages": 1}', b'{"messages": [{"role": "user"}]}', b"\xff"]
)
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with stand_in(LABELS) as (url, _):
        response = httpx.post(f"{url}/v1/chat/completions", content=body, trust_env=False)
    assert response.status_code == 400


def test_answers_are_read_from_a_file_compressed_or_not(tmp_path: Path) -> None:
    text = "date,headline,teacher_label\n1,Acme  beats,Earnings\n2,Acme beats,OTHER\n3,,OTHER\n"
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("a.csv", "a.csv.gz"):
        assert read_answers(tmp_path / name, "headline", "teacher_label") == {"Acme beats": "Earnings"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"headline,label\na,b\n", "no column 'teacher_label'"),
        (b"", "no column 'headline'"),
        (b"headline,teacher_label\nCaf\xe9,OTHER\n", "cannot be read as CSV"),
    ],
)
def test_a_file_without_answers_is_an_error(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(SourceError, match=message):
        read_answers(tmp_path / "a.csv", "headline", "teacher_label")


def test_its_command_says_its_address_once_it_serves(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nAcme beats,Earnings\n")
    options = ["--answers", str(tmp_path / "a.csv"), "--text-column", "text", "--label-column", "label"]
    arguments = [sys.executable, "-m", "flywheel_stand_ins", "teacher", *options, "--port", "0"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("stand-in teacher: http://127.0.0.1:")
        assert line.endswith("answers for 1 texts\n")
        url = line.split()[2].removesuffix("/v1")
        assert ask(url, "Acme beats").json()["choices"][0]["message"]["content"] == "[[[earnings]]]"
    finally:
        process.terminate()
        process.wait(10)


def test_a_port_that_is_taken_is_named() -> None:
    with stand_in(LABELS) as (url, _):
        port = int(url.rpartition(":")[2])
        with pytest.raises(TeacherError, match=rf"127\.0\.0\.1:{port}: cannot listen there"):
            serve(LABELS, port=port)
