"""Read JSON that is not ours so that nothing of it is lost or changed without a word.

JSON allows what most readers pass over: the last of two equal keys wins, a whole number beyond 64 bits
becomes one near it, and what is nested deeply can be read but not written again. `loads` refuses all of them
by name.

A text that comes out as it was when its value is written again is read exactly. Of the others strings are
counted and levels walked, and only where that raises a doubt is the text read a second time, slowly, to say
what is wrong.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import orjson

# Levels of objects and lists: ten times what requests, tools and their JSON schemas have. With the levels
# that records, datasets and messages put around it, it stays below the 254 that orjson writes.
MAX_LEVELS = 100
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1
# From here on, a float may have been a whole number that orjson had no room for.
_MAYBE_WHOLE = float(1 << 63)


def loads(data: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is no JSON, has a key twice in one object, a whole number beyond 64 bits, or more than
            `MAX_LEVELS` levels; the message is the reason, its kind before the first colon.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(value, dict | list):
        if isinstance(value, float) and abs(value) >= _MAYBE_WHOLE:
            _read_slowly(data)
        return value
    text = data.encode() if isinstance(data, str) else data
    if _is_same(value, text):
        return value
    strings, maybe_whole = _walk(value)
    # Each string stands between two quotes, and a key that is there twice makes them more.
    quotes, doubtful = text.count(b'"'), maybe_whole
    if quotes != 2 * strings:
        # Some are escaped, and a backslash before a quote may itself be escaped: that is not looked into.
        doubtful = doubtful or quotes - text.count(b'\\"') != 2 * strings or b'\\\\"' in text
    if doubtful:
        _read_slowly(data)
    return value


def repeated_key(data: bytes, keys: Iterable[str]) -> str | None:
    """Return the first of some keys that the object of a JSON text has twice; None without one.

    Args:
        data: valid JSON, an object.
        keys: at its first level; written as they are, without escapes.

    Raises:
        ValueError: it is nested too deeply to tell.
    """
    doubtful = [key for key in keys if data.count(orjson.dumps(key)) > 1]
    if not doubtful:
        return None
    try:
        there = Counter(key for key, _ in json.loads(data, object_pairs_hook=list))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return next((key for key in doubtful if there[key] > 1), None)


def _is_same(value: Any, text: bytes) -> bool:
    """Return whether writing a value again gives its text, one with too few brackets to have many levels."""
    try:
        return orjson.dumps(value) == text.strip() and text.count(b"[") + text.count(b"{") <= MAX_LEVELS
    except TypeError:  # more levels than orjson writes
        return False


def _walk(value: Any) -> tuple[int, bool]:
    """Count the strings in a value, keys too, and tell whether a float in it may have been a whole number.

    Raises:
        ValueError: it has too many levels.
    """
    strings, maybe_whole = 0, False
    level = [value]
    for _ in range(MAX_LEVELS):
        below = []
        for one in level:
            if type(one) is dict:
                strings += len(one)
                one = one.values()
            for inner in one:
                kind = type(inner)
                if kind is str:
                    strings += 1
                elif kind is dict or kind is list:
                    below.append(inner)
                elif kind is float and not -_MAYBE_WHOLE < inner < _MAYBE_WHOLE:
                    maybe_whole = True
        if not below:
            return strings, maybe_whole
        level = below
    raise ValueError(f"nested too deeply: more than {MAX_LEVELS} levels of objects and lists")


def _read_slowly(data: bytes | str) -> None:
    """Raise the error that names what is wrong with a text, if anything is."""
    json.loads(data, object_pairs_hook=_without_repeats, parse_int=_whole)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"a key that is there twice: {key!r:.80}")
            seen.add(key)
    return found


def _whole(digits: str) -> int:
    # Texts longer than 20 characters are beyond 64 bits; Python refuses to read very long ones.
    if len(digits) > 20 or not _LEAST <= int(digits) <= _MOST:
        raise ValueError(f"a whole number beyond 64 bits: {digits:.40}; write it as a text")
    return int(digits)
