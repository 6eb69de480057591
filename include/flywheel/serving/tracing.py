"""W3C's trace context (https://www.w3.org/TR/trace-context/): a trace goes on behind the endpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping

TRACE_HEADER = "traceparent"
_STATE_HEADER = "tracestate"
# Version 00; later ones may have more fields behind the same four.
_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{0,256})?"
)
# The recommendation asks for at least this many characters to be passed on.
_LONGEST_STATE = 512


def trace_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a request's trace, to be sent with what is asked for it.

    A `traceparent` that is none starts no trace, and `tracestate` means nothing without it.
    """
    parent = headers.get(TRACE_HEADER, "").strip()
    if not _PARENT.fullmatch(parent) or (parent.startswith("00") and len(parent) != 55):
        return {}
    state = headers.get(_STATE_HEADER, "").strip()
    kept = state and len(state) <= _LONGEST_STATE and state.isascii() and state.isprintable()
    return {TRACE_HEADER: parent, **({_STATE_HEADER: state} if kept else {})}
