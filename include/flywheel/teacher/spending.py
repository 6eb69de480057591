"""What labelling has spent, and may still spend: calls, tokens, money.

A call is counted before it is sent and its tokens when the answer comes; until then they are estimated, so
that the calls in flight do not overrun the budget together. What an endpoint does not tell (`usage` missing,
null, zero) stays an estimate: of a prompt by the tokens for a byte of those that were told, else by
TOKENS_PER_BYTE; of an answer by the latter, and of one that was cut off by the bound that was sent.

The sums of a run are kept in a file beside the store's lock, and written with the answers: a run that is
killed and tried again goes on with what is left (it forgets at most the calls of its last second). One that
has stopped because its budget was spent begins a new budget when it is run again.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from flywheel.common.errors import BudgetError
from flywheel.config.teacher import Budget, MonthBudget, Prices
from flywheel.teacher.answers import tokens_of
from flywheel.teacher.month import MonthSpending

# A text has about so many tokens a byte: 4 bytes a token is what is said of English.
TOKENS_PER_BYTE = 0.25
_SUMS = ("calls", "prompt_tokens", "cached_tokens", "completion_tokens", "estimated")
_BOUND = re.compile(rb'"max_(?:completion_)?tokens":(\d{1,9})[,}]')
_RUNS_KEPT = 50


class Spending:
    """The sums of one run, and its budget.

    Args:
        path: the file of sums; None: nothing is kept.
        run_id: whose sums in the file.
        month: the sums of the month, which has a budget over all runs; None: it has none.

    Attributes:
        estimated: answers whose tokens, or a part of them, the endpoint did not tell.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        prices: Prices | None = None,
        *,
        path: Path | None = None,
        run_id: str = "",
        month: MonthSpending | None = None,
    ) -> None:
        self.calls = self.prompt_tokens = self.cached_tokens = self.completion_tokens = self.estimated = 0
        self._budget = budget or Budget()
        self.prices = prices or Prices()
        self._path = path
        self._run_id = run_id
        self._month = month
        self._saved_at = 0.0
        self._open_tokens = 0.0
        self._answered_bytes = 0
        self._told = (0, 0)  # bytes of requests, and the tokens that endpoints told of them
        for name, value in self._file().get(run_id, {}).items():
            if name in _SUMS:
                setattr(self, name, value)
        self._tokens_before = self.tokens

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost(self) -> float:
        """What the answers cost, in the currency of the prices."""
        return self._cost_of(self._sums)

    @property
    def _sums(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _SUMS}

    def _cost_of(self, sums: Mapping[str, int]) -> float:
        prices, cached = self.prices, sums.get("cached_tokens", 0)
        cached_price = prices.prompt if prices.cached_prompt is None else prices.cached_prompt
        return (
            (sums.get("prompt_tokens", 0) - cached) * prices.prompt
            + cached * cached_price
            + sums.get("completion_tokens", 0) * prices.completion
        ) / 1e6

    def _check(self, key: str, budget: Budget | MonthBudget, before: Counter[str], expected: float) -> None:
        """Refuse a call that would not fit a budget of which others have spent some before."""
        if budget.calls is None and budget.tokens is None and budget.cost is None:
            return
        sums = Counter(self._sums) + before
        spent, when = sums["prompt_tokens"] + sums["completion_tokens"], self._by_estimate
        if budget is not self._budget and self._month is not None:
            when = f" in {self._month.name}{when}"
        if budget.calls is not None and sums["calls"] >= budget.calls:
            raise BudgetError(f"{key}.calls: all {budget.calls:,} are spent{when}")
        if budget.tokens is not None and spent + self._open_tokens + expected > budget.tokens:
            raise BudgetError(f"{key}.tokens: {spent:,} of {budget.tokens:,} are spent{when}")
        if budget.cost is not None:
            cost = self._cost_of(sums)
            each = cost / spent if spent else self.prices.prompt / 1e6
            if cost + (self._open_tokens + expected) * each > budget.cost:
                raise BudgetError(
                    f"{key}.cost: {self.money(cost)} of {self.money(budget.cost)} are spent{when}"
                )

    def estimate(self, body: bytes) -> float:
        """Return about how many tokens a call will use, by those before."""
        if self._answered_bytes:
            return len(body) * (self.tokens - self._tokens_before) / self._answered_bytes
        return len(body) * TOKENS_PER_BYTE

    def begin(self, body: bytes) -> float:
        """Count a call that is about to be sent; returns its estimated tokens, for `end`.

        Raises:
            BudgetError: it would not fit the budget.
        """
        expected = self.estimate(body)
        self._check("teacher.budget", self._budget, Counter(), expected)
        if self._month is not None:
            self._check("teacher.month_budget", self._month.budget, self._month.before, expected)
        self.calls += 1
        self._open_tokens += expected
        return expected

    def end(
        self,
        expected: float,
        body: bytes,
        usage: dict[str, Any] | None,
        *,
        written: int = 0,
        is_cut_off: bool = False,
    ) -> int:
        """Count what a call used. Returns its tokens.

        Args:
            usage: what the endpoint told; None: it gave no answer.
            written: bytes that the model wrote.
            is_cut_off: it wrote as much as it was allowed to, thoughts that are not shown with it.
        """
        self._open_tokens -= expected
        if usage is None:
            return 0
        prompt, completion = tokens_of(usage, "prompt_tokens"), tokens_of(usage, "completion_tokens")
        if prompt:
            self._told = self._told[0] + len(body), self._told[1] + prompt
        is_told = prompt and (completion or not (written or is_cut_off))
        if not prompt:
            rate = self._told[1] / self._told[0] if self._told[0] else TOKENS_PER_BYTE
            prompt = math.ceil(len(body) * rate)
        if not completion:
            completion = math.ceil(written * TOKENS_PER_BYTE)
            bound = _BOUND.findall(body) if is_cut_off else []
            completion = max(completion, int(bound[-1]) if bound else 0)
        self.estimated += not is_told
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.cached_tokens += min(prompt, tokens_of(usage, "cached_tokens"))
        self._answered_bytes += len(body)
        return prompt + completion

    @property
    def _by_estimate(self) -> str:
        return " (by estimate: the endpoint tells no usage)" if self.estimated else ""

    def money(self, sum_: float) -> str:
        """Return a sum in words: `12.34 USD`."""
        return f"{sum_:,.2f} {self.prices.currency}"

    def save(self) -> None:
        """Keep the sums; once a second is often enough."""
        now = time.monotonic()
        if now - self._saved_at >= 1.0:
            self._saved_at = now
            self._write(self._sums)
            if self._month is not None:
                self._month.write(self._sums)

    def forget(self) -> None:
        """Drop the sums of a run that has ended: another try of it begins a new budget."""
        self._write(None)
        if self._month is not None:
            self._month.write(self._sums, ended=True)

    def _file(self) -> dict[str, dict[str, int]]:
        if self._path is None or not self._path.exists():
            return {}
        try:
            found = orjson.loads(self._path.read_bytes())
        except orjson.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, sums: dict[str, int] | None) -> None:
        if self._path is None:
            return
        runs = self._file()
        runs.pop(self._run_id, None)
        if sums is not None:
            runs[self._run_id] = sums
        if not runs:
            self._path.unlink(missing_ok=True)
            return
        aside = self._path.with_name(f"{self._path.name}.aside")
        aside.write_bytes(orjson.dumps(dict(list(runs.items())[-_RUNS_KEPT:])))
        os.replace(aside, self._path)
