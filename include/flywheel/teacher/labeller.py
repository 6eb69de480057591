"""Labels a stream of headlines: looks for the answer that is there, asks the teacher for the others.

    headlines -> window (in order) -> known answer? -> queue -> workers ask -> answers made durable -> sink

- An answer is paid for once, ever. It is kept under the hash of its request, on the disk before it counts; a
  killed run loses the calls in flight and no more. A text that comes twice is asked once.
- Answers that arrive while others are being written are written together next (group commit), so the disk's
  sync costs little at any rate. A worker takes the next question when its answer is on the disk, so a kill
  never loses more answers than there are workers.
- The window bounds what is in memory, and gives the results in the order of the headlines. Reading waits when
  the queue is full, so the whole goes at the pace of the endpoints.
- An answer that is of no use (it names no class, was cut off, is empty, a refusal, a call of a function) is
  asked for again a bounded number of times; then the last one is kept with its reason, and its headline set
  aside. So is one whose call the teacher refuses. Both are asked for on NIGHTS nights (runs) at most. A
  headline whose attempts all failed is set aside for this run alone.
- Ten headlines in a row that no usable answer comes for stop the run, whatever came before: the teacher is
  down, or refuses all, or gives nothing of use. The message says what mends it, and the night does not count
  for these: it was not they who were at fault. Therefore what is of no use is written when an answer of use
  has come after it, or all headlines are through.
- When the budget is spent nothing more is asked; what is on its way still counts, and what has no answer is
  counted, so that the user knows what is left.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from flywheel.common.errors import BudgetError, TeacherError
from flywheel.sources import Headline
from flywheel.stores import Owner, PaidAnswer, RecordStore
from flywheel.teacher.answers import CUT_OFF, EMPTY, Reply
from flywheel.teacher.client import CallError, TeacherClient
from flywheel.teacher.held import HeldAnswers
from flywheel.teacher.known import CONFIDENCE, FAULT, NIGHT, NIGHTS, Known, key_of_night, known_answers
from flywheel.teacher.request import Requests
from flywheel.workloads.labels import without_thinking
from flywheel.workloads.workload import Workload

log = logging.getLogger(__name__)

# Headlines read at once, and between the first without a result and the last read. A call that hangs until
# its time-out holds back the results after it, and must not hold back the calls.
CHUNK = 256
WINDOW = 16384
# Answers gather so long before they are written: 20 ms cost no run anything, and spare the disk.
GATHER_SECONDS = 0.02
FAILURES_IN_A_ROW = 10
NO_CLASS = "the teacher's answer names no class, or several"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a headline: an answer and its label, or the reason why there is none.

    Attributes:
        answer: None where the teacher gave none.
        confidence: how probable the answer was; None where the endpoint was not asked.
        is_left: it was not asked, for the budget is spent.
        workload: the version of the prompt that was answered, where it is not today's.
    """

    answer: str | None = None
    label: str | None = None
    reason: str = ""
    confidence: float | None = None
    is_left: bool = False
    workload: Workload | None = None


@dataclass(slots=True)
class LabellingCounts:
    """What a run of the labeller did.

    Attributes:
        headlines: read and settled.
        asked: answers that the teacher gave, and was paid for.
        found: headlines whose answer was there before, or that came twice in this run.
        set_aside: headlines without a usable answer.
        left: headlines that were not asked, for the budget is spent.
    """

    headlines: int = 0
    asked: int = 0
    found: int = 0
    set_aside: int = 0
    left: int = 0


Sink = Callable[[Headline, Outcome], None]
_LEFT = Outcome(reason="the teacher's budget is spent", is_left=True)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Attributes: key: of the request; nights: on which it was asked before."""

    key: str
    text: str
    outcome: asyncio.Future[Outcome]
    nights: int = 0


class Labeller:
    """Labels headlines with one teacher and one workload.

    Args:
        requests: makes request bodies and keys.
        client: an open client.
        store: keeps the answers.
        workers: most calls at once.
        ask_again: how often an answer that names no class is asked for anew.
        progress: called with the counts, a few times a second at most.
        held: answers to other versions of the prompt whose labels hold.
        night: the run; what was of no use in it is not asked for again in it.
        owner: whose headlines they are; kept with each answer, so that it goes when its owner is forgotten.
    """

    def __init__(
        self,
        workload: Workload,
        requests: Requests,
        client: TeacherClient,
        store: RecordStore,
        *,
        workers: int,
        ask_again: int = 1,
        progress: Callable[[LabellingCounts], None] | None = None,
        held: HeldAnswers | None = None,
        night: str = "",
        owner: Owner | None = None,
    ) -> None:
        self.counts = LabellingCounts()
        self.budget_spent: BudgetError | None = None
        self._ask_again = ask_again
        self._workload = workload
        self._requests = requests
        self._client = client
        self._store = store
        self._workers = workers
        self._progress = progress
        self._held = held
        self._night = night
        self._owner = owner
        self._queue: asyncio.Queue[_Asked | None] = asyncio.Queue(maxsize=workers)
        self._in_flight: dict[str, asyncio.Future[Outcome]] = {}
        self._window: deque[tuple[Headline, asyncio.Future[Outcome]]] = deque()
        self._unwritten: list[tuple[_Asked, PaidAnswer, Outcome]] = []
        # Of no use, since the last answer that was.
        self._useless: list[tuple[_Asked, PaidAnswer, Outcome]] = []
        self._arrived = asyncio.Event()
        self._failures_in_a_row = 0
        self._has_answered = False
        self._last_failure = ""
        self._reported = 0.0

    async def run(self, headlines: Iterator[Headline], sink: Sink) -> LabellingCounts:
        """Label all headlines; the sink gets each with its outcome, in order.

        Raises:
            TeacherError: the teacher cannot be used. The answers that came before are kept. A spent budget
                is no error here, but `budget_spent`.
            SourceError, StoreError: from the headlines and the store.
        """
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write_as_they_come())
                workers = [group.create_task(self._work()) for _ in range(self._workers)]
                await self._feed(headlines, sink)
                for _ in workers:
                    await self._queue.put(None)
                writer.cancel()
            # A first refusal is the text's where the teacher has answered others.
            self._useless = [
                row for row in self._useless if self._has_answered or row[0].nights or row[1].model
            ]
            self._note_useless()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            await self._write()
        if self.counts.asked + self.counts.found == 0 and self.counts.set_aside:
            raise TeacherError(self._last_failure)
        return self.counts

    async def _feed(self, headlines: Iterator[Headline], sink: Sink) -> None:
        """Read headlines, queue what must be asked, and hand over what is settled."""
        while chunk := list(islice(headlines, CHUNK)):
            keys = [self._requests.key(headline.text) for headline in chunk]
            # In flight comes first: an answer leaves there only when the store has it.
            waiting = {key: self._in_flight[key] for key in keys if key in self._in_flight}
            unknown = [key for key in dict.fromkeys(keys) if key not in waiting]
            known = await asyncio.to_thread(known_answers, self._store, unknown, self._label_of)
            closed = {key for key, found in known.items() if not found.is_open(self._night)}
            labelled = {key for key in closed if known[key].label is not None}
            if self._owner is not None:
                used = [key_of_night(key, n + 1) for key, found in known.items() for n in range(found.nights)]
                await asyncio.to_thread(self._store.own_answers, self._owner, used)
            held = {}
            if self._held and (missing := {*unknown} - labelled):
                held = await asyncio.to_thread(self._find_held, self._held, chunk, keys, missing)
            for headline, key in zip(chunk, keys, strict=True):
                outcome = waiting.get(key)
                if outcome is not None:
                    self.counts.found += 1
                else:
                    outcome = asyncio.get_running_loop().create_future()
                    waiting[key] = outcome
                    if key in held:
                        self.counts.found += 1
                        outcome.set_result(held[key])
                    elif key in closed:
                        self.counts.found += 1
                        outcome.set_result(_known_outcome(known[key]))
                    elif self.budget_spent:
                        outcome.set_result(_LEFT)
                    else:
                        self._in_flight[key] = outcome
                        nights = known[key].nights if key in known else 0
                        await self._queue.put(_Asked(key, headline.text, outcome, nights))
                self._window.append((headline, outcome))
                await self._hand_over(sink, WINDOW)
        await self._hand_over(sink, 0)

    def _find_held(
        self, answers: HeldAnswers, chunk: list[Headline], keys: list[str], missing: set[str]
    ) -> dict[str, Outcome]:
        texts = {key: headline.text for headline, key in zip(chunk, keys, strict=True) if key in missing}
        return {
            key: Outcome(answer.content, label, confidence=answer.usage.get(CONFIDENCE), workload=workload)
            for key, (answer, label, workload) in answers.find(self._store, texts, self._owner).items()
        }

    async def _hand_over(self, sink: Sink, leave: int) -> None:
        """Give settled headlines to the sink, in order; wait until at most `leave` are left."""
        while self._window and (self._window[0][1].done() or len(self._window) > leave):
            headline, outcome = self._window.popleft()
            settled = await outcome
            self.counts.headlines += 1
            self.counts.left += settled.is_left
            if not settled.is_left:
                self.counts.set_aside += settled.label is None
                sink(headline, settled)
            self._report()

    async def _work(self) -> None:
        while (question := await self._queue.get()) is not None:
            if self.budget_spent:
                self._settle(question, _LEFT)
                continue
            try:
                reply, outcome = await self._ask(question)
            except BudgetError as error:
                self.budget_spent = error
                self._settle(question, _LEFT)
                continue
            except CallError as error:
                advice = self._requests.advice_on(str(error)) if error.refused else ""
                reason = f"{error}; {advice}" if advice else str(error)
                self._count_failure(reason, "calls in a row failed")
                if error.refused:
                    self._set_aside(question, PaidAnswer("", "", int(time.time())), Outcome(reason=reason))
                else:
                    self._settle(question, Outcome(reason=reason))
                continue
            if outcome.label is None:
                self._count_failure(outcome.reason, "answers in a row cannot be used")
                self._set_aside(question, self._answer(reply), outcome)
                continue
            self._failures_in_a_row = 0
            self._has_answered = True
            self._unwritten.append((question, self._answer(reply), outcome))
            self._note_useless()
            await question.outcome

    def _answer(self, reply: Reply) -> PaidAnswer:
        usage = reply.usage
        if reply.confidence is not None:
            usage = {**usage, CONFIDENCE: reply.confidence}
        return PaidAnswer(reply.content, reply.model or self._requests.model, int(time.time()), usage)

    def _set_aside(self, question: _Asked, answer: PaidAnswer, outcome: Outcome) -> None:
        """Settle a headline without a label; its answer is kept when one of use has come.

        Args:
            answer: of no model where the call was refused.
        """
        answer.usage.update({FAULT: outcome.reason, NIGHT: self._night})
        self._useless.append((question, answer, outcome))
        if not question.outcome.done():
            question.outcome.set_result(outcome)

    def _note_useless(self) -> None:
        """Keep what was of no use: the teacher gives answers, so these headlines had their night."""
        self._unwritten += self._useless
        self._useless = []
        self._arrived.set()

    def _count_failure(self, reason: str, what: str) -> None:
        """Note a headline that no usable answer came for.

        Raises:
            TeacherError: it is one too many in a row.
        """
        self._last_failure = reason
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_IN_A_ROW:
            raise TeacherError(f"{FAILURES_IN_A_ROW} {what}; the last: {reason}")

    def _settle(self, question: _Asked, outcome: Outcome) -> None:
        self._in_flight.pop(question.key, None)
        if not question.outcome.done():  # cancelled, where the run is being stopped
            question.outcome.set_result(outcome)

    async def _ask(self, question: _Asked) -> tuple[Reply, Outcome]:
        body = self._requests.body(question.text)
        for _ in range(1 + self._ask_again):
            reply = await self._client.ask(body, again=question.nights > 0)
            self.counts.asked += 1
            outcome = self._outcome(reply.content, reply.confidence, reply.fault)
            # Another answer of so many tokens would be cut off as well.
            if outcome.label is not None or reply.fault == CUT_OFF:
                break
        return reply, outcome

    def _label_of(self, answer: PaidAnswer) -> str | None:
        return self._workload.label_of(answer.content)

    def _outcome(self, content: str, confidence: float | None, fault: str = "") -> Outcome:
        label = self._workload.label_of(content)
        if label is not None:
            return Outcome(content, label, "", confidence)
        if not fault and not without_thinking(content).strip():
            fault = EMPTY
        return Outcome(content, label, f"{NO_CLASS}: {fault}" if fault else NO_CLASS, confidence)

    async def _write_as_they_come(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._arrived.clear()
            await self._write()

    async def _write(self) -> None:
        """Make the answers that came durable; only then do they count."""
        batch, self._unwritten = self._unwritten, []
        if not batch:
            return
        rows = [(key_of_night(question.key, question.nights + 1), answer) for question, answer, _ in batch]
        await asyncio.shield(asyncio.to_thread(self._store.put_answers, rows, self._owner))
        self._client.spending.save()
        for question, _, outcome in batch:
            self._settle(question, outcome)

    def _report(self) -> None:
        now = time.monotonic()
        if self._progress is not None and now - self._reported > 0.3:
            self._reported = now
            self._progress(self.counts)


def _known_outcome(known: Known) -> Outcome:
    """Return what became of a headline whose answer was there before."""
    content = known.answer.content if known.answer.model else None  # refused: no model answered
    confidence = known.answer.usage.get(CONFIDENCE)
    if known.label is not None:
        return Outcome(content, known.label, "", confidence)
    reason = known.fault or NO_CLASS
    if known.nights >= NIGHTS:
        reason += f" (asked for on {known.nights} nights, and not again)"
    return Outcome(content, None, reason, confidence)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that came first: it is the cause, and stopped the other tasks."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
