"""Chat messages as token ids, through the student's own chat template.

A training example is what the student will meet and should write: the prompt's ids exactly as at inference,
then the ids of the answer up to the end of the turn.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flywheel.common.errors import StudentError
from flywheel.common.shared_text import common_text
from flywheel.students.rows import Sample, Tokens
from flywheel.students.template import Messages, Template, Tools

log = logging.getLogger(__name__)

# A shared beginning is tokenised once if it is at least so long; it is cut so far before its end. Both in
# characters.
_SHORTEST_HEAD = 400
_HEAD_MARGIN = 80
# Longer than any context.
_ENDLESS = 1 << 62
# Refused records that are named.
MOST_NAMED = 5
# So many records are tokenised whole to check that tokenising their parts gives the same.
_CHECKED = 8


@dataclass
class Dropped:
    """Conversations that cannot be used, counted by reason.

    Attributes:
        reasons: why, in words.
        places: of those that the template refuses, in the order given, by place.
        notes: what the template passes over of those that are used.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    places: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many there are."""
        return self.reasons.total()

    def refuse(self, place: int, why: str) -> None:
        """Count one that the template refuses."""
        self.places[place] = why
        self.reasons[f"refused by the chat template: {why}"] += 1

    def first(self, count: int) -> Dropped:
        """Return what the template refuses of the first so many conversations."""
        found = Dropped(notes=list(self.notes))
        for place, why in self.places.items():
            if place < count:
                found.refuse(place, why)
        return found

    def said(self, ids: Sequence[str], what: str) -> tuple[str, ...]:
        """Return in sentences what became of records, the refused ones by name.

        Args:
            ids: of all records, in the order given.
            what: becomes of those that are counted here: `41 training records are left out`.
        """
        sentences = list(self.notes)
        if self.count:
            named = [ids[place] for place in self.places][:MOST_NAMED]
            more = ", ..." if len(self.places) > len(named) else ""
            names = (
                f" (record{'s' if len(self.places) > 1 else ''} {', '.join(named)}{more})" if named else ""
            )
            sentences.append(f"{self.count:,} of {len(ids):,} {what}: {self}{names}")
        return tuple(sentences)

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())


class Chat:
    """A student's tokenizer and chat template.

    Args:
        tokenizer: a Hugging Face tokenizer.
        stops: ids of tokens that end a turn.

    Raises:
        StudentError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, stops: frozenset[int]) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise StudentError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template; use the instruct variant of "
                "the model, or put a chat_template.jinja beside tokenizer_config.json"
            )
        if not stops:
            raise StudentError(
                f"{tokenizer.name_or_path}: no end-of-turn token: set eos_token_id in config.json"
            )
        self.tokenizer = tokenizer
        self.stops = stops
        self.template = Template(tokenizer)
        self._fast = _fast_of(tokenizer)
        self._kept: tuple[str, Tokens] = ("", np.empty(0, np.int32))

    def keep_beginning(self, requests: Sequence[Messages]) -> int:
        """Tokenise once, for all prompts to come, what those of some requests begin with.

        It is kept where it is long, can be cut (see `_encode`) and gives these requests' own ids.

        Args:
            requests: at least four, of texts as different as those to come.

        Returns:
            The characters kept; 0: none.
        """
        texts = [written.text for written in self.template.ask(requests) if written.text is not None]
        cut = _safe_cut(texts)
        if cut:
            begin, wholes = texts[0][:cut], self._encode_whole(texts)
            before, self._kept = self._kept, (begin, self._encode_whole([begin])[0])
            found = self._encode_after_kept(texts)
            if not all(np.array_equal(one, whole) for one, whole in zip(found, wholes, strict=True)):
                self._kept, cut = before, 0
        return cut

    def prompts(
        self, requests: Sequence[Messages], tools: Sequence[Tools] | None = None
    ) -> tuple[list[Tokens | None], Dropped]:
        """Return the prompts of requests, each with the generation prompt, as token ids [p].

        Args:
            tools: what each request offers; None: none of them offers any.

        Returns:
            The prompts, None for a request that the template refuses, and what was refused.

        Raises:
            StudentError: the template refuses all of them.
        """
        dropped = Dropped(notes=self._notes(tools))
        texts: dict[int, str] = {}
        for place, written in enumerate(self.template.ask(requests, tools)):
            if written.text is None:
                dropped.refuse(place, written.refusal)
            else:
                texts[place] = written.text
        self._check_some(len(texts), dropped)
        found = dict(zip(texts, self._encode(list(texts.values())), strict=True))
        return [found.get(place) for place in range(len(requests))], dropped

    def lengths(self, requests: Sequence[Messages], tools: Sequence[Tools] | None = None) -> list[int]:
        """Return the lengths of prompts in tokens; of one that the template refuses, beyond any context."""
        written = self.template.ask(requests, tools)
        texts = [one.text for one in written if one.text is not None]
        found = iter(self._encode(texts))
        return [len(next(found)) if one.text is not None else _ENDLESS for one in written]

    def samples(
        self,
        chats: Sequence[Messages],
        longest: int,
        tools: Sequence[Tools] | None = None,
        *,
        some: bool = True,
    ) -> tuple[list[Sample], Dropped]:
        """Return training examples of chats that end with the teacher's answer.

        Args:
            longest: prompt and answer together, in tokens; what is longer is dropped.
            tools: what each chat's request offers; None: none of them offers any.
            some: it is an error where the template can write none of them.

        Returns:
            The examples in the order of the chats, and what was dropped.

        Raises:
            StudentError: the template refuses all of them, or continues no prompt by its answer.
        """
        samples, dropped = [], Dropped(notes=self._notes(tools))
        prompt_texts, whole_texts = self._texts(chats, tools, dropped, some)
        if some:
            self._check_some(len(whole_texts), dropped)
        prompts = self._encode(prompt_texts)
        answers = self._answers(prompt_texts, prompts, whole_texts)
        for prompt, answer in zip(prompts, answers, strict=True):
            if answer is None:
                dropped.reasons["with the end of a turn within the answer"] += 1
            elif len(prompt) + len(answer) > longest:
                dropped.reasons[f"longer than {longest} tokens"] += 1
            else:
                samples.append(Sample(prompt, answer))
        return samples, dropped

    def answers(self, request: Messages, texts: Sequence[str]) -> list[Tokens]:
        """Return answers to a request as token ids, each with the end of the turn."""
        chats = [[*request, {"role": "assistant", "content": text}] for text in texts]
        samples, _ = self.samples(chats, 1 << 62)
        return [sample.answer for sample in samples]

    def text(self, answer: Sequence[int]) -> str:
        """Return the text of an answer's ids, without special tokens."""
        text: str = self.tokenizer.decode(list(answer), skip_special_tokens=True)
        return text.strip()

    def _answers(
        self, prompt_texts: Sequence[str], prompts: Sequence[Tokens], whole_texts: Sequence[str]
    ) -> list[Tokens | None]:
        """Return what follows each prompt in the whole chat, up to the end of the turn.

        None stands for an answer of which a part comes after that: its text holds the mark of an end.

        Answers are few and short: each different one is tokenised once, on its own, if that gives the ids of
        the whole chat. Where it does not, all chats are tokenised whole.
        """
        texts = [whole[len(prompt) :] for prompt, whole in zip(prompt_texts, whole_texts, strict=True)]
        first_with = {text: index for index, text in reversed(list(enumerate(texts)))}
        alone = dict(zip(first_with, self._encode_whole(list(first_with)), strict=True))
        checked = list(first_with.values())[:_CHECKED]
        wholes = self._encode_whole([whole_texts[index] for index in checked])
        if all(
            np.array_equal(whole, np.concatenate([prompts[index], alone[texts[index]]]))
            for index, whole in zip(checked, wholes, strict=True)
        ):
            ends = {text: self._up_to_stop(ids) for text, ids in alone.items()}
            return [ends[text] for text in texts]
        answers: list[Tokens | None] = []
        for prompt, text, whole in zip(prompts, texts, self._encode(whole_texts), strict=True):
            # Where tokens, but not texts, grow together across the border, the answer is taken on its own:
            # the student will continue the prompt's tokens.
            joins = np.array_equal(whole[: len(prompt)], prompt)
            answers.append(self._up_to_stop(whole[len(prompt) :] if joins else alone[text]))
        return answers

    def _up_to_stop(self, answer: Tokens) -> Tokens | None:
        """Return an answer's ids up to the first end of turn, which is added where the template has none.

        None if more than white space and special tokens would be cut off with what follows it.
        """
        for place, token in enumerate(answer.tolist()):
            if token in self.stops:
                if self.text(answer[place + 1 :].tolist()):
                    return None
                return answer[: place + 1].copy()  # a view would keep the whole chat in memory
        end = self.tokenizer.eos_token_id if self.tokenizer.eos_token_id is not None else min(self.stops)
        return np.append(answer, np.int32(end))

    def _texts(
        self, chats: Sequence[Messages], tools: Sequence[Tools] | None, dropped: Dropped, some: bool
    ) -> tuple[list[str], list[str]]:
        """Return the texts of prompts and of the chats that they begin, without those that are refused."""
        wholes = self.template.write(chats, tools)
        # A prompt is written as its chat is, with the same ids for calls.
        places = [place for place, whole in enumerate(wholes) if whole.text is not None]
        asked = self.template.ask(
            [wholes[place].messages[:-1] for place in places], tools and [tools[place] for place in places]
        )
        prompts = dict(zip(places, asked, strict=True))
        prompt_texts, whole_texts, ends = [], [], None
        for place, whole in enumerate(wholes):
            prompt = prompts.get(place, whole)
            if whole.text is None or prompt.text is None:
                dropped.refuse(place, prompt.refusal)
            elif not whole.text.startswith(prompt.text):
                dropped.refuse(place, "it does not continue a prompt by its answer")
                ends = (prompt.text, whole.text)
            else:
                prompt_texts.append(prompt.text)
                whole_texts.append(whole.text)
        if some and ends and not whole_texts:
            raise StudentError(
                f"{self.tokenizer.name_or_path}: the chat template does not continue a prompt by its "
                f"answer: the prompt ends with {ends[0][-60:]!r}, the whole chat with {ends[1][-120:]!r}"
            )
        return prompt_texts, whole_texts

    def _check_some(self, used: int, dropped: Dropped) -> None:
        """Refuse a student whose template can write none of the conversations."""
        if not used and dropped.places:
            raise StudentError(
                f"{self.tokenizer.name_or_path}: the chat template cannot render the records: "
                f"{next(iter(dropped.places.values()))}"
            )

    def _notes(self, tools: Sequence[Tools] | None) -> list[str]:
        """Say where the template writes no functions that requests offer."""
        offering = [offered for offered in tools or () if offered]
        if not offering or not self.template.passes_over_tools(offering[0]):
            return []
        return [
            f"the chat template writes no functions: {len(offering):,} records offer some, which the student "
            "does not see"
        ]

    def _encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the ids of rendered texts; what they share at their beginning is tokenised once.

        The cut is before a space or line break, where byte-level tokenizers begin a new piece, and well
        inside the common text, so that what follows cannot matter. With tokenizers that do not work so (they
        join pieces over spaces, or mark the start of a text) the check on whole texts fails, and all of them
        are tokenised whole.
        """
        cut = _safe_cut(texts)
        if not cut:
            return self._encode_after_kept(texts)
        (head,) = self._encode_whole([texts[0][:cut]])
        encoded = [
            np.concatenate([head, tail]) for tail in self._encode_whole([text[cut:] for text in texts])
        ]
        by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        checked = sorted({*by_length[:2], *by_length[-2:], *by_length[:: max(1, len(texts) // _CHECKED)]})
        wholes = self._encode_whole([texts[index] for index in checked])
        if all(np.array_equal(encoded[index], whole) for index, whole in zip(checked, wholes, strict=True)):
            return encoded
        log.info("the tokenizer needs whole texts; the shared beginning is tokenised for each record")
        return self._encode_whole(texts)

    def _encode_after_kept(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the ids of rendered texts, those of the kept beginning without tokenising it again."""
        begin, head = self._kept
        after = [bool(begin) and text.startswith(begin) for text in texts]
        pieces = [text[len(begin) :] if known else text for text, known in zip(texts, after, strict=True)]
        return [
            np.concatenate([head, piece]) if known else piece
            for piece, known in zip(self._encode_whole(pieces), after, strict=True)
        ]

    def _encode_whole(self, texts: Sequence[str]) -> list[Tokens]:
        # The template wrote the special tokens (begin of text) already.
        if not texts:
            return []
        if self._fast is not None:
            found = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.asarray(one.ids, np.int32) for one in found]
        ids = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return [np.asarray(row, np.int32) for row in ids]


def _fast_of(tokenizer: Any) -> Any:
    """Return the Rust tokenizer of a Hugging Face tokenizer, which cuts and pads nothing; None: it has none.

    Asked directly it takes half the time: transformers makes lists of masks and offsets of each text.
    """
    fast: Any = getattr(tokenizer, "backend_tokenizer", None)
    if hasattr(fast, "encode_batch_fast"):
        fast.no_truncation()
        fast.no_padding()
        fast.encode_special_tokens = getattr(tokenizer, "split_special_tokens", False)
        return fast
    return None


def _safe_cut(texts: Sequence[str]) -> int:
    """Return where the texts' common beginning can be cut, in characters; 0 for nowhere."""
    if len(texts) < 4:
        return 0
    common = common_text(texts)
    if len(common) < _SHORTEST_HEAD:
        return 0
    place = len(common) - _HEAD_MARGIN
    while place > _SHORTEST_HEAD // 2:
        # Before a single space or line break with a letter on either side.
        if common[place] in " \n" and common[place - 1].isalpha() and common[place + 1].isalpha():
            return place
        place -= 1
    return 0
