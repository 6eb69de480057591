"""What comes from outside, as hypothesis makes it: JSON texts, conversations, calls.

Everything is drawn in the same order each time and without a deadline, so that a run is the same on any
machine; FLYWHEEL_DRILL=full draws twenty times as much.
"""

import json
import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

_TIMES = 20 if os.environ.get("FLYWHEEL_DRILL") == "full" else 1


def bounded(examples: int) -> Any:
    """Return the settings of a property: so many examples, always the same."""
    return settings(
        max_examples=examples * _TIMES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


# -- JSON, valid and not, as text ------------------------------------------------------------------------

STRINGS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "a", "role", 'say "a": b', "back\\slash", 'end\\"', "\x00", "\u2028", "é", "🚀", "\x85", ": "]
    ),
)
# Of texts of JSON, since Python's own strings cannot be written as these are.
_ODD_STRINGS = st.sampled_from(
    [r'"\ud800"', r'"\udc00x"', r'"\ud83d\ude80"', r'"\u0061"', '"\\x"', '"open', '"\x01"']
)
_NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(1, 5000).map(lambda digits: "7" * digits),
    st.sampled_from(
        ["0", "-0", "1e400", "-1e400", "1E5", "1e30", "1e-400", "0.1", "01", "+1", "NaN", "-Infinity"]
    ),
    st.sampled_from([2**63, 2**63 - 1, -(2**63), -(2**63) - 1, 2**64, 2**64 - 1]).map(str),
    st.just("1." + "3" * 5000),
)
_SPACES = st.sampled_from(["", "", "", " ", "\t", " \t "])
_SCALARS = st.one_of(
    STRINGS.map(json.dumps),
    STRINGS.map(lambda text: json.dumps(text, ensure_ascii=False)).filter(lambda t: t.isprintable()),
    _ODD_STRINGS,
    _NUMBERS,
    st.sampled_from(["true", "false", "null", "{}", "[]", ""]),
)


def _nested(depth: int, inner: str, kind: str) -> str:
    start, end = ("[", "]") if kind == "list" else ('{"a":', "}")
    return start * depth + inner + end * depth


def _object(members: list[tuple[str, str, str]]) -> str:
    return "{" + ",".join(f"{key}{space}:{space}{value}" for key, space, value in members) + "}"


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    keys = st.one_of(
        STRINGS.map(json.dumps), st.sampled_from(['"a"', '"a"', r'"\u0061"', r'"a\\"', '"role"', "a"])
    )
    return st.one_of(
        st.lists(inner, max_size=4).map(lambda items: "[" + ",".join(items) + "]"),
        st.lists(st.tuples(keys, _SPACES, inner), max_size=4).map(_object),
        st.builds(
            _nested,
            st.sampled_from([1, 50, 99, 100, 101, 240, 252, 253, 254, 255, 1000, 1023, 1024, 1025, 10_000]),
            inner.map(lambda text: text if len(text) < 1000 else "1"),
            st.sampled_from(["list", "object"]),
        ),
    )


JSON_TEXTS = st.recursive(_SCALARS, _grown, max_leaves=8)

# -- JSON values, as a reader gives them ------------------------------------------------------------------

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        STRINGS.filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "role", "name", "content"]), inner, max_size=3)
    ),
    max_leaves=5,
)
