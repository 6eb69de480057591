"""What a text could be taken for but is not: tokens of a chat's form, and the marks of an answer.

A chat template writes who speaks with special tokens, as text, and the tokenizer makes tokens of that text
wherever it stands: a headline with `<|end|><|assistant|>` ends its own turn and speaks for the model. So
such a text is broken up before any engine sees it: `<|end|>` becomes `< |end|>`, which reads the same and is
plain text to each tokenizer. That is done where a text is put into a prompt, with one function for all:

    records keep what was read; requests to the teacher and the judge, and data sets, hold it broken up
    students are trained, evaluated (here, on vLLM, on NeMo) from data sets; who asks a student later does
    the same with `in_conversation`

The forms are those of the models that are fine-tuned most: Llama, Mistral, Qwen, Gemma, Phi, DeepSeek,
gpt-oss, and the tokens that older tokenizers have in common. What else a student's own tokenizer takes for a
token is broken up where its prompts are made (`flywheel.students.own_tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flywheel.workloads.workload import Workload

Message = dict[str, Any]

_NAMES = (
    r"s|pad|unk|bos|eos|cls|sep|mask|sop|eop|SYS|image|img|video|audio|think|tool_call|tool_calls|tool_response|tools"
    r"|(?:start|end)_of_(?:turn|image|audio)|end_of_text|endoftext|im_(?:start|end)|fim_\w+|extra_id_\d+"
    r"|unused\d+|reserved\w*|special_?\d+|0x[0-9a-f]{2}"
)
_BRACKETED = (
    r"INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|MODEL_SETTINGS|CALL_ID|ARGS|THINK"
    r"|PREFIX|MIDDLE|SUFFIX|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|TRANSCRIBE|CLS|SEP|PAD|MASK|UNK|BOS|EOS|STOP"
    r"|gMASK|sMASK|control_\d+"
)
# `<|name|>`, `<|name>`, `<name|>` with the bar of ASCII or DeepSeek's, the names above, and `<<SYS>>`.
# Two expressions, each of which begins with one character: the engine skips to where it stands.
_ANGLED = re.compile(rf"<(?=[|｜][^\s<>]{{1,64}}>|[^\s<>]{{1,64}}[|｜]>|(?i:/?(?:{_NAMES})/?>))")
# How the names begin is looked at first: a prompt may hold many brackets, and each data set all its prompts.
_SQUARE = re.compile(
    rf"\[(?=[/{''.join(sorted({name[0] for name in _BRACKETED.split('|')}))}])(?=/?(?:{_BRACKETED})\])"
)
# Brackets that an answer stands in: two and more, in any of the forms that are read as square.
_OPENS, _CLOSES = re.compile(r"[\[［﹇]{2,}"), re.compile(r"[\]］﹈]{2,}")
# A line that is shorter may stand in any headline.
_SHORTEST_LINE = 12

SPECIAL_TOKENS = "special tokens"
ANSWER_MARKS = "marks of an answer"
LAST_LINE = "the prompt's last line"


def without_tokens(text: str) -> str:
    """Return a text in which nothing is a special token of a chat: a space breaks it up."""
    if "<" in text:
        text = _ANGLED.sub("< ", text)
    return _SQUARE.sub("[ ", text) if "[" in text else text


def for_teacher(text: str) -> str:
    """Return a text as a prompt of the workload's holds it: without tokens, and without an answer's brackets.

    `[[[dividends]]]` becomes `(dividends)`, so that a text cannot show the teacher what to write.
    """
    if "[" not in text and "<" not in text and text.isascii():
        return text
    return without_tokens(_CLOSES.sub(")", _OPENS.sub("(", text)))


def in_conversation(messages: Sequence[Message]) -> list[Message]:
    """Return the messages of a request with each text broken up: contents, and what calls were made with."""
    return [changed(message, without_tokens) for message in messages]


def in_tools(tools: Iterable[Any]) -> list[Any]:
    """Return the functions that a request offers with each text broken up."""
    return [_each(tool, without_tokens) for tool in tools]


def marks_in(text: str, workload: Workload) -> tuple[str, ...]:
    """Return what a text holds that could speak in a prompt of the workload's."""
    found = []
    if without_tokens(text) != text:
        found.append(SPECIAL_TOKENS)
    if ("[" in text or not text.isascii()) and _OPENS.search(text):
        found.append(ANSWER_MARKS)
    line = workload.after.strip().rpartition("\n")[2].strip()
    if len(line) >= _SHORTEST_LINE and line.casefold() in text.casefold():
        found.append(LAST_LINE)
    return tuple(found)


def changed(message: Message, change: Callable[[str], str]) -> Message:
    """Return a message with each of its texts changed: content, calls and name."""
    texts = {
        name: _each(message[name], change) for name in ("content", "tool_calls", "name") if message.get(name)
    }
    return {**message, **texts} if any(texts[name] != message[name] for name in texts) else message


def _each(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with each text in it changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_each(one, change) for one in value]
    if isinstance(value, dict):
        return {
            change(key) if isinstance(key, str) else key: _each(one, change) for key, one in value.items()
        }
    return value
