"""Two further workloads over our own headlines, as an application would have logged them.

`calls`: a desk's assistant files each headline by calling a function, with what it takes from the headline
as arguments; news about no company it does not file. `briefs`: it writes one sentence about each headline
in words of its own. The teacher's answers follow from the event behind the headline, whose kind, tone and
facts the grammar knows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal

import orjson

from flywheel.config import resolve_path
from flywheel.demo.grammar import Event
from flywheel.demo.headlines import DEFAULT_END, DEFAULT_SEED, DEFAULT_START, generate_events

Task = Literal["calls", "briefs"]

CALLS_WORKLOAD, BRIEFS_WORKLOAD = "desk_calls", "desk_briefs"
TEACHER = "demo-teacher"

# Where the demo's configurations look for records, and how many `make run` writes there.
DEMO_FILES: dict[str, Task] = {"state/demo/calls.jsonl": "calls", "state/demo/briefs.jsonl": "briefs"}
DEMO_RECORDS = 1500

_CALLS_SYSTEM = "You file news for a desk. Call the function that fits the headline; call none if none does."
_BRIEFS_SYSTEM = "You write for a news desk. Say in one short sentence what the headline means for whom."
_NOTHING = "Nothing to file."

_TONES = {"good": "good", "bad": "bad", "plain": "neutral"}
_COMPANY = ("company", "as the headline writes it")
_TONE = ("tone", "good, bad or neutral")
_BANK = ("bank", "whose opinion it is")

# Functions: what they are for, and their arguments, each with where it comes from and what it is.
_FUNCTIONS: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "file_results": ("A company's results or forecast.", {"co": _COMPANY, "tone": _TONE}),
    "file_opinion": ("What a bank thinks of a company.", {"co": _COMPANY, "bank": _BANK}),
    "file_staff": ("News about a company's people.", {"co": _COMPANY, "tone": _TONE}),
    "file_product": ("News about a company's products.", {"co": _COMPANY, "tone": _TONE}),
}
_FILED_BY_CLASS = {
    "Earnings": "file_results",
    "Guidance": "file_results",
    "Analyst Rating": "file_opinion",
    "Labour Issues": "file_staff",
    "Products-Services": "file_product",
}
# Of the headlines that no function files, one in so many stays: else most answers would be the same.
_UNFILED_ONE_IN = 8


def records(
    task: Task,
    count: int,
    seed: int = DEFAULT_SEED,
    start: date = DEFAULT_START,
    end: date = DEFAULT_END,
    client_id: str = "demo",
) -> Iterator[dict[str, Any]]:
    """Yield `count` log records of a task, dated in [start, end), in no order of time."""
    unfiled = 0
    events = generate_events(1 << 40, seed, start, end)
    while count > 0:
        event, when = next(events)
        made = _call_record(event) if task == "calls" else _brief_record(event)
        if task == "calls" and "tool_calls" not in made["response"]["choices"][0]["message"]:
            unfiled += 1
            if unfiled % _UNFILED_ONE_IN:
                continue
        count -= 1
        yield {
            **made,
            "workload_id": CALLS_WORKLOAD if task == "calls" else BRIEFS_WORKLOAD,
            "client_id": client_id,
            "timestamp": int(when.timestamp()),
        }


def write_jsonl(path: Path | str, task: Task, count: int, seed: int = DEFAULT_SEED) -> int:
    """Write log records of a task to `path`, a JSON object a line; return their number."""
    with Path(path).open("wb") as file:
        for record in records(task, count, seed):
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    return count


def write_missing(paths: Iterable[str]) -> None:
    """Write those of the demo's files that are asked for and not there."""
    for name in paths:
        path = Path(resolve_path(name))
        if name in DEMO_FILES and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".aside")
            write_jsonl(aside, DEMO_FILES[name], DEMO_RECORDS, seed=42)
            os.replace(aside, path)


def tools() -> list[dict[str, Any]]:
    """Return the functions that the desk's assistant may call, in OpenAI's form."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": purpose,
                "parameters": {
                    "type": "object",
                    "properties": {
                        key: {"type": "string", "description": what} for key, what in takes.values()
                    },
                    "required": [key for key, _ in takes.values()],
                },
            },
        }
        for name, (purpose, takes) in _FUNCTIONS.items()
    ]


def _call_record(event: Event) -> dict[str, Any]:
    call = _call(event)
    message: dict[str, Any] = {"role": "assistant", "content": _NOTHING}
    if call is not None:
        name, arguments = call
        function = {"name": name, "arguments": orjson.dumps(arguments).decode()}
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }
    request = {**_request(_CALLS_SYSTEM, event.text), "tools": tools()}
    return {"request": request, "response": {"choices": [{"message": message}]}}


def _call(event: Event) -> tuple[str, dict[str, str]] | None:
    """Return function and arguments that file an event; None where none does."""
    kind = event.kinds[0]
    name = _FILED_BY_CLASS.get(kind.label)
    if name is None:
        return None
    arguments = {}
    for source, (key, _) in _FUNCTIONS[name][1].items():
        value = _TONES[kind.tone] if source == "tone" else _as_written(event, source)
        if value is None:
            return None
        arguments[key] = value
    return name, arguments


def _brief_record(event: Event) -> dict[str, Any]:
    kind = event.kinds[0]
    subject = _as_written(event, "co") or _as_written(event, "country") or "No company"
    answer = f"{subject}: {kind.what}, {_TONES[kind.tone]} news."
    message = {"role": "assistant", "content": answer}
    return {
        "request": _request(_BRIEFS_SYSTEM, event.text),
        "response": {"choices": [{"message": message}]},
    }


def _request(system: str, text: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return {"model": TEACHER, "messages": messages}


def _as_written(event: Event, fact: str) -> str | None:
    """Return a fact as the headline writes it; None where it does not stand there."""
    value = event.facts.get(fact)
    at = event.text.lower().find(value.lower()) if value else -1
    return event.text[at : at + len(value or "")] if at >= 0 else None
