"""The teacher's requests: the JSON body for a text, and the key under which its answer is kept.

All requests of a workload are one text apart, so the rest is serialized and hashed once: a body and its key
cost microseconds, whatever the length of the prompt.

The text comes as late in a prompt as the workload's template has it, and all before it is the same bytes in
each request: what an endpoint's prefix cache (vLLM's automatic prefix caching, SGLang's RadixAttention, the
prompt caches of hosted models) finds is `shared_before` of the prompt's characters.
"""

from __future__ import annotations

import hashlib

import orjson

from flywheel.config.teacher import TeacherConfig
from flywheel.workload import Workload

# Stands for the text while the request around it is serialized; no prompt contains it.
_MARK = "\x00text\x00"


class Requests:
    """Makes requests of one workload to one model.

    Args:
        model: its name at the endpoint.
        temperature: of sampling.
        max_tokens: bound of an answer.
        logprobs: ask for the logprobs of the answer's tokens.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        model: str,
        temperature: float,
        max_tokens: int,
        logprobs: bool = False,
    ) -> None:
        self.model = model
        self._prompt = workload.system + workload.before, workload.after
        body = orjson.dumps(
            {
                "model": model,
                "messages": workload.messages(_MARK),
                "temperature": temperature,
                "max_tokens": max_tokens,
            }
        )
        self._before, self._after = body.split(orjson.dumps(_MARK)[1:-1])
        self._hash = hashlib.sha256(self._before)
        # They change no answer, so they take no part in the key.
        self._end = self._after[:-1] + b',"logprobs":true}' if logprobs else self._after

    @classmethod
    def of(cls, workload: Workload, teacher: TeacherConfig) -> Requests:
        """Return the requests of a workload to the configured teacher."""
        return cls(
            workload,
            model=teacher.model,
            temperature=teacher.temperature,
            max_tokens=teacher.max_tokens,
            logprobs=teacher.logprobs,
        )

    @property
    def shared_before(self) -> float:
        """The share of a prompt without its text that stands before the text, 0 to 1."""
        before, after = self._prompt
        return len(before) / max(1, len(before) + len(after))

    def body(self, text: str) -> bytes:
        """Return the JSON of the request for a text."""
        return self._before + orjson.dumps(text)[1:-1] + self._end

    def key(self, text: str) -> str:
        """Return the SHA-256 of `body(text)` without its logprobs, in hex.

        It covers model, messages, temperature and max_tokens: whoever changes one asks anew. The address
        takes no part, so that a teacher may move.
        """
        digest = self._hash.copy()
        digest.update(orjson.dumps(text)[1:-1])
        digest.update(self._after)
        return digest.hexdigest()
