"""How figures are written in tables and sentences: one form for each kind, everywhere."""

from __future__ import annotations


def asked(title: str) -> str:
    """Return a metric's title inside a sentence, with its article: `a weighted F1`, `an accuracy`."""
    words = in_sentence(title)
    if words.endswith("s") or words.startswith("calls") or "'" in words:
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def in_sentence(title: str) -> str:
    """Return a metric's title inside a sentence: `weighted F1`."""
    return title[:1].lower() + title[1:]


def f1(value: float | None) -> str:
    """Return an F1 value: `0.931`; three digits, so that a distance of 0.01 is never a matter of rounding."""
    return "–" if value is None else f"{value:.3f}"


def interval(bounds: tuple[float, float] | None) -> str:
    """Return a confidence interval: `0.912 to 0.948`."""
    return "–" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def count(value: float | None) -> str:
    """Return a count with its thousands: `25,000`."""
    return "–" if value is None else f"{value:,.0f}"


def parameters(value: int | None) -> str:
    """Return a number of parameters with its unit: `1.24 B`, `310 k`."""
    if value is None:
        return "–"
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return str(value)


def duration(seconds: float | None) -> str:
    """Return a time: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return "–"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def rate(per_second: float | None) -> str:
    """Return a rate in records a second: `5,120`, `12.4`."""
    if per_second is None:
        return "–"
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def milliseconds(value: float | None) -> str:
    """Return a latency in milliseconds: `12`, `0.8`."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def money(value: float | None) -> str:
    """Return a sum without its currency: `1,240`, `3.2`."""
    return rate(value)


def times(ratio: float) -> str:
    """Return how many times: `2.6 times`, `12 times`."""
    return f"{ratio:.2g} times" if ratio < 9.95 else f"{ratio:,.0f} times"


def chance(value: float | None) -> str:
    """Return a probability in percent: `1.6 %`, `0.05 %`."""
    return "–" if value is None else f"{100 * value:.2g} %"
