"""In-context learning: prompts with examples, the teacher's answers to training records, before the question.

An example is a turn of its own: the line of its prompt that it has of its own, as `Headline: Acme beats`,
without the instructions that all prompts share, and the teacher's answer. The more similar an example is to
the question, the nearer to it it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flywheel.common.shared_text import between, shared_ends
from flywheel.config.icl import IclConfig
from flywheel.students.similarity import Similarity
from flywheel.workloads.workload import own_line

Record = Mapping[str, Any]
Messages = list[dict[str, Any]]
# Returns how many tokens each of some prompts takes, given what each offers as tools.
Measure = Callable[[Sequence[Messages], Sequence[Any]], Sequence[int]]

# So many training records are looked through, and so many of the most similar ones for other classes.
MOST_RECORDS = 5000
_LOOKED_THROUGH = 12
# Where no tokenizer is at hand; few texts have more tokens than this.
CHARACTERS_A_TOKEN = 3


def estimate(prompts: Sequence[Messages], tools: Sequence[Any]) -> list[int]:
    """Return about how many tokens prompts take, rather more than less."""
    return [
        (sum(len(str(message)) for message in prompt) + len(str(offered or ""))) // CHARACTERS_A_TOKEN
        for prompt, offered in zip(prompts, tools, strict=True)
    ]


def with_examples(
    records: Sequence[Record],
    train: Sequence[Record],
    config: IclConfig,
    *,
    context_length: int,
    answer_tokens: int,
    measure: Measure,
) -> tuple[list[Messages], float]:
    """Return the prompts of records with examples in them, and how many a prompt has on average.

    Args:
        records: of the eval set.
        train: training records, from which examples are taken.
        context_length: of the student.
        answer_tokens: room for the answer.
    """
    train = train[:MOST_RECORDS]
    requests = [record["messages"][:-1] for record in (*train, *records)]
    texts, lines = own_texts(requests), own_texts(requests, with_line=True)
    known, questions = texts[: len(train)], texts[len(train) :]
    if config.example_selection == "uniform_distribution":
        chosen = [_evenly(train, config.max_examples)] * len(records)
    else:
        chosen = _similar(train, known, questions, config)
    limit = min(config.max_context_length, context_length)
    tools = [record.get("tools") for record in records]
    plain = [list(record["messages"][:-1]) for record in records]
    own = measure(plain, tools)
    prompts, counts = plain[:], [0] * len(records)
    # All prompts with all their examples, then those that are too long with one less, and so on.
    waiting = {index: list(chosen[index]) for index in range(len(records))}
    while waiting:
        tried = {
            index: _with(plain[index], [_turn(lines[at], train[at]) for at in reversed(places)])
            for index, places in waiting.items()
            if len(places) >= max(1, config.min_examples)
        }
        lengths = measure(list(tried.values()), [tools[index] for index in tried])
        for (index, prompt), length in zip(tried.items(), lengths, strict=True):
            if length <= limit - answer_tokens and length - own[index] <= limit - config.reserved_tokens:
                prompts[index], counts[index] = prompt, len(waiting.pop(index))
        # The last one is the least similar, or the longest.
        waiting = {index: waiting[index][:-1] for index in tried if index in waiting}
    return prompts, sum(counts) / max(1, len(counts))


def own_texts(requests: Sequence[Sequence[dict[str, Any]]], *, with_line: bool = False) -> list[str]:
    """Return of each request what its last user message has of its own: without what all share around it.

    Args:
        with_line: with what they share in the same line, such as `Headline: `.
    """
    texts = [
        next((message["content"] or "" for message in reversed(request) if message["role"] == "user"), "")
        for request in requests
    ]
    if len(set(texts)) < 2:
        return texts
    before, after = shared_ends(set(texts), whole_words=False)
    if with_line:
        head, tail = own_line(before, after)
        before, after = before.removesuffix(head), after.removeprefix(tail)
    return [(between(text, before, after) or "").strip() for text in texts]


def _similar(
    train: Sequence[Record], known: Sequence[str], questions: Sequence[str], config: IclConfig
) -> list[list[int]]:
    """Return for each question the places of its examples, the most similar first."""
    most = config.max_examples
    relevant = math.ceil(config.similarity_config.relevance_ratio * most)
    found = []
    for places in Similarity(known).nearest(questions, known, most * _LOOKED_THROUGH):
        picked = places[:relevant]
        for wants_new in (True, False):
            for place in places[relevant:]:
                labels = {train[at]["label"] for at in picked}
                fits = not wants_new or train[place]["label"] not in labels
                if fits and len(picked) < most and place not in picked:
                    picked.append(place)
        found.append(picked)
    return found


def _evenly(train: Sequence[Record], most: int) -> list[int]:
    """Return places of examples that are spread evenly over classes or functions, short ones first."""
    groups: dict[str, list[int]] = {}
    for place in sorted(range(len(train)), key=lambda at: (_length(train[at]), at)):
        groups.setdefault(train[place]["label"], []).append(place)
    in_turn = sorted(groups, key=lambda label: (-len(groups[label]), label))
    rounds = max(map(len, groups.values()), default=0)
    spread = [groups[label][turn] for turn in range(rounds) for label in in_turn if turn < len(groups[label])]
    return spread[:most]


def _length(record: Record) -> int:
    return sum(len(str(message)) for message in record["messages"])


def _turn(text: str, record: Record) -> Messages:
    return [{"role": "user", "content": text}, record["messages"][-1]]


def _with(prompt: Messages, turns: Sequence[Messages]) -> Messages:
    """Return a prompt with turns after what stands at its beginning for the whole chat."""
    start = next(
        (at for at, message in enumerate(prompt) if message["role"] not in ("system", "developer")),
        len(prompt),
    )
    return [*prompt[:start], *(message for turn in turns for message in turn), *prompt[start:]]
