"""What is written for people holds no secret and no control character: logs, errors, quarantines, terminals.

A secret is known once it is read from the environment or a connection (`register`); from then on it is `***`
in every text that passes `clean`, also where it is percent-encoded, escaped or in base64. A text of others
(a teacher's error, a headline, a job's output) may hold escape codes that a terminal obeys: they are shown as
`\\x1b`, as Python writes them. `install` puts every log record of the process through it.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
# A shorter value would be found in words.
SHORTEST = 8
_SHORTEST_ENCODED = 8

# A name that ends so is a secret's: `token`, `webhook_url`, `AWS_SECRET_ACCESS_KEY`, `X-Api-Key`, `apiKey`.
_SECRET_NAME = re.compile(
    r"(?:^|[_.\s-])(?:passw(?:or)?d|passphrase|pwd|secret|token|bearer|credentials?|cookie|authorization|"
    r"webhook(?:[_-]url)?|(?:api|access|secret|private|integration|routing|signing|auth|service|shared|"
    r"account|encryption|fernet)[_-]?key)$",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_URL_PASSWORD = re.compile(r"//([^/?#\s@:]*)(?::([^\s@]*))?@")

# Control characters but tab and line end, and the marks that turn the direction of a line.
_CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(code) not in "\t\n"
} | {code: f"\\u{code:04x}" for code in (0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_HAS_CONTROL = re.compile("[" + "".join(map(re.escape, map(chr, _CONTROLS))) + "]")


class _Known:
    """The secrets of this process, and the expression that finds them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: set[str] = set()
        self.forms: set[str] = set()
        self.pattern: re.Pattern[str] | None = None
        self.told: set[str] = set()  # to Airflow, by
        self.told_by = 0  # this process: a fork knows what its parent did, and its Airflow does not


_known = _Known()
_installed = False


def register(*values: str | None) -> None:
    """Make secrets known; empty ones and those of less than SHORTEST characters are passed over."""
    new = {value.strip() for value in values if value and len(value.strip()) >= SHORTEST} - _known.values
    if new:
        with _known.lock:
            _known.values |= new
            for value in new:
                _known.forms |= set(_forms(value))
            longest_first = sorted(_known.forms, key=len, reverse=True)
            _known.pattern = re.compile("|".join(map(re.escape, longest_first)))
    _tell_airflow()


def without_secrets(text: str) -> str:
    """Return a text with `***` for each secret that this process knows."""
    return _known.pattern.sub(HIDDEN, text) if _known.pattern else text


def without_controls(text: str) -> str:
    """Return a text in which control characters are visible; tabs and line ends stay."""
    return text.translate(_CONTROLS) if _HAS_CONTROL.search(text) else text


def clean(text: str) -> str:
    """Return a text that may be shown: without secrets and control characters."""
    return without_controls(without_secrets(text))


def is_secret_name(name: str) -> bool:
    """Return whether a key, variable or header of that name holds a secret."""
    return bool(_SECRET_NAME.search(_CAMEL.sub("_", name)))


def install() -> None:
    """Put this process's logs and uncaught errors through `clean`, and know the environment's secrets.

    Doing it again only looks at the environment again, and tells Airflow in a fork what its parent knew.
    """
    global _installed
    register_environment()
    _tell_airflow()
    _join_structlog()
    if _installed:
        return
    _installed = True
    make_record, show_error = logging.getLogRecordFactory(), sys.excepthook

    def factory(*arguments: Any, **options: Any) -> logging.LogRecord:
        return cleaned(make_record(*arguments, **options))

    def shown(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
        if show_error is sys.__excepthook__:
            sys.stderr.write(clean("".join(traceback.format_exception(kind, error, frames))))
        else:
            show_error(kind, error, frames)

    logging.setLogRecordFactory(factory)
    sys.excepthook = shown


def cleaned(record: logging.LogRecord) -> logging.LogRecord:
    """Clean a log record in place: message, arguments, and the text of its exception; returns it."""
    if isinstance(record.msg, str):
        record.msg = clean(record.msg)
    else:
        record.msg = _cleaned_argument(record.msg)
    if isinstance(record.args, tuple):
        record.args = tuple(_cleaned_argument(value) for value in record.args)
    elif isinstance(record.args, dict):
        record.args = {name: _cleaned_argument(value) for name, value in record.args.items()}
    if record.exc_info and isinstance(record.exc_info, tuple) and record.exc_info[0]:
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        if clean(text) != text:  # else it is left to the handler, which may have a form of its own
            record.msg, record.args = f"{record.getMessage()}\n{clean(text)}", None
            record.exc_info = None
    return record


def _cleaned_argument(value: Any) -> Any:
    """Return an argument as it is, or as a clean text where its text is not clean."""
    if isinstance(value, str):
        return clean(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    try:
        text = str(value)
    except Exception:
        return value  # logging itself says what is wrong with it
    return value if clean(text) == text else clean(text)


def register_environment(names: Iterable[str] | None = None) -> None:
    """Make known what variables hold: secrets by their names, passwords in addresses, connections.

    Args:
        names: of variables; default: all.
    """
    from flywheel.common.connections import CONNECTION_PREFIX, find_connection
    from flywheel.common.errors import FlywheelError

    for name in list(os.environ) if names is None else names:
        value = os.environ.get(name, "")
        if name.startswith(CONNECTION_PREFIX):
            with suppress(FlywheelError):
                find_connection(name.removeprefix(CONNECTION_PREFIX), FlywheelError)  # which registers it
        elif is_secret_name(name) and not value.startswith("/"):
            register(value)
        if "@" in value:
            register(*passwords_in(value))


def passwords_in(text: str) -> list[str]:
    """Return the passwords in the addresses of a text, as they are written and decoded."""
    found = []
    for user, password in _URL_PASSWORD.findall(text):
        secret = password or user
        found += [secret, unquote(secret)]
    return found


def _forms(secret: str) -> Iterable[str]:
    """Give the ways in which a secret may stand in a text."""
    yield secret
    yield quote(secret, safe="")
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    raw = secret.encode()
    for before in range(3):  # in base64 of a longer text, such as `user:password`, it begins at any of three
        text = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        whole = text[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]
        if len(whole) >= _SHORTEST_ENCODED:
            yield whole
            yield whole.replace("+", "-").replace("/", "_")


def _join_structlog() -> None:
    """Have what Airflow's own loggers write pass `clean`, too: its masker knows no escape codes, and what a
    task's supervisor repeats in the scheduler's log does not pass it.
    """
    structlog = sys.modules.get("structlog")
    processors: Any = (
        structlog.get_config()["processors"] if structlog and structlog.is_configured() else None
    )
    if isinstance(processors, list) and processors and _cleaned_event not in processors:
        processors.insert(len(processors) - 1, _cleaned_event)  # in place, for loggers that are in use


def _cleaned_event(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    return {name: _cleaned_value(value) for name, value in event.items()}


def _cleaned_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _cleaned_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned_value(inner) for inner in value]
    return clean(value) if isinstance(value, str) else value


def _tell_airflow() -> None:
    """Have Airflow mask what is known in what it writes itself, and in its supervisor, where it is there."""
    if "airflow.sdk.log" not in sys.modules:
        return
    if _known.told_by != os.getpid():
        _known.told, _known.told_by = set(), os.getpid()
    new = _known.forms - _known.told
    if not new:
        return
    with suppress(RuntimeError):
        sys.modules["asyncio"].get_running_loop()
        return  # to tell the supervisor from inside the loop that talks to it would wait for itself
    from airflow.sdk.log import mask_secret

    _known.told |= new
    forms: Any = sorted(new)
    mask_secret(forms)
