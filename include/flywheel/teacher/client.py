"""Asks OpenAI-compatible endpoints, many questions at once, and does not give up easily.

A call goes to the endpoint with the most room; how much that is, each endpoint's `Limiter` finds out. A call
is tried again after time-outs, broken connections, malformed answers and the statuses 408, 409, 425, 429 and
5xx, after waits that grow (`Patience`). A server's Retry-After holds back all calls to it, not
only the one it came with. That an endpoint cannot be reached is no attempt of a call: calls wait for one that
is back, and the run stops when none has answered for `outage_seconds`. A refusal that may be the endpoint's
own (a wrong key, an unknown model) breaks an endpoint that has never answered, if it comes twice in a row or
no text can be the reason for it; one that has answered may go on until it refuses `REFUSALS_IN_A_ROW`: it
refused the request for its text where the status can say so, and this call alone where it cannot (401). When
`DEGRADED_IN_A_ROW` requests are said to be at fault, it is the endpoint (NVIDIA's say 400 "DEGRADED function
cannot be invoked"): it is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import httpcore

from flywheel.common.errors import TeacherError, UnusableTeacherError
from flywheel.common.patience import Patience, seconds_to_wait
from flywheel.common.redaction import clean
from flywheel.config.teacher import RateLimits
from flywheel.teacher.answers import (
    CUT_OFF,
    ErrorInAnswerError,
    MalformedError,
    Reply,
    advice_for,
    error_message,
    read_reply,
)
from flywheel.teacher.connections import Connections, HttpAnswer, certificates
from flywheel.teacher.decoding import EncodingError, decoded
from flywheel.teacher.endpoint import Endpoint
from flywheel.teacher.limiter import Limiter
from flywheel.teacher.route import Route
from flywheel.teacher.spending import Spending

log = logging.getLogger(__name__)

RETRIED_STATUSES = frozenset({408, 409, 425, 429})
# The endpoint has too much to do: fewer calls at once will help.
OVERLOAD_STATUSES = frozenset({429, 503, 529})
# The request is at fault and another may not be: its headline is set aside, the others go on.
REFUSED_STATUSES = frozenset({400, 413, 422})
# Some endpoints refuse a text with these (OpenRouter 403, NVIDIA's 202 and 404), others a key or a model.
TEXT_STATUSES = frozenset({202, 403, 404})
# Refusals in a row, such as 401 and 404, of an endpoint that has answered: its key has expired.
REFUSALS_IN_A_ROW = 10
# Of those, such as 400: it is ill, as with a 503, and is waited for. Fewer than the headlines in a row that
# stop the run, so that there is something to wait for.
DEGRADED_IN_A_ROW = 6
# In the texts of OpenSSL's errors: a certificate that is not trusted, and a server that does not speak TLS.
TLS_FAULTS = ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER")
FIRST_BACKOFF_SECONDS = 0.5
MAX_RETRY_AFTER_SECONDS = 120.0
# An endpoint that never answered is more likely a wrong address than one that is down.
FIRST_ANSWER_SECONDS = 20.0


class CallError(Exception):
    """One call got no answer: refused for its text, or failed in all its attempts. Others may do better."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class _TryAgainError(Exception):
    """An attempt failed in a way that may pass.

    Attributes:
        retry_after: seconds that the endpoint asks for.
        is_attempt: False where the call never reached an endpoint.
        is_paid: the endpoint answered, though nobody can read it.
    """

    def __init__(
        self,
        reason: str,
        retry_after: float | None = None,
        *,
        is_attempt: bool = True,
        is_paid: bool = False,
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.is_attempt = is_attempt
        self.is_paid = is_paid


class TeacherClient:
    """A client of one or more endpoints with the same model; use it as an async context manager.

    Args:
        endpoints: or the error that is raised when there is something to ask, and nobody to ask it of.
        concurrency: most calls at once, at each endpoint.
        adaptive: find out how many each carries; False: always `concurrency`.
        timeout_seconds: of one attempt.
        max_attempts: of one call.
        outage_seconds: longest time without an answer from any endpoint.
        rates: what each endpoint allows in a minute.
        spending: counts calls and tokens, and knows the budget.
        first_backoff: bound of the first wait, in seconds.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint] | TeacherError,
        *,
        concurrency: int = 256,
        adaptive: bool = True,
        timeout_seconds: float = 60.0,
        max_attempts: int = 6,
        outage_seconds: float = 120.0,
        rates: RateLimits | None = None,
        spending: Spending | None = None,
        first_backoff: float = FIRST_BACKOFF_SECONDS,
    ) -> None:
        self.retries = 0
        self.spending = spending or Spending()
        self._endpoints = endpoints
        self._concurrency = concurrency
        self._adaptive = adaptive
        self._timeout = timeout_seconds
        self._max_attempts = max_attempts
        self._outage_seconds = outage_seconds
        self._rates = rates or RateLimits()
        self._first_backoff = first_backoff
        self._routes: list[Route] = []
        # Calls that wait for a place, the first come first; and the timer that looks again for one.
        self._waiting: deque[asyncio.Future[Route]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._answered_at: float | None = None
        self._silent_since: float | None = None
        self._lost: TeacherError | None = None  # no endpoint can answer any more

    async def __aenter__(self) -> Self:
        if isinstance(self._endpoints, TeacherError):
            return self
        trusted = certificates()
        for endpoint in self._endpoints:
            try:
                connections = Connections(endpoint, trusted)
            except ValueError as error:
                raise TeacherError(f"the proxy of the environment: {error}") from None
            limiter = Limiter(self._concurrency, adaptive=self._adaptive)
            self._routes.append(Route(endpoint, connections, limiter, self._rates))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer:
            self._timer.cancel()
        for route in self._routes:
            await route.connections.close()

    @property
    def endpoints(self) -> int:
        """How many endpoints there are."""
        return len(self._routes)

    @property
    def in_flight(self) -> int:
        """Calls on their way."""
        return sum(route.limiter.in_flight for route in self._routes)

    @property
    def limit(self) -> int:
        """Calls that may be on their way at once, as far as that is known now."""
        return sum(route.limiter.limit for route in self._routes if route.broken is None)

    async def ask(self, body: bytes, *, again: bool = False) -> Reply:
        """Send one chat-completions request and return its answer.

        Args:
            body: the JSON of the request.
            again: it had no usable answer in another run, so that its refusal says nothing of the endpoint.

        Raises:
            TeacherError: no call can succeed: wrong key, wrong address, unknown model, wrong certificate, or
                no endpoint answers.
            BudgetError: the budget is spent.
            CallError: this call was refused, or all its attempts failed.
        """
        if isinstance(self._endpoints, TeacherError):
            raise self._endpoints
        attempt = 0
        patience = Patience(math.inf, CallError, first=self._first_backoff)
        while True:
            route = await self._place()
            try:
                return await self._attempt(route, body, again)
            except _TryAgainError as error:
                attempt += error.is_attempt
                log.debug("attempt %d of %d: %s", attempt, self._max_attempts, error)
                if attempt >= self._max_attempts:
                    raise CallError(f"{error} ({attempt} attempts)") from None
                wait = patience.failed(error)
                if error.retry_after is not None:
                    # The route is closed until then; the jitter spreads the calls that waited together.
                    wait = min(wait, 1.0)
            except TeacherError as error:
                if error is not route.broken or all(other.broken for other in self._routes):
                    raise
                log.error("%s gets no more calls: %s", route.endpoint.url, error)
                continue
            finally:
                route.limiter.leave()
                self._hand_out()
            self.retries += 1
            await asyncio.sleep(wait)

    async def _place(self) -> Route:
        """Wait for an endpoint that takes a call now, and note the call there."""
        place: asyncio.Future[Route] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._hand_out()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                place.result().limiter.leave()
            raise

    def _hand_out(self) -> None:
        """Give places to the calls that wait, as far as there are any; come back when more will open."""
        now = time.monotonic()
        routes = [route for route in self._routes if route.broken is None]
        while self._waiting:
            if self._waiting[0].done():  # cancelled
                self._waiting.popleft()
                continue
            lost = self._lost or (None if routes else self._routes[0].broken)
            if lost:
                self._waiting.popleft().set_exception(lost)
                continue
            with_room = [route for route in routes if route.has_room]
            ready = [route for route in with_room if route.opens_at <= now]
            if not ready:
                if with_room:
                    self._look_again(min(route.opens_at for route in with_room))
                return
            route = min(ready, key=lambda route: route.load) if len(ready) > 1 else ready[0]
            route.enter()
            self._waiting.popleft().set_result(route)

    def _look_again(self, at: float) -> None:
        if self._timer is not None and not self._timer.cancelled() and self._timer.when() <= at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._timer_rings)

    def _timer_rings(self) -> None:
        self._timer = None
        self._hand_out()

    async def _attempt(self, route: Route, body: bytes, again: bool) -> Reply:
        expected = self.spending.begin(body)
        route.use_tokens(expected)
        sent_at = time.monotonic()
        used = 0
        try:
            reply = await self._call(route, body, sent_at, again)
            used = self.spending.end(
                expected, body, reply.usage, written=reply.written, is_cut_off=reply.fault == CUT_OFF
            )
        except BaseException as error:
            # An answer that cannot be read is paid for all the same.
            is_paid = isinstance(error, _TryAgainError) and error.is_paid
            used = self.spending.end(expected, body, {} if is_paid else None)
            raise
        finally:
            route.use_tokens(used - expected)
        self._answered_at = time.monotonic()
        self._silent_since = None
        route.answered()
        route.limiter.answered(self._answered_at - sent_at)
        return reply

    async def _call(self, route: Route, body: bytes, sent_at: float, again: bool) -> Reply:
        url = route.endpoint.url
        try:
            async with asyncio.timeout(self._timeout):
                answer = await route.connections.post(body)
        except TimeoutError:
            raise self._failed(route, sent_at, f"no answer within {self._timeout:g} s from {url}") from None
        except httpcore.UnsupportedProtocol as error:
            raise self._broken(route, f"{url}: {error}") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as error:
            if any(fault in str(error) for fault in TLS_FAULTS):
                raise self._broken(route, f"{url}: {error}") from None
            reason = f"{url}: {str(error) or type(error).__name__}"
            unreached = isinstance(error, httpcore.ConnectError)
            raise self._failed(route, sent_at, reason, is_attempt=not unreached) from None
        except EncodingError as error:
            raise self._failed(route, sent_at, f"{url}: {error}") from None
        return self._reply(route, answer, sent_at, again)

    def _reply(self, route: Route, answer: HttpAnswer, sent_at: float, again: bool) -> Reply:
        status, url = answer.status, route.endpoint.url
        try:
            body = decoded(answer.body, answer.headers.get("content-encoding", ""))
        except EncodingError as error:
            if status == 200:
                reason = f"the answer of {url} cannot be read: {error}"
                if error.is_unknown and not route.has_answered:
                    raise self._broken(route, reason) from None
                raise self._failed(route, sent_at, reason, is_paid=True) from None
            body = f"(what it says cannot be read: {error})".encode()
        if status == 200:
            try:
                return read_reply(body)
            except MalformedError as error:
                raise self._failed(route, sent_at, str(error), is_paid=True) from None
            except ErrorInAnswerError as error:
                said, said_as = str(error), f"200 with an error of status {error.status}"
                status = error.status
        else:
            said, said_as = error_message(body), str(status)
        message = f"the teacher at {url} said {said_as}: {route.endpoint.without_secrets(said)}"
        if status in RETRIED_STATUSES or status >= 500:
            wait = seconds_to_wait(answer.headers.get("retry-after"))
            if wait is not None:
                wait = min(wait, MAX_RETRY_AFTER_SECONDS)
                route.close_for(wait)
            if status in OVERLOAD_STATUSES:
                route.limiter.refused(sent_at)
            if status >= 500:
                raise self._failed(route, sent_at, message, wait)
            raise _TryAgainError(message, wait)
        route.refusals += 1
        if status in REFUSED_STATUSES:
            if route.has_answered and route.refusals >= DEGRADED_IN_A_ROW:
                raise self._failed(route, sent_at, message, is_attempt=False)
            route.is_alive()
            raise CallError(message, refused=True)
        advised = f"{message}; {advice_for(status, answer.headers.get('location'))}"
        # Two first calls in a row are not refused for their texts; where there is another endpoint, ask that.
        may_be = status in TEXT_STATUSES and (again or (route.refusals == 1 and self.endpoints == 1))
        if (route.has_answered or may_be) and route.broken is None and route.refusals < REFUSALS_IN_A_ROW:
            route.is_alive()
            # A key that expires while answers are on their way says nothing of the texts.
            refused = status in TEXT_STATUSES
            raise CallError(message if route.has_answered or again else advised, refused=refused)
        raise self._broken(route, advised)

    def _failed(
        self,
        route: Route,
        sent_at: float,
        reason: str,
        retry_after: float | None = None,
        *,
        is_attempt: bool = True,
        is_paid: bool = False,
    ) -> _TryAgainError:
        """Note a failed call; returns the error to raise.

        Raises:
            TeacherError: no endpoint has answered for too long.
        """
        reason = clean(reason)
        route.has_failed(sent_at, reason)
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = sent_at
        patience = self._outage_seconds
        if self._answered_at is None:
            patience = min(patience, FIRST_ANSWER_SECONDS)
        silence = now - max(self._silent_since, self._answered_at or 0.0)
        working = [route for route in self._routes if route.broken is None and not route.is_ejected]
        if silence > patience and not working:
            self._lost = TeacherError(
                f"no endpoint has answered for {silence:.0f} s; the last failure: {reason}"
            )
            raise self._lost
        return _TryAgainError(reason, retry_after, is_attempt=is_attempt, is_paid=is_paid)

    def _broken(self, route: Route, reason: str) -> TeacherError:
        """Note that an endpoint can answer no call; returns the error to raise."""
        if route.broken is None:
            route.broken = UnusableTeacherError(reason)  # which cleans it
        return route.broken
