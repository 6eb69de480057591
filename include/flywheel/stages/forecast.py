"""How many answers a run will ask of the teacher and what they cost, before anything is asked.

The sources are read once and the keys of their requests looked up; nothing is written. Tokens are estimated
by answers that are there: to the same prompt, else to another version of it (the same tokens for a byte),
else by the length of the prompt.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict

from flywheel.artifacts.root import ArtifactRoot
from flywheel.runs.plan import Plan
from flywheel.sources import Headline, read_headlines
from flywheel.sources.quarantine import Quarantine
from flywheel.stores import PaidAnswer, RecordStore, open_store
from flywheel.teacher.answers import tokens_of
from flywheel.teacher.held import HeldAnswers
from flywheel.teacher.known import FAULT, known_answers
from flywheel.teacher.request import Requests
from flywheel.teacher.spending import Spending
from flywheel.workloads.versions import versions_of
from flywheel.workloads.workload import Workload

log = logging.getLogger(__name__)

_CHUNK = 4096
# Answers by which tokens are estimated.
_SAMPLE = 200
# Of English prose in today's vocabularies; a limit on spending reckons with fewer (teacher.spending).
_BYTES_PER_TOKEN = 4.4


class Forecast(BaseModel):
    """What labelling will ask.

    Attributes:
        version: of the prompt.
        texts: different headlines before the cutoff; `found` of them have an answer.
        ask: answers that will be asked; an answer that names no class is asked again, beyond these.
        later: further answers, for headlines that are there but of after the cutoff.
        tokens: of prompts and answers of `ask`, about.
        cost: of `ask`, by teacher.prices, about; 0 without prices.
        later_cost: of `later`.
        basis: what tokens are estimated by.
        seconds: wall-clock time of counting.
    """

    model_config = ConfigDict(frozen=True)

    version: str
    texts: int
    found: int
    ask: int
    later: int
    tokens: int
    cost: float
    later_cost: float
    currency: str
    basis: str
    seconds: float

    @property
    def all_texts(self) -> int:
        """Different headlines that are there, those after the cutoff too."""
        return self.texts + self.later

    def line(self) -> str:
        """Return it in a sentence."""
        if not self.ask:
            return f"the teacher has answered all of {self.texts:,} headlines: nothing will be asked"
        return (
            f"{self.ask:,} answers will be asked of the teacher ({self.found:,} of {self.texts:,} headlines "
            f"have one): about {self.tokens:,} tokens{self._money(self.cost)}, {self.basis}"
        )

    def whole_line(self) -> str:
        """Return in a sentence what all headlines cost that are there, as later nights ask for them."""
        if not self.later:
            return self.line()
        return (
            f"{self.line()}. With the headlines of after the cutoff, which later nights ask for, it is "
            f"{self.ask + self.later:,} answers{self._money(self.cost + self.later_cost)}"
        )

    def _money(self, sum_: float) -> str:
        return f" and {sum_:,.2f} {self.currency}" if self.currency else ""


def forecast(plan: Plan) -> Forecast | None:
    """Count what the run will ask; None where it has no headlines.

    Raises:
        SourceError, StoreError: the sources or the store cannot be read.
    """
    if not any(source.kind == "headlines" for source in plan.config.source):
        return None
    started = time.monotonic()
    requests = Requests.of(plan.workload, plan.config.teacher)
    versions = [
        version.workload
        for version in reversed(versions_of(ArtifactRoot(plan.config.artifacts.root), plan.workload.id))
        if version.workload.sha256 != plan.workload.sha256
    ]
    count = _Count(requests, held_answers(plan, versions), plan.run_id)
    with (
        open_store(plan.config.store, cache_mb=4) as store,
        tempfile.TemporaryDirectory(prefix="flywheel-forecast-") as folder,
        Quarantine(Path(folder) / "aside") as quarantine,
    ):
        headlines = _headlines(plan, quarantine)
        while chunk := list(islice(headlines, _CHUNK)):
            count.add(store, chunk, plan.cutoff)
        tokens, basis = count.tokens(store, plan, versions)
    costs = [_cost(plan, *part) for part in tokens]
    prices = plan.config.teacher.prices
    return Forecast(
        version=plan.workload.version,
        texts=count.texts,
        found=count.texts - count.ask[0],
        ask=count.ask[0],
        later=count.ask[1],
        tokens=round(tokens[0][0] + tokens[0][2]),
        cost=round(costs[0], 6),
        later_cost=round(costs[1], 6),
        currency=prices.currency if prices.prompt or prices.completion else "",
        basis=basis,
        seconds=round(time.monotonic() - started, 3),
    )


def held_answers(plan: Plan, versions: Sequence[Workload]) -> HeldAnswers:
    """Return the answers of those versions whose labels hold."""
    held = [version for version in versions if version.sha256 in plan.workload.labels_hold_from]
    return HeldAnswers(
        plan.workload, [(version, Requests.of(version, plan.config.teacher)) for version in held]
    )


def _headlines(plan: Plan, quarantine: Quarantine) -> Iterator[Headline]:
    for index, source in enumerate(plan.config.source):
        if source.kind == "headlines" and plan.owns_sources:
            yield from read_headlines(source, quarantine, key=f"source.{index}")


# Prompt tokens, cached ones of them, tokens of answers.
_Tokens = tuple[float, float, float]


class _Count:
    """Texts without an answer: those before the cutoff and those after it, each in two places of a list."""

    def __init__(self, requests: Requests, held: HeldAnswers, night: str) -> None:
        self.texts = 0
        self.ask = [0, 0]
        self._bytes = [0, 0]
        self._requests = requests
        self._held = held
        self._night = night
        self._overhead = len(requests.body(""))
        # Half of a key: of a million texts, two have the same by a chance of 1 in 10^26.
        self._seen: set[int] = set()
        self._later: dict[int, int] = {}
        self._answered: list[tuple[int, PaidAnswer]] = []
        self._asked: list[str] = []

    def add(self, store: RecordStore, headlines: Sequence[Headline], cutoff: int) -> None:
        """Count some headlines."""
        new: dict[str, Headline] = {}
        for headline in headlines:
            key = self._requests.key(headline.text)
            short = int(key[:32], 16)
            is_later = (headline.known_at or 0) >= cutoff
            if short in self._seen or (is_later and short in self._later):
                continue
            if is_later:
                self._later[short] = 0
            else:
                self._seen.add(short)
            new[key] = headline
        known = known_answers(store, list(new), _noted_label)
        answers = {key: found.answer for key, found in known.items() if not found.is_open(self._night)}
        missing = {key: headline.text for key, headline in new.items() if key not in answers}
        held = self._held.find(store, missing) if self._held and missing else {}
        for key, headline in new.items():
            size = self._overhead + len(headline.text.encode())
            short = int(key[:32], 16)
            is_asked = key in missing and key not in held
            if (headline.known_at or 0) >= cutoff:
                if is_asked:
                    self._later[short] = size
                else:
                    del self._later[short]
                continue
            self.texts += 1
            self._later.pop(short, None)  # it is asked for now
            if is_asked:
                self.ask[0] += 1
                self._bytes[0] += size
                if len(self._asked) < _SAMPLE:
                    self._asked.append(headline.text)
            elif key in answers and len(self._answered) < _SAMPLE:
                self._answered.append((size, answers[key]))

    def tokens(
        self, store: RecordStore, plan: Plan, versions: Sequence[Workload]
    ) -> tuple[list[_Tokens], str]:
        """Return the tokens of what is asked before and after the cutoff, and what they are estimated by."""
        self.ask[1], self._bytes[1] = len(self._later), sum(self._later.values())
        rates, basis = _rates(self._answered), "by answers to the same prompt"
        for version in versions:
            if rates is None:
                requests = Requests.of(version, plan.config.teacher)
                keys = {requests.key(text): len(requests.body(text)) for text in self._asked}
                found = store.get_answers(list(keys))
                rates = _rates([(keys[key], answer) for key, answer in found.items()])
                basis = "by answers to another version of the prompt"
        if rates is None:
            answer = max(len(plan.workload.answer_for(name)) for name in plan.workload.classes)
            rates, basis = (self._by_length(), 0.0, answer / _BYTES_PER_TOKEN), "by its length"
        prompt, cached, completion = rates
        return [
            (size * prompt, size * cached, number * completion)
            for size, number in zip(self._bytes, self.ask, strict=True)
        ], basis

    def _by_length(self) -> float:
        """Return tokens of a request's byte: those of its messages' contents, not of the JSON around them."""
        messages = orjson.loads(self._requests.body(""))["messages"]
        around = self._overhead - sum(len(message["content"].encode()) for message in messages)
        size = sum(self._bytes)
        return max(0.0, 1 - around * sum(self.ask) / size) / _BYTES_PER_TOKEN if size else 0.0


def _noted_label(answer: PaidAnswer) -> str | None:
    """Return something where an answer is of use, without reading it: to read a million takes long."""
    return None if FAULT in answer.usage else ""


def _rates(answered: Sequence[tuple[int, PaidAnswer]]) -> _Tokens | None:
    """Return prompt tokens and cached ones of a request's byte, and tokens of an answer; None: unknown."""
    told = [(size, answer.usage) for size, answer in answered if tokens_of(answer.usage, "prompt_tokens")]
    if not told:
        return None
    size = sum(size for size, _ in told)
    prompt, cached, completion = (
        sum(tokens_of(usage, name) for _, usage in told)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
    )
    return prompt / size, min(prompt, cached) / size, completion / len(told)


def _cost(plan: Plan, prompt: float, cached: float, completion: float) -> float:
    spending = Spending(prices=plan.config.teacher.prices)
    spending.prompt_tokens, spending.cached_tokens = round(prompt), round(cached)
    spending.completion_tokens = round(completion)
    return spending.cost
