"""The stage label when its teacher stumbles, refuses or is away, and when it is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flywheel.common.errors import SourceError, TeacherError
from flywheel.stages.label import label
from tests.unit.teacher_servers import Script, completion, served, stand_in
from tests.unit.test_stages_label import LABELS, figures, lines_of, make, write_headlines


@pytest.fixture(autouse=True)
def _no_teacher_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLYWHEEL_TEACHER_BASE_URL", "FLYWHEEL_TEACHER_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    write_headlines(tmp_path, [(text, "2024-03-01", "") for text in LABELS])
    return tmp_path


def test_a_teacher_that_stumbles_is_asked_again(folder: Path) -> None:
    write_headlines(folder, [(text, "2024-03-01", "") for text in list(LABELS)[:100]])
    trouble = {"fail_rate": 0.1, "busy_rate": 0.05, "retry_after_seconds": 0.1, "malformed_rate": 0.05}
    with stand_in(LABELS, **trouble, seed=1) as (url, teacher):
        result = label(make(folder, url, max_attempts=20, concurrency=32), folder)
    assert figures(result) == (100, 100, 100, 0, 0)
    assert min(teacher.calls[kind] for kind in ("failed", "busy", "malformed")) > 0


@pytest.mark.parametrize(
    "answer", ["I would rather not say.", "", "[[[sports]]]", "[[[earnings]]] [[[guidance]]]"]
)
def test_an_answer_without_a_class_is_asked_for_twice_then_kept_and_set_aside(
    tmp_path: Path, answer: str
) -> None:
    write_headlines(tmp_path, [("Acme beats", "2024-03-01", "")])
    script = Script([(200, {}, completion(answer))])
    with served(script) as url:
        for asked in (2, 0):
            result = label(make(tmp_path, url), tmp_path)
            assert figures(result) == (1, 0, asked, 1 - asked // 2, 1)
            (bad,) = lines_of(tmp_path / "label.quarantine.jsonl")
            assert "names no class, or several" in bad["reason"]
            assert (bad["line"], bad["raw"], bad["answer"]) == (2, "Acme beats", answer)
    assert len(script.calls) == 2


def test_a_second_answer_with_a_class_is_taken(tmp_path: Path) -> None:
    write_headlines(tmp_path, [("Acme beats", "2024-03-01", "")])
    with served(Script([(200, {}, completion("Hm.")), (200, {}, completion("Well: [[Earnings]]"))])) as url:
        result = label(make(tmp_path, url), tmp_path)
    assert figures(result) == (1, 1, 2, 0, 0)
    (record,) = lines_of(tmp_path / "labelled.jsonl.gz")
    assert record["response"]["choices"][0]["message"]["content"] == "Well: [[Earnings]]"


def test_a_wrong_key_stops_the_run_at_once(folder: Path) -> None:
    with stand_in(LABELS, api_key="right") as (url, teacher):
        with pytest.raises(TeacherError, match=r"401: stand-in: wrong or missing API key; check the key"):
            label(make(folder, url), folder)
        assert teacher.calls["calls"] <= 16
    assert not (folder / "labelled.jsonl.gz").exists()


def test_the_key_of_the_environment_is_sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_TEACHER_API_KEY", "right")
    with stand_in(LABELS, api_key="right") as (url, _):
        assert label(make(folder, url), folder).asked == 300


def test_a_teacher_that_is_down_stops_the_run(folder: Path) -> None:
    with pytest.raises(TeacherError, match=r"no endpoint has answered for .* http://127\.0\.0\.1:9/v1/"):
        label(make(folder, "http://127.0.0.1:9", outage_seconds=0.5), folder)


def test_a_teacher_that_always_fails_stops_the_run_after_ten_calls(folder: Path) -> None:
    message = r"10 calls in a row failed; the last: .*quota exceeded"
    with served(Script([(429, {}, b"quota exceeded")])) as url, pytest.raises(TeacherError, match=message):
        label(make(folder, url, max_attempts=1), folder)


def test_a_teacher_that_refuses_everything_stops_the_run(folder: Path) -> None:
    script = Script([(400, {}, b'{"error": {"message": "max_tokens is not supported"}}')])
    with served(script) as url, pytest.raises(TeacherError, match="max_tokens is not supported"):
        label(make(folder, url), folder)
    assert len(script.calls) <= 20


def test_a_few_headlines_of_which_none_gets_an_answer_are_an_error(tmp_path: Path) -> None:
    write_headlines(tmp_path, [("Nobody knows this", "2024-03-01", "")])
    with stand_in(LABELS) as (url, _), pytest.raises(TeacherError, match="no answer for"):
        label(make(tmp_path, url), tmp_path)


def test_answers_that_came_before_a_failure_are_kept(folder: Path) -> None:
    steps = [(200, {}, completion("[[[earnings]]]"))] * 50 + [(401, {}, b"expired")]
    with served(Script(steps)) as url, pytest.raises(TeacherError, match="401: expired"):
        label(make(folder, url), folder)
    with stand_in(LABELS) as (url, _):
        assert label(make(folder, url), folder).asked == 250


def test_a_source_that_breaks_off_is_an_error_and_its_answers_are_kept(folder: Path) -> None:
    dates = ["2024-03-01"] * 1100 + ["never"] * 100  # beyond the first rows, which are read beforehand
    write_headlines(folder, [("Acme unit 1 posts results", date, "") for date in dates], "broken.csv")
    sources = [{"path": str(folder / "headlines.csv")}, {"path": str(folder / "broken.csv")}]
    with stand_in(LABELS) as (url, _):
        with pytest.raises(SourceError, match=r"broken\.csv: .*'never'.*key source\.1\.time_format"):
            label(make(folder, url, source=sources), folder)
        assert label(make(folder, url), folder).found > 0


def test_sources_of_log_records_are_not_labelled(tmp_path: Path) -> None:
    source = {"path": str(tmp_path / "app.jsonl"), "kind": "log_records"}
    result = label(make(tmp_path, None, source=source), tmp_path)
    assert figures(result) == (0, 0, 0, 0, 0)
    assert lines_of(tmp_path / "labelled.jsonl.gz") == []


# -- kills and several processes -----------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
from tests.unit.test_stages_label import label, make
result = label(make(Path(sys.argv[1]), sys.argv[2]), Path(sys.argv[3]))
print(result.asked, result.found, result.labelled)
"""


def start(folder: Path, url: str, run_folder: Path) -> subprocess.Popen[str]:
    run_folder.mkdir(exist_ok=True)
    arguments = [sys.executable, "-c", RUN, str(folder), url, str(run_folder)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_a_killed_run_loses_only_the_calls_in_flight(folder: Path) -> None:
    with stand_in(LABELS, latency_seconds=0.05) as (url, teacher):
        process = start(folder, url, folder / "run")
        while teacher.calls["answered"] < 100:
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        paid = teacher.calls["answered"]
        assert not (folder / "run" / "labelled.jsonl.gz").exists()
        result = label(make(folder, url), folder / "run")
    assert result.labelled == 300
    # 8 calls at once, and the answers of 20 ms and one write.
    assert 100 - 24 <= result.found <= paid
    assert sorted(path.name for path in (folder / "run").iterdir() if not path.name.startswith(".")) == [
        "label.json",
        "label.quarantine.jsonl",
        "labelled.jsonl.gz",
    ]


def test_two_runs_at_once_pay_once(folder: Path) -> None:
    with stand_in(LABELS, latency_seconds=0.02) as (url, teacher):
        runs = [start(folder, url, folder / name) for name in ("one", "two")]
        printed = [run.communicate(timeout=60)[0].split() for run in runs]
    assert teacher.calls["calls"] == 300
    assert sorted(printed) == [["0", "300", "300"], ["300", "0", "300"]]


def test_a_second_run_waits_and_says_so(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with stand_in(LABELS, latency_seconds=0.06) as (url, _):
        plan = make(folder, url)
        (folder / "one").mkdir()
        first = threading.Thread(target=label, args=(plan, folder / "one"))
        first.start()
        time.sleep(0.2)
        assert label(plan, folder).found == 300
        first.join()
    assert "another run is labelling into this store; waiting" in caplog.text
