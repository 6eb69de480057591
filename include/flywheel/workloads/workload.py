"""A workload: the prompt that the teacher answers and the students learn, its classes and their aliases.

It is read from one YAML file that users edit (include/workloads/news_classifier.yaml). One whose records an
application logs needs no prompt and, unless it is a classification, no classes: `workload_id` is then
enough. All prompts of a workload begin with the same instructions and examples and end with the text and a
short tail, which is what makes the shared-prefix training of flywheel.students possible.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from flywheel.common.errors import WorkloadError
from flywheel.common.shared_text import between
from flywheel.config.loading import find_path
from flywheel.config.yaml_text import Location, missing, no_such_key, place, read_with_lines, shorten
from flywheel.workloads.labels import answer_form, normalize, parse_label

PLACEHOLDER = "{text}"
MAX_PROMPT_CHARACTERS = 200_000
_REQUIRED = {"workload_id", "template", "classes"}
_KEYS = sorted({*_REQUIRED, "system", "aliases", "examples", "labels_hold_from"})
VERSION_DIGITS = 12  # of a version's hash, as people are shown it
# With these a workload is one that applications log, and that the teacher is not asked for.
_LOGGED_KEYS = frozenset({"workload_id"})
# Characters of a line beside the text, as in `Headline: `.
_MOST_OF_A_LINE = 40
_PLACEHOLDERS = re.compile(r"\{(classes|examples)\}")


@dataclass(frozen=True)
class Workload:
    """A prompt around a text, and the classes of its answers.

    Attributes:
        id: the workload_id of its records.
        classes: the classes, spelled as they are counted and reported.
        aliases: other spellings, each with its class.
        system: the system message; empty for none.
        before: the user message up to the text.
        after: the user message from the text on.
        has_prompt: False of a workload that applications log: there are no classes and no prompt then.
        labels_hold_from: other versions (beginnings of their `sha256`) whose labels hold in this one too.
    """

    id: str
    classes: tuple[str, ...]
    aliases: dict[str, str]
    system: str
    before: str
    after: str
    has_prompt: bool = True
    labels_hold_from: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Workload:
        """Read a workload file; a relative path starts at the project's folder.

        Raises:
            WorkloadError: the message names file, line and key, what was expected, and the nearest valid key.
        """
        return _Reader(Path(find_path(os.fspath(path)))).workload()

    @cached_property
    def sha256(self) -> str:
        """The version: the hash of all that decides prompts and labels, in hex."""
        content = [self.id, self.classes, sorted(self.aliases.items()), self.system, self.before, self.after]
        return hashlib.sha256(orjson.dumps(content)).hexdigest()

    @property
    def version(self) -> str:
        """The version as people are shown it, and as they name it."""
        return self.sha256[:VERSION_DIGITS]

    def messages(self, text: str) -> list[dict[str, Any]]:
        """Return the chat messages that ask for the class of a text, which goes in as it is."""
        user = {"role": "user", "content": f"{self.before}{text}{self.after}"}
        return [{"role": "system", "content": self.system}, user] if self.system else [user]

    def text_of(self, messages: list[dict[str, Any]]) -> str | None:
        """Return the text that `messages` made these messages from; None if they are not of this prompt."""
        if not self.has_prompt:
            return None
        expected = 2 if self.system else 1
        if len(messages) < expected or (self.system and messages[0].get("content") != self.system):
            return None
        user = messages[expected - 1]
        content = user.get("content")
        if user.get("role") != "user" or not isinstance(content, str):
            return None
        return between(content, self.before, self.after)

    def answer_for(self, label: str) -> str:
        """Return the answer in the asked form: `[[[analyst rating]]]`."""
        return answer_form(label)

    def label_of(self, answer: str) -> str | None:
        """Return the class that an answer or a human label names; None if none or several."""
        return parse_label(answer, self.classes, self.aliases)


def own_line(before: str, after: str) -> tuple[str, str]:
    """Return what stands before and after the text of a prompt in its own line, as `Headline: ` and nothing.

    Examples show their texts as the prompt does. A line that is longer than a label is instructions: of it,
    nothing.

    Args:
        before: what stands before the text in the prompt, with all the lines above.
        after: what stands after it, with all the lines below.
    """
    head, tail = before.rpartition("\n")[2], after.partition("\n")[0]
    return (head, tail) if len(head) + len(tail) <= _MOST_OF_A_LINE else ("", "")


def place_of(path: str | os.PathLike[str], *at: str | int) -> str:
    """Return file, line and key of a place in a workload file, for messages."""
    return _Reader(Path(find_path(os.fspath(path)))).where(at)


class _Reader:
    """Reads one workload file and knows the line of each of its values."""

    def __init__(self, path: Path) -> None:
        self.data, self.lines = read_with_lines(path, WorkloadError, "check the key `workload` of the config")

    def workload(self) -> Workload:
        """Return the validated workload."""
        is_logged = isinstance(self.data, dict) and _LOGGED_KEYS.issuperset(self.data)
        self._check_keys((), self.data, _KEYS, {"workload_id"} if is_logged else _REQUIRED)
        workload_id = self._text(("workload_id",))
        if not re.fullmatch(r"[\w.-]{1,128}", workload_id):
            self._fail(("workload_id",), "1 to 128 letters, digits, '.', '_' or '-'", workload_id)
        if is_logged:
            return Workload(workload_id, (), {}, "", "", "", has_prompt=False)
        classes = self._classes()
        aliases = self._aliases(tuple(classes))
        examples = list(self._examples(tuple(classes), aliases))
        template = self._text(("template",))
        if template.count(PLACEHOLDER) != 1:
            wrong = f"{template.count(PLACEHOLDER)} times"
            self._fail(("template",), f"{PLACEHOLDER} exactly once, where the text goes", wrong)
        if examples and "{examples}" not in template:
            self._fail(("template",), "{examples}, where the examples go, or no key `examples`", "none")
        head, tail = own_line(*_PLACEHOLDERS.sub("\n", template).split(PLACEHOLDER))
        filled = {
            "classes": "\n".join(f"- {name.lower()}: {when}" for name, when in classes.items()),
            "examples": "\n\n".join(
                f"{head}{text}{tail}\nClass: {answer_form(label)}" for text, label in examples
            ),
        }
        # Split at the text before filling in: an example may itself contain {text}.
        before, after = (
            _PLACEHOLDERS.sub(lambda match: filled[match[1]], part) for part in template.split(PLACEHOLDER)
        )
        if len(before) + len(after) > MAX_PROMPT_CHARACTERS:
            self._fail(("template",), f"a prompt of at most {MAX_PROMPT_CHARACTERS} characters", len(before))
        system = self._text(("system",)) if self.data.get("system") else ""
        return Workload(
            workload_id,
            tuple(classes),
            aliases,
            system,
            before,
            after,
            labels_hold_from=tuple(self._versions()),
        )

    def _versions(self) -> Iterator[str]:
        entries = self.data.get("labels_hold_from") or []
        expected = "a version as `flywheel workload` shows it, in quotes: at least 8 hex digits"
        if not isinstance(entries, list):
            self._fail(("labels_hold_from",), f"a list, each {expected}", entries)
        for index, entry in enumerate(entries):
            if not isinstance(entry, str) or not re.fullmatch(r"[0-9a-f]{8,64}", entry):
                self._fail(("labels_hold_from", index), expected, entry)
            yield entry

    def _classes(self) -> dict[str, str]:
        entries = self.data["classes"]
        if not isinstance(entries, list) or len(entries) < 2:
            self._fail(("classes",), "a list of at least two classes, each with name and when", entries)
        classes: dict[str, str] = {}
        seen: dict[str, str] = {}
        for index, entry in enumerate(entries):
            at = ("classes", index)
            self._check_keys(at, entry, ["name", "when"], {"name", "when"})
            name, when = self._text((*at, "name")), self._text((*at, "when"))
            same = normalize(name)
            if not same or "[" in name or "]" in name:
                self._fail((*at, "name"), "a name with letters and without square brackets", name)
            if same in seen:
                self._fail((*at, "name"), f"a name that differs from {seen[same]!r} in more than form", name)
            seen[same] = name
            classes[name] = when
        return classes

    def _aliases(self, classes: tuple[str, ...]) -> dict[str, str]:
        entries = self.data.get("aliases") or {}
        if not isinstance(entries, dict):
            self._fail(("aliases",), "a mapping of other spellings to classes", entries)
        by_form = {normalize(name): name for name in classes}
        aliases: dict[str, str] = {}
        for alias in entries:
            at = ("aliases", alias)
            name = entries[alias]
            if not isinstance(alias, str) or not normalize(alias):
                self._fail(at, "a text as the other spelling", alias)
            label = self._class(at, name, classes)
            if by_form.setdefault(normalize(alias), label) != label:
                self._fail(at, f"a spelling that is not already one of {by_form[normalize(alias)]!r}", alias)
            aliases[alias] = label
        return aliases

    def _examples(self, classes: tuple[str, ...], aliases: dict[str, str]) -> Iterator[tuple[str, str]]:
        entries = self.data.get("examples") or []
        if not isinstance(entries, list):
            self._fail(("examples",), "a list of examples, each with text and class", entries)
        for index, entry in enumerate(entries):
            at = ("examples", index)
            self._check_keys(at, entry, ["class", "text"], {"class", "text"})
            yield self._text((*at, "text")), self._class((*at, "class"), entry["class"], classes)

    def _class(self, at: Location, name: Any, classes: tuple[str, ...]) -> str:
        if name in classes:
            return str(name)
        near = difflib.get_close_matches(str(name), classes, n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        self._fail(at, f"one of the classes{hint}: {', '.join(classes)}", name)
        raise AssertionError  # not reached

    def _check_keys(self, at: Location, entry: Any, keys: list[str], required: set[str]) -> None:
        if not isinstance(entry, dict):
            self._fail(at, f"a mapping with the keys {', '.join(keys)}", entry)
        for key in entry:
            if key not in keys:
                raise WorkloadError(no_such_key(self.where((*at, key)), key, keys))
        for key in sorted(required - set(entry)):
            raise WorkloadError(missing(self.where((*at, key))))

    def _text(self, at: Location) -> str:
        value = self.data
        for part in at:
            value = value[part]
        if not isinstance(value, str) or not value.strip():
            self._fail(at, "a text that is not empty (in quotes if it looks like something else)", value)
        return str(value)

    def _fail(self, at: Location, expected: str, got: object) -> None:
        raise WorkloadError(f"{self.where(at)}: expected {expected}; got {shorten(got)}")

    def where(self, at: Location) -> str:
        """Return file, line and dotted key of a location; the line of its nearest part that exists."""
        return place(self.lines, at)
