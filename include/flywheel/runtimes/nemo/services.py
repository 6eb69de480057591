"""The services' clients, and patience with them: what to try again, how long, how to say what is wrong."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from filelock import AsyncFileLock
from nemo_microservices import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncNeMoMicroservices,
    ConflictError,
    NotFoundError,
)

from flywheel.common.errors import ConfigError, JobError
from flywheel.common.patience import Patience, seconds_to_wait
from flywheel.common.redaction import register
from flywheel.config.loading import resolve_path
from flywheel.config.nemo import NemoConfig, NmpConfig
from flywheel.runtimes.base import RefusedJobError

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Say = Callable[[str], None]


class Unsure(Exception):  # noqa: N818
    """A call that makes something failed in a way that leaves open whether it was made."""


class Services:
    """The services of one NeMo installation, for the time of `async with`.

    Args:
        nmp: where they are.
        nemo: how long to be patient.
        say: gets what is worth a line in the task's log.
    """

    def __init__(self, nmp: NmpConfig, nemo: NemoConfig, say: Say) -> None:
        self.nmp = nmp
        self.config = nemo
        self.say = say
        headers = auth_headers(nmp)
        options = {"timeout": nemo.timeout_seconds, "max_retries": 0, "default_headers": headers}
        self.nemo = AsyncNeMoMicroservices(base_url=address(nmp, "nemo_base_url"), **options)  # type: ignore[arg-type]  # the options differ in type
        self.nim = AsyncNeMoMicroservices(base_url=address(nmp, "nim_base_url"), **options)  # type: ignore[arg-type]
        self._said = ""

    async def __aenter__(self) -> Services:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.nemo.close()
        await self.nim.close()

    async def ask(self, service: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the answer to a call that may be made twice; a service that is down or busy is waited for.

        Args:
            service: its name, for messages: Customizer, Evaluator, Deployment Manager, NIM.

        Raises:
            NotFoundError, ConflictError: the service says so.
            RefusedJobError: it says that the call is wrong.
            JobError: it refuses us, or has not answered for `lost_minutes`.
        """
        patience = self.patience(service)
        while True:
            try:
                return await self.ask_once(service, call)
            except Unsure as unsure:
                await patience.pause(unsure)

    def patience(self, service: str) -> Patience:
        """Return what waits between calls that fail, up to `lost_minutes` of them alone."""
        return patience_with(service, self.config, self.say)

    async def ask_once(self, service: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the answer to a call that must not be made twice.

        Raises:
            Unsure: it failed, and it is open whether the service did what it was asked to.
            RefusedJobError, JobError, NotFoundError, ConflictError: as `ask`.
        """
        try:
            return await call()
        except (NotFoundError, ConflictError):
            raise
        except APIError as error:
            if not is_transient(error):
                raise explain(service, error) from None
            raise Unsure(reason(error)) from error

    def tell(self, line: str) -> None:
        """Say something, once as long as nothing else is said."""
        if line != self._said:
            self.say(line)
        self._said = line

    def lock(self) -> AsyncFileLock:
        """Return the lock under which places are counted and taken, by all runs on this machine."""
        name = hashlib.sha256(f"{self.nmp.nemo_base_url}\0{self.nmp.nmp_namespace}".encode()).hexdigest()[:16]
        path = Path(resolve_path("state/nemo")) / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return AsyncFileLock(path)


class Pauses:
    """The time between two looks at something: longer while there is no news, short again after some."""

    def __init__(self, seconds: float) -> None:
        self._first = self._next = seconds
        self._seen: object = None

    async def wait(self, seen: object) -> None:
        """Wait; `seen` is what was found: where it differs from the last time, there is news."""
        self._next = self._first if seen != self._seen else min(self._next * 1.3, 6 * self._first)
        self._seen = seen
        await asyncio.sleep(self._next * random.uniform(0.85, 1.15))


def address(nmp: NmpConfig, name: str) -> str:
    """Return one of the addresses in `nmp_config`.

    Raises:
        ConfigError: it is not there.
    """
    value = getattr(nmp, name)
    if not value:
        raise ConfigError(f"nmp_config.{name}: missing, and required by runtime nemo: its address")
    return str(value)


def auth_headers(nmp: NmpConfig) -> dict[str, str]:
    """Return the header with the key, where there is one.

    Raises:
        ConfigError: the variable that should hold it is not set.
    """
    if nmp.key_variable is None:
        return {}
    key = os.environ.get(nmp.key_variable, "").strip()
    if not key:
        raise ConfigError(f"nmp_config.key_variable: the environment variable {nmp.key_variable} is not set")
    register(key)
    return {"Authorization": f"Bearer {key}"}


def is_transient(error: APIError) -> bool:
    """Return whether a call may do better when it is made again."""
    if isinstance(error, APIConnectionError):
        return True
    return isinstance(error, APIStatusError) and (
        error.status_code in (408, 425, 429) or error.status_code >= 500
    )


def reason(error: Exception) -> str:
    """Return what a service or the way to it said, in a few words."""
    if isinstance(error, APITimeoutError):
        return f"{error.request.url}: no answer in time"
    if isinstance(error, APIConnectionError):
        cause = str(error.__cause__ or "").strip()
        return f"{error.request.url}: cannot be reached{f' ({cause})' if cause else ''}"
    if isinstance(error, APIStatusError):
        return f"status {error.status_code}: {_detail(error)}"
    return str(error).strip()[:1000] or type(error).__name__


def explain(service: str, error: APIError) -> JobError:
    """Return what a refusal means for the user, in a sentence."""
    if not isinstance(error, APIStatusError):
        return JobError(f"NeMo {service}: an answer that its client does not understand: {reason(error)}")
    detail = _detail(error)
    if error.status_code in (401, 403):
        return RefusedJobError(
            f"NeMo {service} refuses us ({error.status_code}): {detail}; set nmp_config.key_variable to the "
            "environment variable with a token that may do this"
        )
    return RefusedJobError(f"NeMo {service} refuses the request ({error.status_code}): {detail}")


def _detail(error: APIStatusError) -> str:
    """Return the message in an error's body: {"detail"}, {"message"}, {"error": …}, or the body itself."""
    body: object = error.body
    for name in ("detail", "message", "error"):
        if isinstance(body, dict) and name in body:
            body = body[name]
    return str(body or error.message)[:500]


def patience_with(service: str, config: NemoConfig, say: Say) -> Patience:
    """Return what waits between calls of a service that fail, up to `lost_minutes` of them alone."""
    minutes = config.lost_minutes
    end = f"NeMo {service}: no good answer for {minutes:g} min (runtime.nemo.lost_minutes)"
    return Patience(
        minutes * 60,
        lambda error: JobError(f"{end}: {reason(error)}"),
        asked=_retry_after,
        say=lambda error: say(f"WARNING NeMo {service}: {reason(error)}; trying again"),
    )


def _retry_after(error: Exception) -> float:
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return min(seconds_to_wait(response and response.headers.get("retry-after")) or 0.0, 300.0)
