"""The teacher's requests: the JSON body for a text, and the key under which its answer is kept.

All requests of a workload are one text apart, so the rest is serialized and hashed once: a body and its key
cost microseconds, whatever the length of the prompt.

The text comes as late in a prompt as the workload's template has it, and all before it is the same bytes in
each request: what an endpoint's prefix cache (vLLM's automatic prefix caching, SGLang's RadixAttention, the
prompt caches of hosted models) finds is `shared_before` of the prompt's characters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import orjson

from flywheel.config.endpoint import DEFAULT_FIELDS
from flywheel.config.teacher import TeacherConfig
from flywheel.workloads.markers import for_teacher
from flywheel.workloads.workload import Workload

# Stands for the text while the request around it is serialized; no prompt contains it.
_MARK = "\x00text\x00"
# Fields that change no answer, but what it costs, when it comes or who is told: no part of its key.
_NO_PART_OF_KEY = frozenset(
    {"metadata", "priority", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"}
    | {"service_tier", "store", "top_logprobs", "user"}
)


class Requests:
    """Makes requests of one workload to one model.

    Args:
        model: its name at the endpoint.
        temperature: of sampling.
        max_tokens: bound of an answer.
        logprobs: ask for the logprobs of the answer's tokens.
        request: further fields of the body; None leaves a field out.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        model: str,
        temperature: float,
        max_tokens: int,
        logprobs: bool = False,
        request: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self._prompt = workload.system + workload.before, workload.after
        own = {"temperature": temperature, "max_tokens": max_tokens}
        further = request or {}
        self._fields = {name: value for name, value in own.items() if name not in further}
        added = {name: value for name, value in further.items() if value is not None}
        body = {"model": model, "messages": workload.messages(_MARK), **self._fields}
        deciding = {name: value for name, value in added.items() if name not in _NO_PART_OF_KEY}
        # In the order of their names, so that the order in a file makes no other key.
        end = _further(deciding)
        self._before, self._after = orjson.dumps(body).split(orjson.dumps(_MARK)[1:-1])
        self._after = self._after[:-1] + end + b"}"
        self._hash = hashlib.sha256(self._before)
        silent: dict[str, Any] = {name: added[name] for name in added.keys() - deciding.keys()}
        if logprobs:
            silent["logprobs"] = True
        self._end = self._after[:-1] + _further(silent) + b"}"
        self._fields |= added

    @classmethod
    def of(cls, workload: Workload, teacher: TeacherConfig) -> Requests:
        """Return the requests of a workload to the configured teacher."""
        return cls(
            workload,
            model=teacher.model,
            temperature=teacher.temperature,
            max_tokens=teacher.max_tokens,
            logprobs=teacher.logprobs,
            request=teacher.request,
        )

    @property
    def shared_before(self) -> float:
        """The share of a prompt without its text that stands before the text, 0 to 1."""
        before, after = self._prompt
        return len(before) / max(1, len(before) + len(after))

    def body(self, text: str) -> bytes:
        """Return the JSON of the request for a text, in which nothing speaks for itself (`for_teacher`)."""
        return self._before + orjson.dumps(for_teacher(text))[1:-1] + self._end

    def key(self, text: str) -> str:
        """Return the SHA-256 of `body(text)` without what changes no answer (logprobs, user), in hex.

        It covers model, messages, temperature, max_tokens and what teacher.request adds: whoever changes one
        asks anew. The address takes no part, so that a teacher may move.
        """
        digest = self._hash.copy()
        digest.update(orjson.dumps(for_teacher(text))[1:-1])
        digest.update(self._after)
        return digest.hexdigest()

    def advice_on(self, refusal: str) -> str:
        """Return which key mends a refusal, where the endpoint's message names a field; else nothing.

        Args:
            refusal: what the endpoint said.
        """
        for name in self._fields:
            # A word of plain English must stand in quotes.
            pattern = rf"\b{name}\b" if "_" in name or name in DEFAULT_FIELDS else rf"['\"`]{name}['\"`]"
            if not re.search(pattern, refusal):
                continue
            if name not in DEFAULT_FIELDS:
                return f"teacher.request.{name} sets this field"
            instead = f", max_completion_tokens: {self._fields[name]}" if name == "max_tokens" else ""
            return f"teacher.{name} sets this field; teacher.request: {{{name}: null{instead}}} leaves it out"
        return ""


def _further(fields: Mapping[str, Any]) -> bytes:
    """Return fields as the end of a JSON object that has others before."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS  # logit_bias: {1234: -100}
    return b"," + orjson.dumps(fields, option=options)[1:-1] if fields else b""
