"""What people read holds no secret and no escape code, whatever others say and however it is logged."""

from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from flywheel.common import redaction
from flywheel.common.connections import find_connection
from flywheel.common.errors import ConfigError, FlywheelError, TeacherError
from flywheel.common.redaction import clean, cleaned, is_secret_name, register, register_environment
from flywheel.runtimes.base import log_job_line
from flywheel.sources.quarantine import Quarantine

SECRET = 'nv+ap/i "q1" \u00fc%20&=s3cret'
PLAIN = "plain-secret-0123456789"


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redaction, "_known", redaction._Known())
    yield


@pytest.mark.parametrize("secret", [SECRET, PLAIN])
def test_a_secret_is_hidden_in_every_form_it_may_have(secret: str) -> None:
    register(secret)
    raw = secret.encode()
    for text in (
        secret,
        f"key={quote(secret, safe='')}&x",
        json.dumps({"error": secret}),
        json.dumps({"error": secret}, ensure_ascii=False),
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
        *(base64.b64encode(user + b":" + raw + b"tail").decode() for user in (b"", b"a", b"ab", b"abc")),
    ):
        assert "***" in clean(text), text
        assert secret not in clean(text)


def test_words_are_no_secrets() -> None:
    register("airflow", "", None, "short")
    assert clean("airflow is short") == "airflow is short"


def test_escape_codes_and_turned_lines_are_shown_and_not_obeyed() -> None:
    said = "\x1b]0;owned\x07\x1b[2Jkey\r\x9b31m \u202etxt\ttab\nnext"
    shown = clean(said)
    assert shown == "\\x1b]0;owned\\x07\\x1b[2Jkey\\x0d\\x9b31m \\u202etxt\ttab\nnext"


def test_every_error_of_ours_is_clean() -> None:
    register(PLAIN)
    assert str(TeacherError(f"it said \x1b[31m{PLAIN}")) == "it said \\x1b[31m***"
    assert issubclass(ConfigError, FlywheelError)


def log_of(write: str) -> str:
    """Run a program that logs as ours do, with the secret in its environment; return all it printed."""
    program = (
        "import logging, os, sys\n"
        "from flywheel.common.redaction import install\n"
        "install()\n"
        "logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)\n"
        "secret = os.environ['DESK_API_KEY']\n"
        f"{write}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"DESK_API_KEY": PLAIN, "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "write",
    [
        "logging.info('the key %s', secret)",
        "logging.getLogger('another.library').warning(f'the key {secret}')",
        "logging.info('%(a)s', {'a': secret})",
        "logging.error('bad: %s', ValueError(f'\\x1b[31m{secret}'))",
        "try:\n    raise ValueError(f'said \\x1b[31m{secret}')\nexcept ValueError:\n    logging.exception('oh')",
        "raise ValueError(f'said \\x1b[31m{secret}')",
    ],
)
def test_no_log_record_and_no_uncaught_error_of_a_process_tells_it(write: str) -> None:
    said = log_of(write)
    assert "***" in said, said
    assert PLAIN not in said and "\x1b" not in said
    if "raise" in write:
        assert "ValueError" in said and "Traceback" in said


def test_a_record_without_either_is_left_to_its_handler_as_it_is() -> None:
    access = ("127.0.0.1:5", "GET", "/x", "1.1", 200)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "f", 1, '%s - "%s %s %s" %d', access, None)
    assert cleaned(record).args == access


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("HF_TOKEN", PLAIN, PLAIN),
        ("HTTPS_PROXY", "http://desk:pr%40xy-pw-1@proxy.test:8080", "pr@xy-pw-1"),
        ("MLFLOW_TRACKING_URI", "postgresql://u:db-pass-word-9@db.test/mlflow", "db-pass-word-9"),
        ("AIRFLOW_CONN_STORE", json.dumps({"conn_type": "x", "password": PLAIN}), PLAIN),
        ("AIRFLOW_CONN_STORE", f"elasticsearch://elastic:{PLAIN}@es.test:9200", PLAIN),
        ("AIRFLOW_CONN_STORE", json.dumps({"conn_type": "x", "extra": {"api_key": PLAIN}}), PLAIN),
    ],
)
def test_what_the_environment_holds_is_known(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, secret: str
) -> None:
    monkeypatch.setenv(name, value)
    register_environment([name])
    assert clean(f"it said {secret}") == "it said ***"


def test_reading_a_connection_makes_its_secrets_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_T", json.dumps({"conn_type": "http", "host": "h", "password": PLAIN}))
    found = find_connection("t", TeacherError)
    assert found is not None and found.password == PLAIN
    assert PLAIN not in clean(f"401: no key {PLAIN}")


def test_a_quarantine_holds_neither(tmp_path: Path) -> None:
    register(PLAIN)
    with Quarantine(tmp_path / "q.jsonl") as quarantine:
        quarantine.add("f", 1, f"the teacher said: \x1b[31m{PLAIN}", f"raw {PLAIN}", answer=f"a {PLAIN}")
    text = (tmp_path / "q.jsonl").read_text()
    assert PLAIN not in text and "\\u001b" not in text
    assert json.loads(text)["answer"] == "a ***"
    assert list(quarantine.reasons) == ["the teacher said"]


def test_a_job_s_lines_reach_the_log_clean() -> None:
    register(PLAIN)
    stream = io.StringIO()
    log = logging.Logger("job")
    log.addHandler(logging.StreamHandler(stream))
    log_job_line(log, f"ERROR \x1b[31m{PLAIN}")
    assert stream.getvalue() == "\\x1b[31m***\n"


def test_names_of_secrets() -> None:
    for name in (
        "token",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "X-Api-Key",
        "apiKey",
        "webhook_url",
        "password",
    ):
        assert is_secret_name(name), name
    for name in ("max_tokens", "TOKENIZERS_PARALLELISM", "key", "dedup_key", "api_key_env", "slack_conn_id"):
        assert not is_secret_name(name), name


def test_airflow_masks_what_is_known_in_every_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk import log as airflow_log

    told: list[str] = []
    monkeypatch.setattr(airflow_log, "mask_secret", told.extend)
    register(PLAIN)
    assert PLAIN in told and base64.b64encode(PLAIN.encode()).decode().rstrip("=")[:-1] in "".join(told)
    told.clear()
    register(PLAIN)
    assert told == []
    monkeypatch.setattr(redaction._known, "told_by", -1)  # as in a process that was forked since
    redaction.install()
    assert PLAIN in told


def test_what_airflow_s_own_loggers_write_is_clean() -> None:
    program = (
        "import io, sys, structlog\n"
        "from airflow.sdk.log import configure_logging\n"
        "configure_logging(json_output=True, output=sys.stdout.buffer, sending_to_supervisor=True)\n"
        "log = structlog.get_logger('a')\n"
        "log.info('before')\n"
        "from flywheel.common.redaction import install, register\n"
        f"register({PLAIN!r})\n"
        "install(); install()\n"
        f"log.error('said: %s', ValueError('\\x1b[31m{PLAIN}'))\n"
        "try:\n"
        f"    raise ValueError('\\x1b[31m{PLAIN}')\n"
        "except ValueError:\n"
        "    structlog.get_logger('b').exception('oh')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.count("***") >= 2, done.stdout + done.stderr
    assert "before" in done.stdout and "ValueError" in done.stdout
    assert PLAIN not in done.stdout and "\\u001b" not in done.stdout
