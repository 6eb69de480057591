"""Lines of a data set: what records share is kept once, and each record is read back as it was."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from flywheel.common.errors import ArtifactError
from flywheel.workloads.lines import PROMPTS_FILE, LineWriter, read_lines
from flywheel.workloads.workload import Workload

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
RULES = "You sort what customers write. Answer with one word, and with none but those that you were given. "
TOOLS = [{"type": "function", "function": {"name": "ring", "parameters": {"type": "object"}}}]


def record(number: int, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    answer = {"role": "assistant", "content": "x"}
    return {"id": f"r{number}", "label": "a", "messages": [*messages, answer], **more}


def kept(folder: Path, *batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write records and return the lines as they stand on the disk."""
    writer = LineWriter(folder)
    path = folder / "train.jsonl"
    path.write_bytes(b"".join(map(writer.lines, batches)))
    writer.close()
    assert list(read_lines(path)) == [one for batch in batches for one in batch]
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    words = ["Acme", "Bolt", "rises", "falls", "pays", "buys", "sells", "more", "less", "today"]
    return [" ".join(rng.choices(words, k=7)) for _ in range(count)]


def test_the_prompt_of_a_workload_is_kept_once(tmp_path: Path) -> None:
    records = [record(n, WORKLOAD.messages(text)) for n, text in enumerate(texts(50))]
    lines = kept(tmp_path, records)
    assert {line["prompt"] for line in lines} == {0}
    assert [line["messages"][0]["content"].strip() for line in lines] == texts(50)
    assert (tmp_path / PROMPTS_FILE).stat().st_size < 1.5 * len(orjson.dumps(records[0]))


def test_each_template_of_a_log_is_found_the_later_ones_too(tmp_path: Path) -> None:
    def asked(template: int, text: str) -> list[dict[str, Any]]:
        if template == 0:
            return [{"role": "system", "content": RULES}, {"role": "user", "content": text}]
        return [{"role": "user", "content": f"Version {template}. {RULES}It says: {text} /now"}]

    first = [record(n, asked(n % 2, text)) for n, text in enumerate(texts(40))]
    later = [record(n, asked(2, text)) for n, text in enumerate(texts(40, seed=1))]
    lines = kept(tmp_path, first, later)
    assert all("prompt" in line and len(line["messages"][0]["content"]) < 80 for line in lines)


def test_what_follows_in_a_conversation_and_the_answer_stay(tmp_path: Path) -> None:
    chats = [
        [
            {"role": "system", "content": RULES},
            {"role": "user", "content": f"{text}?"},
            {"role": "assistant", "content": "which?", "tool_calls": [{"function": {"name": "ring"}}]},
            {"role": "user", "content": text},
        ]
        for text in texts(10)
    ]
    lines = kept(tmp_path, [record(n, chat, tools=TOOLS) for n, chat in enumerate(chats)])
    assert [line["tools"] for line in lines] == [0] * 10
    assert [line["messages"][:-1] for line in lines] == [chat[1:] for chat in chats]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "text", "text": RULES}]}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": RULES, "name": "né"}],
        [],
        [{"role": "system", "content": RULES}],
        [{"role": "user", "content": f"{RULES}  \n\t the lamp \n"}],
    ],
)
def test_odd_records_among_others_are_read_back_to_the_letter(
    tmp_path: Path, messages: list[dict[str, Any]]
) -> None:
    rest = [record(n, [{"role": "user", "content": RULES + text}]) for n, text in enumerate(texts(20))]
    odd = [record(90 + n, messages) for n in range(4)]
    kept(tmp_path, [*rest[:10], *odd, *rest[10:]])


def test_a_file_of_before_is_read_as_it_is(tmp_path: Path) -> None:
    whole = record(1, WORKLOAD.messages("Acme rises"), tools=TOOLS)
    (tmp_path / "train.jsonl").write_bytes(orjson.dumps(whole))
    assert list(read_lines(tmp_path / "train.jsonl")) == [whole]


def test_a_line_whose_prompt_is_not_there_says_where(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(orjson.dumps({**record(1, WORKLOAD.messages("a")), "prompt": 4}))
    with pytest.raises(ArtifactError, match=r"train.jsonl, line 1: no record"):
        list(read_lines(tmp_path / "train.jsonl"))
