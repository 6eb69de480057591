"""Students that a vLLM answers for: adapters are loaded into it by its API, each under its content's key.

A name never gets other weights: a vLLM that reloads an adapter in place may answer with what it has cached of
the one before (vllm-project/vllm 42125, 33791). The next champion's adapter is loaded and warm beside the
last one's, which is unloaded when its requests have ended. A vLLM that has lost an adapter, since it was
started anew or another endpoint has unloaded it, is given it again when it says so.

It must run with `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; for a class's probability among
the classes alone, as our own engine gives it, with `--logprobs-mode processed_logprobs`.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import httpx

from flywheel.common.connections import find_connection
from flywheel.common.errors import StudentError
from flywheel.common.redaction import clean
from flywheel.config.serving import VllmServer
from flywheel.serving.student import Answer, NotYetError, PromptForm, Question, RefusedError, Source, left_out
from flywheel.workloads.markers import in_conversation, in_tools

# Loading reads a file and, on a GPU, copies it; minutes are a vLLM that hangs.
_LOAD_SECONDS = 120.0


class VllmStudent:
    """An adapter in a vLLM.

    Args:
        source: what it is made of.
        server: of the config.
        timeout_seconds: of one answer.

    Raises:
        StudentError: the server's connection has no key.
    """

    def __init__(self, source: Source, server: VllmServer, timeout_seconds: float) -> None:
        self.source = source
        self._server, self._timeout = server, timeout_seconds
        self._form = PromptForm(source.workload, source.asked_text, left_out(source.folder))
        self._client = httpx.AsyncClient(
            base_url=server.url.rstrip("/"),
            headers=_key_of(server),
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    async def start(self) -> None:
        """Load the adapter, and have it answer once.

        Raises:
            StudentError: vLLM cannot be reached, or refuses it; in its own words.
        """
        try:
            await self._load()
            # The first answer may take longer than others are given.
            warm_up = Question([{"role": "user", "content": "warm-up"}], most_tokens=1)
            await self.ask(warm_up, timeout=_LOAD_SECONDS)
        except (NotYetError, RefusedError) as error:
            raise StudentError(f"{self.source.name}: {error}") from None

    async def stop(self) -> None:
        """Unload it, and end the connections; a vLLM that is gone has unloaded it."""
        try:
            await self._client.post("/v1/unload_lora_adapter", json={"lora_name": self.source.adapter})
        except httpx.HTTPError:
            pass
        finally:
            await self._client.aclose()

    async def ask(self, question: Question, *, timeout: float | None = None) -> Answer:
        """Return the answer to a request.

        Raises:
            RefusedError: it cannot be answered.
            NotYetError: vLLM cannot be reached.
        """
        body: dict[str, Any] = {
            "model": self.source.adapter,
            "messages": self._form.of(in_conversation(question.messages)),
            "temperature": 0,
            "max_tokens": question.most_tokens,
        }
        if question.tools:
            # Calls are told from texts as in training and evaluation, not by vLLM's parsers.
            body |= {"tools": in_tools(question.tools), "tool_choice": "none"}
        workload = self.source.workload
        if self.source.classifies:
            answers = [workload.answer_for(label) for label in workload.classes]
            body |= {"structured_outputs": {"choice": answers}, "logprobs": True, "max_tokens": 64}
        answer = await self._post("/v1/chat/completions", body, question.trace, timeout=timeout)
        if answer.status_code == 404:
            await self._load()
            answer = await self._post("/v1/chat/completions", body, question.trace, timeout=timeout)
        if answer.status_code == 400:
            raise RefusedError(_said(answer))
        if answer.status_code != 200:
            raise NotYetError(f"vLLM says {answer.status_code}: {_said(answer)}")
        return self._answer(answer.json())

    def _answer(self, completion: dict[str, Any]) -> Answer:
        choice, usage = completion["choices"][0], completion["usage"]
        text = choice["message"].get("content") or ""
        label, probabilities = None, {}
        if self.source.classifies:
            label = self.source.workload.label_of(text)
            if label is not None:
                tokens = choice["logprobs"]["content"]
                probabilities = {label: min(1.0, math.exp(sum(token["logprob"] for token in tokens)))}
        return Answer(
            text=text,
            label=label,
            probabilities=probabilities,
            prompt_tokens=usage["prompt_tokens"],
            answer_tokens=usage["completion_tokens"],
            cut=choice.get("finish_reason") == "length",
        )

    async def _load(self) -> None:
        folder = self.source.folder.resolve()
        if self._server.folder is not None:
            folder = _put(folder, Path(self._server.folder) / self.source.adapter)
        body = {"lora_name": self.source.adapter, "lora_path": str(folder)}
        answer = await self._post("/v1/load_lora_adapter", body, timeout=_LOAD_SECONDS)
        # One of that name is the same bytes: another endpoint, or this one before it was started anew.
        if answer.status_code != 200 and "already" not in answer.text:
            raise NotYetError(f"vLLM does not load it ({answer.status_code}): {_said(answer)}")

    async def _post(
        self, path: str, body: dict[str, Any], trace: Any = None, *, timeout: float | None = None
    ) -> httpx.Response:
        try:
            return await self._client.post(
                path, json=body, headers=dict(trace or {}), timeout=timeout or self._timeout
            )
        except httpx.HTTPError as error:
            said = f"vLLM at {self._server.url} cannot be reached: {str(error) or type(error).__name__}"
            raise NotYetError(said) from None


def _key_of(server: VllmServer) -> dict[str, str]:
    if server.connection is None:
        return {}
    found = find_connection(server.connection, StudentError)
    if found is None or not found.password:
        raise StudentError(f"the Airflow connection {server.connection} is missing or has no password")
    return {"authorization": f"Bearer {found.password}"}


def _put(folder: Path, place: Path) -> Path:
    """Return a copy of an adapter where vLLM sees it, whole or not there."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        try:
            shutil.copytree(folder, aside, dirs_exist_ok=True)
            aside.chmod(0o755)
            aside.rename(place)
        except FileExistsError:
            pass
        except OSError:
            if not place.exists():  # another endpoint was faster
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return place


def _said(answer: httpx.Response) -> str:
    try:
        return clean(str(answer.json()["error"]["message"]))[:500]
    except (ValueError, LookupError, TypeError):
        return clean(answer.text)[:500]
