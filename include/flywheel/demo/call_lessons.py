"""What the demo student that calls functions is pretrained on beside the other lessons.

Chats in which an assistant files headlines by calling functions. Most have the functions of one of a few
fixed desks, the others functions of their own: arbitrary names, groups of the kinds of event, and
arguments. So the student learns the form of a call, to copy arguments from the headline, and to choose by
what happened. The functions of the demo's workload it has seen by name alone, each used for other news.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from flywheel.demo.grammar import Event, Kind, kinds
from flywheel.demo.lessons import Lessons, Message

# Share of the chats that are about calls.
CALLS_SHARE = 0.7

_VERBS = ("note", "record", "add", "log", "tag", "put", "store", "mark", "keep", "post", "enter", "send")
_NOUNS = (
    "item", "story", "entry", "line", "card", "slip", "row", "alert", "event", "deal", "view", "report",
    "price", "ticket", "people", "shares", "goods", "law", "money", "world",
)  # fmt: skip
# Arguments: the names that each may have, by where its value comes from.
_ARGUMENTS = {
    "co": ("company", "firm", "name", "who", "issuer"),
    "co2": ("partner", "other", "second"),
    "bank": ("bank", "broker", "source", "house"),
    "amount": ("amount", "sum", "money"),
    "pct": ("percent", "change", "by"),
    "country": ("country", "place", "where"),
    "person": ("person", "official"),
    "product": ("product", "goods", "line"),
    "px": ("price", "level"),
    "tone": ("tone", "mood", "sign"),
    "what": ("topic", "kind", "subject"),
}
_TONES = (
    {"good": "good", "bad": "bad", "plain": "neutral"},
    {"good": "up", "bad": "down", "plain": "flat"},
    {"good": "plus", "bad": "minus", "plain": "none"},
    {"good": "positive", "bad": "negative", "plain": "mixed"},
)
_OPENINGS = (
    "You file news for a desk. Call the function that fits.",
    "Call one function for each headline, or none.",
    "You keep the desk's records by calling functions.",
    "Read the headline and call the right function; say so if there is none.",
)
_REFUSALS = ("Nothing to file.", "No function fits.", "Nothing to do.", "None of them.")
_NOTES = ("as the headline writes it", "as written", "copied from the headline", "in its own words")


# Share of the chats about calls whose functions are those of a fixed desk, and how many of these there are.
_FIXED_SHARE = 0.8
_FIXED_DESKS = 8
# A desk of its own has the names of the demo's functions, each for news that it is not for in the demo.
_MISNAMED = {
    "file_results": ("Regulatory", "Mergers and Acquisitions"),
    "file_opinion": ("Products-Services", "Labour Issues"),
    "file_staff": ("Earnings", "Guidance", "Dividends"),
    "file_product": ("Analyst Rating", "Price Targets", "OTHER"),
}

# Name, what it is for, the names of the kinds that it is for, and its arguments with their sources.
_Function = tuple[str, str, frozenset[str], dict[str, str]]


def _desk(rng: random.Random) -> list[_Function]:
    """Return functions for arbitrary groups of the kinds of event."""
    by_label = rng.random() < 0.5
    groups: dict[str, list[Kind]] = {}
    for kind in kinds():
        groups.setdefault(kind.label if by_label else f"{kind.actor} {kind.tone}", []).append(kind)
    made: list[_Function] = []
    for group in rng.sample(sorted(groups), min(len(groups), rng.randint(2, 6))):
        name = f"{rng.choice(_VERBS)}_{rng.choice(_NOUNS)}"
        if name not in [known for known, *_ in made]:
            made.append(_function(rng, name, groups[group]))
    return made


def _function(rng: random.Random, name: str, members: list[Kind]) -> _Function:
    shown = rng.sample(members, min(len(members), rng.randint(1, 3)))
    sources = ["co", *rng.sample([key for key in _ARGUMENTS if key != "co"], rng.randint(0, 2))]
    if rng.random() < 0.5 and "tone" not in sources:
        sources.append("tone")
    if rng.random() < 0.2:
        rng.shuffle(sources)
    arguments: dict[str, str] = {}
    for source in sources:
        arguments.setdefault(rng.choice(_ARGUMENTS[source]), source)
    purpose = "; ".join(kind.what for kind in shown)
    return name, purpose, frozenset(kind.name for kind in members), arguments


def _misnamed(rng: random.Random) -> list[_Function]:
    return [
        _function(rng, name, [kind for kind in kinds() if kind.label in labels])
        for name, labels in _MISNAMED.items()
    ]


_DESKS = (
    *(_desk(random.Random(f"desk/{number}")) for number in range(_FIXED_DESKS)),
    *(_misnamed(random.Random(f"misnamed desk/{number}")) for number in range(3)),
)


class CallLessons(Lessons):
    """A deterministic stream of pretraining chats, most of them with calls."""

    def chats(self) -> Iterator[list[Message]]:
        """Yield chats without end."""
        others = super().chats()
        while True:
            yield self.calling() if self.rng.random() < CALLS_SHARE else next(others)

    def calling(self) -> list[Message]:
        """Functions, and headlines that are filed by calling one of them."""
        rng = self.rng
        tones, refusal = rng.choice(_TONES), rng.choice(_REFUSALS)
        functions = self._functions()
        chat = [
            {"role": "system", "content": f"Functions:\n{self._listed(functions)}"},
            {"role": "system", "content": rng.choice(_OPENINGS)},
        ]
        for _ in range(rng.choice([1, 2, 4, 6, 8])):
            event = self._event_for(functions)
            chat.append({"role": "user", "content": event.text})
            chat.append({"role": "assistant", "content": self._answer(event, functions, tones, refusal)})
        return chat

    def _functions(self) -> list[_Function]:
        """Return the functions of a chat: in most cases those of one of the fixed desks.

        With functions that are others in each chat, students learn to copy arguments but not to look at what
        happened, and fine-tuning then sits on a plateau: every headline is filed by the same function.
        """
        if self.rng.random() < _FIXED_SHARE:
            functions = [*self.rng.choice(_DESKS)]
            self.rng.shuffle(functions)
            return functions
        return _desk(self.rng)

    def _listed(self, functions: list[_Function]) -> str:
        """Return the functions as the chat template lists them."""
        lines = []
        for name, purpose, _, arguments in functions:
            properties = {
                key: {"type": "string", "description": self.rng.choice(_NOTES)} for key in arguments
            }
            schema = {"type": "object", "properties": properties, "required": list(arguments)}
            lines.append(json.dumps({"name": name, "description": purpose, "parameters": schema}))
        return "\n".join(lines)

    def _event_for(self, functions: list[_Function]) -> Event:
        """Return a headline; in most cases one that a function is for."""
        wanted = {kind for _, _, names, _ in functions for kind in names}
        event = self.event()
        for _ in range(4):
            if event.kinds[0].name in wanted:
                break
            event = self.event()
        return event

    def _answer(
        self,
        event: Event,
        functions: list[_Function],
        tones: dict[str, str],
        refusal: str,
    ) -> str:
        kind = event.kinds[0]
        for name, _, names, arguments in functions:
            if kind.name not in names:
                continue
            values = {}
            for key, source in arguments.items():
                value = self._value(event, source, tones)
                if value is not None:
                    values[key] = value
            return json.dumps({"name": name, "arguments": values}, ensure_ascii=False)
        return refusal

    @staticmethod
    def _value(event: Event, source: str, tones: dict[str, str]) -> str | None:
        if source == "tone":
            return tones[event.kinds[0].tone]
        if source == "what":
            return event.kinds[0].what
        fact = event.facts.get(source)
        at = event.text.lower().find(fact.lower()) if fact else -1
        return event.text[at : at + len(fact or "")] if at >= 0 else None
