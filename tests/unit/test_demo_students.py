"""The shipped demo students: small enough, loadable as any Hugging Face model, lossless for any text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from flywheel.demo.grammar import kinds
from flywheel.demo.headlines import generate
from flywheel.demo.lessons import TAXONOMIES, Lessons, misnamed, wrong_class
from flywheel.workloads.workload import Workload

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import flywheel.demo as demo  # noqa: E402 - after the optional imports
from flywheel.demo.tokenizer import train_tokenizer  # noqa: E402

STUDENTS = Path(demo.__file__).parent / "students"
NAMES = ("small", "medium", "large")
ODD_TEXTS = [
    "Žluťoučký kůň – “quotes” … 5 % – €3.4bn",
    "漢字とかな 한국어 العربية עברית हिन्दी",
    "🚀 👩‍👩‍👧‍👦 \u200b\u200d\u0301e\u0301 𝔘𝔫𝔦",
    "tab\tnew\nline\r\n  two  spaces   \x00 end ",
    "a <|x|> [[[b]]] ]]]] '''\"\"\" \\n {text}",
    "\ufeffBOM and \ufffd",
    " leading and trailing ",
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(STUDENTS / "small", local_files_only=True)


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload.load("include/workloads/news_classifier.yaml")


def test_all_together_are_at_most_16_megabytes() -> None:
    assert sum(file.stat().st_size for file in STUDENTS.rglob("*") if file.is_file()) <= 16e6


@pytest.mark.parametrize("name", NAMES)
def test_a_student_loads_and_answers(name: str, workload: Workload) -> None:
    folder = STUDENTS / name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert model.config.model_type == "llama"
    assert model.config.tie_word_embeddings
    assert len(tokenizer) == model.config.vocab_size
    prompt = tokenizer.apply_chat_template(
        workload.messages(next(generate(1)).text),
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**prompt, max_new_tokens=12)[0, prompt["input_ids"].shape[1] :]
    text = tokenizer.decode(answer)
    assert text.startswith("[[[") and text.endswith("]]]<|end|>"), text


def test_the_students_differ_clearly_in_size() -> None:
    configs = [transformers.AutoConfig.from_pretrained(STUDENTS / name) for name in NAMES]
    with torch.device("meta"):
        models = [transformers.AutoModelForCausalLM.from_config(config) for config in configs]
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    assert 0.4e6 < counts[0] < 0.8e6
    assert 2 * counts[0] < counts[1] < counts[2] / 1.5 < 4e6


@pytest.mark.parametrize("name", NAMES)
def test_each_student_ships_what_its_users_need(name: str) -> None:
    files = {file.name for file in (STUDENTS / name).iterdir()}
    needed = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert needed | {"generation_config.json", "README.md"} <= files


def test_all_students_share_one_tokenizer() -> None:
    assert len({(STUDENTS / name / "tokenizer.json").read_bytes() for name in NAMES}) == 1


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_odd_unicode_comes_back_without_loss(tokenizer: Any, text: str) -> None:
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(tokens) == text


def test_random_unicode_comes_back_without_loss(tokenizer: Any) -> None:
    rng = random.Random(5)
    for _ in range(300):
        codes = (rng.randrange(0x20, rng.choice([0x80, 0x800, 0xD800, 0x110000])) for _ in range(30))
        text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_generation_prompt_is_a_prefix_of_the_chat(tokenizer: Any, workload: Workload) -> None:
    messages = workload.messages("Veles to buy Orbane")
    answer = {"role": "assistant", "content": "[[[earnings]]]"}
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    chat = tokenizer.apply_chat_template([*messages, answer], return_dict=False)
    assert chat[: len(prompt)] == prompt
    assert tokenizer.decode(chat[len(prompt) :]) == "[[[earnings]]]<|end|>"


def test_the_workloads_prompt_and_labels_take_few_tokens(tokenizer: Any, workload: Workload) -> None:
    prompt = tokenizer.apply_chat_template(
        workload.messages("X"), add_generation_prompt=True, return_dict=False
    )
    assert len(prompt) < 1300
    assert all(len(tokenizer(workload.answer_for(label))["input_ids"]) <= 8 for label in workload.classes)


def test_the_lessons_never_give_a_headline_its_class(workload: Workload) -> None:
    lessons = Lessons(1)
    names = {label.lower() for label in workload.classes}
    for _ in range(3000):
        event = lessons.event()
        wrong = wrong_class(event)
        assert wrong in names
        assert wrong not in (event.human_label.lower(), event.teacher_label.lower())
    # Where an answer has a class's name at all, it is in that taxonomy: no other has such names.
    others = [taxonomy(lessons.rng)[0] for taxonomy in TAXONOMIES if taxonomy is not misnamed]
    assert not names & {name for classes in others for name, _ in classes}


def test_the_lessons_are_the_same_for_the_same_seed() -> None:
    assert list(islice(Lessons(3).chats(), 40)) == list(islice(Lessons(3).chats(), 40))


def test_lessons_ask_for_what_happened() -> None:
    lessons = Lessons(2)
    answers = set(_answers(lessons.questions() for _ in range(400)))
    assert len(answers & {kind.what for kind in kinds()}) > len(kinds()) // 2


def test_a_tokenizer_can_be_trained_anew() -> None:
    tokenizer = train_tokenizer((item.text for item in generate(500)), vocabulary=400)
    assert len(tokenizer) == 400
    assert tokenizer.decode(tokenizer("Ångström 日", add_special_tokens=False)["input_ids"]) == "Ångström 日"


def _answers(chats: Iterator[list[dict[str, str]]]) -> list[str]:
    return [message["content"] for chat in chats for message in chat if message["role"] == "assistant"]
