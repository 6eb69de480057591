"""Read the class out of an answer, however a teacher or student wrote it.

The rules, in order:

1. What a reasoning model thought is not part of its answer (`without_thinking`): `<think>`, `<thinking>`,
   `<thought>`, `<reasoning>` (Amazon Bedrock), `[THINK]`, the channels of gpt-oss; where a chat template
   wrote the opening mark, all before the closing one; where the token limit cut the thought off, all after
   the opening one.
2. Text in square brackets wins over the words around it, and more pairs win over fewer: in
   `[1] not [guidance] but [[[earnings]]]` the answer is earnings. A bracket that the token limit cut off
   before its end counts when what is there is a whole class.
3. Neither the first nor the last bracket is preferred: brackets of equal depth that name two classes are
   ambiguous, and an ambiguous answer is no answer. A wrong label costs more than a lost one.
4. Without a bracket that names a class, a class may be named in few words ("The class is Earnings."). A long
   text that happens to hold the word "other" is no answer.

Names are compared without regard to case, spaces, hyphens, quotes and other punctuation; `&` is "and".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

# An answer without brackets may have so many words beside the class.
MAX_WORDS_AROUND = 8
# Texts up to this length are remembered with their normal forms.
_SHORT = 64
# An answer that is longer, without its thoughts, names no class: nobody says one in so many characters.
MAX_ANSWER_CHARACTERS = 100_000
# Longer texts are brought to Unicode's form NFKC in pieces of so many characters: it sorts each run of
# combining marks by insertion, for which 20,000 of them take a second.
_PIECE = re.compile(r"\s+|\S{1,200}")
# Ligatures of whole words (U+FDFA becomes 18 characters) are left out of longer texts.
_LIGATURES = re.compile("[\ufdf0-\ufdfc]+")
# Brackets that NFKC makes square.
_SQUARE = str.maketrans("\ufe47\uff3b\ufe48\uff3d", "[[]]")

_TAGS = "(?:think|thinking|thought|reasoning|seed:think)"
_OPENS = rf"(?:<{_TAGS}>|\[THINK\])"
_CLOSES = rf"(?:</{_TAGS}>|\[/THINK\])"
_THINKING = re.compile(rf"{_OPENS}.*?(?:{_CLOSES}|\Z)", re.DOTALL | re.IGNORECASE)
_CLOSE = re.compile(_CLOSES, re.IGNORECASE)
# gpt-oss's channels (OpenAI's Harmony format), as they are and with their special tokens left out.
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|message\|>)?", re.IGNORECASE)
_TOKEN = re.compile(r"<\|(?:return|end|start|call|channel|message)\|>.*", re.DOTALL)
_BARE_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z])")
_BARE_FINAL = "assistantfinal"
# Quantifiers are possessive and bounded, so that no text makes the search slow.
_BRACKETED = re.compile(r"(\[{1,3}+)([^\[\]]*+)(?:\]|\Z)")
_NOT_WORD = re.compile(r"[\W_]+")


def answer_form(label: str) -> str:
    """Return a class as a prompt asks for it: `[[[analyst rating]]]`."""
    return f"[[[{label.lower()}]]]"


def normalize(name: str) -> str:
    """Return a name or text as lower-case words with single spaces, for comparison."""
    return _normalize_short(name) if len(name) <= _SHORT else _normalize(name)


def _normalize(name: str) -> str:
    text = _compatible(name).casefold().replace("&", " and ")
    return _NOT_WORD.sub(" ", text).strip()


def _compatible(text: str) -> str:
    """Return a text in Unicode's form NFKC, in time that grows as its length does, whatever is in it."""
    if text.isascii():
        return text
    if len(text) <= _SHORT:
        return unicodedata.normalize("NFKC", text)
    pieces = _PIECE.findall(_LIGATURES.sub(" ", text))
    return "".join(unicodedata.normalize("NFKC", piece) for piece in pieces)


# Most answers are one of a few.
_normalize_short = lru_cache(maxsize=4096)(_normalize)


def without_thinking(answer: str) -> str:
    """Return an answer without what its model thought before it; empty where it has only thought.

    Args:
        answer: what the model wrote, in any of the markings that the module's first rule lists.
    """
    if "<|channel|>" in answer:
        finals = list(_FINAL.finditer(answer))
        return _TOKEN.sub("", answer[finals[-1].end() :]).strip() if finals else ""
    if _BARE_ANALYSIS.match(answer):
        return answer.rpartition(_BARE_FINAL)[2].strip() if _BARE_FINAL in answer else ""
    if "<" not in answer and "[" not in answer:
        return answer
    kept = _THINKING.sub(" ", answer)
    if kept == answer and not _CLOSE.search(answer):
        return answer
    return _CLOSE.split(kept)[-1].strip()


def parse_label(answer: str, classes: Sequence[str], aliases: Mapping[str, str]) -> str | None:
    """Return the class that an answer names, spelled as in `classes`.

    Args:
        answer: what the model wrote.
        classes: the classes of the workload.
        aliases: other spellings, each with its class.

    Returns:
        The class, or None when the answer names none, or two different ones.
    """
    names = _names(tuple(classes), tuple(aliases.items()))
    exact = names.labels.get(normalize(answer)) if len(answer) <= names.longest else None
    if exact is not None:
        return exact
    answer = without_thinking(answer)
    if len(answer) > MAX_ANSWER_CHARACTERS:
        return None
    found: dict[int, set[str]] = {}
    deepest = 0
    for match in _BRACKETED.finditer(answer.translate(_SQUARE)):
        depth = len(match[1])
        deepest = max(deepest, depth)
        labels = names.named_in(normalize(match[2]))
        if labels:
            found.setdefault(depth, set()).update(labels)
    if found:
        return _only(found[max(found)])
    if deepest > 1:  # an answer in the asked form, of a class that does not exist
        return None
    words = normalize(answer)
    labels = names.named_in(words)
    label = _only(labels)
    if label is None or len(words.split()) - len(normalize(label).split()) > MAX_WORDS_AROUND:
        return None
    return label


class _Names:
    """The normalized names of classes and aliases, and a pattern that finds them in normalized text."""

    def __init__(self, classes: tuple[str, ...], aliases: tuple[tuple[str, str], ...]) -> None:
        self.labels = {normalize(alias): label for alias, label in aliases}
        self.labels.update((normalize(label), label) for label in classes)
        # Of an answer that is a name and nothing else but signs around it.
        self.longest = max(map(len, self.labels), default=0) + _SHORT
        # The longest name first: "credit ratings outlook" must not be read as "credit ratings".
        longest_first = sorted(self.labels, key=len, reverse=True)
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")

    def named_in(self, words: str) -> set[str]:
        """Return the classes that normalized text names."""
        exact = self.labels.get(words)
        if exact is not None:
            return {exact}
        return {self.labels[name] for name in self._pattern.findall(words)}


@lru_cache(maxsize=16)
def _names(classes: tuple[str, ...], aliases: tuple[tuple[str, str], ...]) -> _Names:
    return _Names(classes, aliases)


def _only(labels: set[str]) -> str | None:
    return next(iter(labels)) if len(labels) == 1 else None
