"""Conversations as a student's chat template writes them, each one on its own where it must be.

A template may refuse a conversation (two turns of one speaker, a call without the id it wants), and it may
pass over a part of it without a word (a role or calls that it does not know). Neither must cost more than
that conversation, and nothing may vanish: what went in is looked for in what came out.

What a log says in another way than a template wants is said in the template's: an instruction of the role
`developer` is one of `system` where the template does not know that role, and where calls are refused they
are tried with ids of nine letters, as Mistral's templates demand, and with their arguments as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from flywheel.common.errors import StudentError
from flywheel.students.own_tokens import OwnTokens
from flywheel.workloads.tool_calls import with_arguments

Message = dict[str, Any]
Messages = Sequence[Message]
# The functions that a request offers, as in OpenAI's chat API; None for none.
Tools = Sequence[dict[str, Any]] | None

# Templates write today's date into the prompt. A fixed one (the default of Llama 3's) keeps a training that
# runs over midnight, and its answers the next day, on one prompt.
TEMPLATE_DAY = datetime(2024, 7, 26)
# Hides the function of that name that transformers gives to templates: what a caller gives is made plain
# data, so it can be no function. Of Python's directives and GNU's without zeros.
_DIRECTIVES = [*"aAbBcdDeFGHIjmMpSTuUVwWxXyYzZf", "-d", "-m", "-H", "-I", "-M", "-S", "-j"]
_FIXED_DAY = (
    "{%- macro strftime_now(format) -%}{{- format"
    + "".join(f" | replace('%{one}', '{TEMPLATE_DAY.strftime('%' + one)}')" for one in _DIRECTIVES)
    + " -}}{%- endmacro %}{{- '' }}"
)
# Stands where a part of a conversation is taken out, to see whether the template writes it.
_MARK = "qzvxj"
# Of what a template says that it refuses, in characters.
_LONGEST = 200
_Change = Callable[[Messages], Messages]


@dataclass(frozen=True, slots=True)
class Written:
    """A conversation as the template writes it.

    Attributes:
        messages: as the template takes them.
        text: None where the template refuses it.
        refusal: why.
    """

    messages: Messages
    text: str | None
    refusal: str = ""


class Template:
    """The chat template of a tokenizer.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._own_tokens = OwnTokens(tokenizer)
        self._knows_developer = "developer" in str(tokenizer.chat_template)
        self._asks_for_the_day = "strftime_now" in str(tokenizer.chat_template)

    def write(self, chats: Sequence[Messages], tools: Sequence[Tools] | None = None) -> list[Written]:
        """Return whole conversations as the template writes them, or why it does not."""
        chats = [self._own_tokens.in_conversation(chat, answered=True) for chat in chats]
        return self._fit(chats, tools, add_generation_prompt=False)

    def ask(self, chats: Sequence[Messages], tools: Sequence[Tools] | None = None) -> list[Written]:
        """Return requests as the template writes them, each with the generation prompt, or why not."""
        chats = [self._own_tokens.in_conversation(chat) for chat in chats]
        return self._fit(chats, tools, add_generation_prompt=True)

    def passes_over_tools(self, offered: Tools) -> bool:
        """Return whether the template writes the same with these functions as without any."""
        chat = [{"role": "user", "content": _MARK}]
        try:
            return self._render([chat], offered, False) == self._render([chat], None, False)
        except StudentError:
            return False

    def _fit(
        self, chats: Sequence[Messages], tools: Sequence[Tools] | None, *, add_generation_prompt: bool
    ) -> list[Written]:
        chats = [self._as_known(chat) for chat in chats]
        found: list[Written] = [Written(chat, None) for chat in chats]
        checked: set[tuple[Any, ...]] = set()
        for offered, places in _by_tools(len(chats), tools):
            try:
                texts: list[str | None] = [
                    *self._render([chats[at] for at in places], offered, add_generation_prompt)
                ]
            except StudentError:  # of one of them, perhaps
                texts = [None] * len(places)
            for at, text in zip(places, texts, strict=True):
                found[at] = self._one(chats[at], offered, add_generation_prompt, text, checked)
        return found

    def _one(
        self,
        chat: Messages,
        offered: Tools,
        add_generation_prompt: bool,
        text: str | None,
        checked: set[tuple[Any, ...]],
    ) -> Written:
        """Return a conversation in the first form that the template writes whole.

        Args:
            text: what it writes of the first form, where that is known.
        """
        refusal = ""
        for change in _CHANGES if _has_calls(chat) else _CHANGES[:1]:
            messages = change(chat)
            try:
                if text is None:
                    (text,) = self._render([messages], offered, add_generation_prompt)
                missing = self._missing(messages, offered, add_generation_prompt, text, checked)
            except StudentError as error:
                missing = str(error.__cause__)[:_LONGEST]
            else:
                if not missing:
                    return Written(messages, text)
            refusal, text = refusal or missing, None
        return Written(chat, None, refusal)

    def _missing(
        self,
        chat: Messages,
        offered: Tools,
        add_generation_prompt: bool,
        text: str,
        checked: set[tuple[Any, ...]],
    ) -> str:
        """Say what the template passed over; nothing where all that went in came out.

        Of the first message of each kind it is seen by writing the conversation again with another one in its
        place; of the others where they do not stand in the text as they are.

        Args:
            checked: the kinds that have been looked at, by now.
        """
        for at, message in enumerate(chat):
            content, calls = str(message.get("content") or "").strip(), message.get("tool_calls") or []
            kind = (
                message["role"],
                chat[at - 1]["role"] if at else "",
                at == len(chat) - 1,
                bool(content),
                bool(calls),
            )
            names = [str(call["function"]["name"]) for call in calls]
            if kind in checked and content in text and all(name in text for name in names):
                continue
            others: list[tuple[Message, str]] = []
            if content:
                others.append(({**message, "content": _MARK}, f"a message of role {message['role']}"))
            for place, call in enumerate(calls):
                other = {**call, "function": {**call["function"], "name": _MARK}}
                changed = [*calls[:place], other, *calls[place + 1 :]]
                others.append(({**message, "tool_calls": changed}, "a call"))
            for other_message, what in others:
                marked = [*chat[:at], other_message, *chat[at + 1 :]]
                try:
                    (again,) = self._render([marked], offered, add_generation_prompt)
                except StudentError:  # it looks at what we changed
                    continue
                if again == text:
                    return f"it passes over {what}"
            checked.add(kind)
        return ""

    def _as_known(self, chat: Messages) -> Messages:
        if self._knows_developer or all(message["role"] != "developer" for message in chat):
            return chat
        return [
            {**message, "role": "system"} if message["role"] == "developer" else message for message in chat
        ]

    def _render(self, chats: Sequence[Messages], tools: Tools, add_generation_prompt: bool) -> list[str]:
        options: dict[str, Any] = {"tools": list(tools)} if tools else {}
        if self._asks_for_the_day:
            options["chat_template"] = _FIXED_DAY + self._tokenizer.get_chat_template(tools=tools or None)
        try:
            texts: list[str] = self._tokenizer.apply_chat_template(
                [list(chat) for chat in chats],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                date_string=TEMPLATE_DAY.strftime("%d %b %Y"),
                **options,
            )
        except Exception as error:  # whatever a template raises
            raise StudentError(
                f"{self._tokenizer.name_or_path}: the chat template cannot render the records: {error}"
            ) from error
        return texts


def _by_tools(count: int, tools: Sequence[Tools] | None) -> Iterator[tuple[Tools, list[int]]]:
    """Yield the places of the chats that offer the same; a call of the template takes one list of tools."""
    if tools is None or not any(tools):
        yield None, list(range(count))
        return
    groups: dict[bytes, list[int]] = {}
    for index, offered in enumerate(tools):
        groups.setdefault(orjson.dumps(offered), []).append(index)
    for places in groups.values():
        yield tools[places[0]], places


def _has_calls(chat: Messages) -> bool:
    return any(message.get("tool_calls") or message["role"] == "tool" for message in chat)


def with_short_ids(chat: Messages) -> list[Message]:
    """Return a conversation whose calls have ids of nine letters, numbered in their order.

    An answer of a function has the id of its call, or without one that of the first call without an answer.
    """
    ids: dict[str, str] = {}
    waiting: list[str] = []
    changed: list[Message] = []
    made = 0
    for message in chat:
        if message.get("tool_calls"):
            calls = []
            for call in message["tool_calls"]:
                made += 1
                short = f"call{made:05}"
                if call.get("id"):
                    ids[str(call["id"])] = short
                waiting.append(short)
                calls.append({"type": "function", **call, "id": short})
            message = {**message, "tool_calls": calls}
        elif message["role"] == "tool":
            short = ids.get(str(message.get("tool_call_id")), waiting[0] if waiting else "call00000")
            if short in waiting:
                waiting.remove(short)
            message = {**message, "tool_call_id": short}
        changed.append(message)
    return changed


def _as_text(chat: Messages) -> list[Message]:
    return with_arguments(chat, as_text=True)


_CHANGES: tuple[_Change, ...] = (
    lambda chat: chat,
    with_short_ids,
    _as_text,
    lambda chat: _as_text(with_short_ids(chat)),
)
