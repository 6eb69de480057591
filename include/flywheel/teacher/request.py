"""The teacher's requests: the JSON body for a text, and the key under which its answer is kept.

All requests of a workload are one text apart, so the rest is serialized and hashed once: a body and its key
cost microseconds, whatever the length of the prompt.
"""

from __future__ import annotations

import hashlib

import orjson

from flywheel.workload import Workload

# Stands for the text while the request around it is serialized; no prompt contains it.
_MARK = "\x00text\x00"


class Requests:
    """Makes requests of one workload to one model.

    Args:
        model: its name at the endpoint.
        temperature: of sampling.
        max_tokens: bound of an answer.
    """

    def __init__(self, workload: Workload, *, model: str, temperature: float, max_tokens: int) -> None:
        self.model = model
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

    def body(self, text: str) -> bytes:
        """Return the JSON of the request for a text."""
        return self._before + orjson.dumps(text)[1:-1] + self._after

    def key(self, text: str) -> str:
        """Return the SHA-256 of `body(text)`, in hex.

        It covers model, messages, temperature and max_tokens: whoever changes one asks anew. The address
        takes no part, so that a teacher may move.
        """
        digest = self._hash.copy()
        digest.update(orjson.dumps(text)[1:-1])
        digest.update(self._after)
        return digest.hexdigest()
