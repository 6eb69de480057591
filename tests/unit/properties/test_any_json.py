"""Any JSON text is read exactly or refused with its reason: nothing of it is lost or changed."""

import json
from typing import Any

import pytest
from hypothesis import example, given

from flywheel.common import exact_json
from tests.unit.properties.inputs import JSON_TEXTS, bounded


class _ProblemError(Exception):
    pass


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise _ProblemError("twice")
    for key in dict(pairs):
        key.encode()
    return dict(pairs)


def _integer(text: str) -> int:
    if len(text) > 25 or not -(2**63) <= int(text) < 2**64:
        raise _ProblemError("beyond 64 bits")
    return int(text)


def _no_constant(text: str) -> float:
    raise _ProblemError(text)


def _levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_levels, inner), default=0)


def python_reads(text: str) -> Any:
    """Return what Python's own reader gives, slowly and with every check."""
    value = json.loads(text, object_pairs_hook=_pairs, parse_int=_integer, parse_constant=_no_constant)
    json.dumps(value, ensure_ascii=False).encode()
    if "Infinity" in json.dumps(value) and "Infinity" not in text:
        raise _ProblemError("1e400")
    if _levels(value) > exact_json.MAX_LEVELS:
        raise _ProblemError("levels")
    return value


@given(text=JSON_TEXTS)
@example(text='{"a":1,"a":2}')
@example(text=r'{"a":1,"\u0061":2}')
@example(text=r'{"a\\":1,"a\\":": \""}')
@example(text='{"a" : ":" , "a" : ":"}')
@example(text="[" + "1" * 25 + "]")
@example(text="1" * 25)
@example(text="[" * 10_000)
@bounded(400)
def test_a_text_is_read_as_python_does_with_every_check_or_refused(text: str) -> None:
    try:
        expected = python_reads(text)
    except (ValueError, RecursionError, _ProblemError):
        with pytest.raises(ValueError, match=r"^\S"):
            exact_json.loads(text.encode("utf-8", "surrogatepass"))
        return
    assert json.dumps(exact_json.loads(text)) == json.dumps(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": {"b": 1, "b": 1}}', "a key that is there twice: 'b'"),
        (
            '{"n": 18446744073709551616}',
            "a whole number beyond 64 bits: 18446744073709551616; write it as a text",
        ),
        ("[" * 101 + "]" * 101, "nested too deeply: more than 100 levels of objects and lists"),
        ("{'a': 1}", "not valid JSON: unexpected character"),
    ],
)
def test_the_reason_names_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}"):
        exact_json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "\\"a\\": 1"}',
        '{"a": ": ", "b": [{"a": 1}, {"a": 2}]}',
        '{"a\\\\": "x"}',
        "[1e30, 1e-400, 18446744073709551615]",
    ],
)
def test_what_only_looks_doubtful_is_read(text: str) -> None:
    assert exact_json.loads(text.encode()) == json.loads(text)
