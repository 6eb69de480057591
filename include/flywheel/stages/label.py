"""Stage 1, label: the teacher labels the headlines before the cutoff, and is compared with people.

    in    the config's sources of kind `headlines`, the workload, the answers that the store already has
    out   labelled.jsonl.gz: one log record a line; label.quarantine.jsonl: what was set aside, and why;
          label.disagreements.csv: where people and the teacher differ, for a person to read;
          label.human.jsonl: persons' labels of texts with a time, for the check of the verdict;
          label.json: the result, also when the gate against human labels then stops the run

Sources with human labels are read first, so that a teacher whom people do not agree with stops the run before
the rest is paid for.

One process labels at a time for a store: a lock beside the store (a SQLite file), else in state/locks of the
machine. So nothing is asked twice by two runs at once; the second one waits, then finds the answers.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import BinaryIO

import orjson
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.durable import put_in_place
from flywheel.common.errors import BudgetError, TeacherError
from flywheel.config import Config
from flywheel.config.source import SourceConfig
from flywheel.config.store import StoreConfig
from flywheel.runs.plan import Plan
from flywheel.sources import Headline, SourceSpan, SourceSpans, check_sources, read_headlines
from flywheel.sources.quarantine import Quarantine
from flywheel.stages.forecast import held_answers
from flywheel.stages.settled import Settled
from flywheel.stores import open_store
from flywheel.teacher.agreement import Agreement, check_gate
from flywheel.teacher.configured import client_of
from flywheel.teacher.endpoint import Endpoint, resolve_endpoints
from flywheel.teacher.labeller import Labeller, LabellingCounts, Outcome
from flywheel.teacher.month import beside_lock, month_of, sums_file
from flywheel.teacher.progress import LabellingProgress
from flywheel.teacher.request import Requests
from flywheel.teacher.spending import TOKENS_PER_BYTE, Spending
from flywheel.workloads.versions import versions_of

log = logging.getLogger(__name__)

RECORDS_FILE = "labelled.jsonl.gz"
QUARANTINE_FILE = "label.quarantine.jsonl"
RESULT_FILE = "label.json"


class LabelResult(BaseModel):
    """What the stage gave.

    Attributes:
        headlines: usable headlines before the cutoff.
        labelled: of these, the ones with a label; those with a time are in `records_file`.
        undated: of these, the ones without a time: they serve the check of the teacher and become no record.
        asked: answers asked of the teacher by this try of the stage, and paid for.
        found: headlines whose answer was there before, or that came twice.
        quarantined: rows and answers set aside, in `quarantine_file`; `reasons` counts the headlines without
            a label by what is wrong.
        later: headlines that are known at or after the cutoff, left for later runs.
        passed_over: rows with neither a time nor a person's label, which serve nothing and are not asked.
        left: headlines without an answer, for the budget was spent; another run goes on with them.
        marked: headlines that hold what could speak in a prompt (`flywheel.workloads.markers`), by what it
            is; it is broken up where they are asked.
        records_file: name of the JSONL file of log records in the run's folder, compressed with gzip.
        disagreements_file: name of the CSV file of the headlines that people and the teacher label
            differently; empty without any.
        calls: requests sent in this run, failed ones too, killed tries of the stage included; so are the
            tokens and the cost.
        cached_tokens: of the prompts', found in the endpoint's prefix cache, as far as it says so.
        estimated: answers whose tokens the endpoint did not tell: tokens and cost are estimated there.
        cost: by teacher.prices, in `currency`.
        human: the comparison with human labels; None without any.
        sources: from when to when the texts of each source are.
        warnings: what speaks against these times.
        seconds: wall-clock time of the stage.
    """

    model_config = ConfigDict(frozen=True)

    headlines: int
    labelled: int
    asked: int
    found: int
    quarantined: int
    reasons: dict[str, int] = {}
    later: int
    left: int = 0
    marked: dict[str, int] = {}
    undated: int = 0
    passed_over: int = 0
    records_file: str
    quarantine_file: str
    disagreements_file: str = ""
    calls: int = 0
    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int
    estimated: int = 0
    cost: float = 0.0
    currency: str = ""
    human: Agreement | None
    sources: tuple[SourceSpan, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float


def label(plan: Plan, folder: Path, progress: Callable[[int], None] | None = None) -> LabelResult:
    """Label the headlines before the plan's cutoff.

    Args:
        folder: of the run; the stage writes its files there.
        progress: called with the number of labelled headlines from time to time.

    Raises:
        SourceError: a source cannot be read at all.
        TeacherError: the teacher cannot be used, or people do not agree with it (see `teacher.gate`).
        BudgetError: `teacher.budget` is spent; the message says what is left.
        StoreError: the store cannot be used.
    """
    started = time.monotonic()
    if _sources(plan):  # logs as well, so that a bad file ends the run before the first answer is paid for
        check_sources((f"source.{index}", source) for index, source in enumerate(plan.config.source))
    config, teacher = plan.config, plan.config.teacher
    read: Counter[str] = Counter()
    spans = SourceSpans()
    with only_one(config.store), Quarantine(folder / QUARANTINE_FILE) as quarantine:
        spending = spending_of(config, plan.run_id)
        aside = folder / f".{RECORDS_FILE}.aside"
        with _compressed(aside) as file, Settled.into(plan, folder, file, quarantine) as settled:
            counts, budget_spent = _run(plan, spending, quarantine, read, spans, settled.take, progress)
        put_in_place(aside, folder / RECORDS_FILE)
        quarantined = quarantine.count
        spending.forget()
    _warn(read, spending)
    settled.warn(QUARANTINE_FILE)
    result = LabelResult(
        headlines=counts.headlines,
        labelled=counts.headlines - counts.set_aside - counts.left,
        asked=counts.asked,
        found=counts.found,
        quarantined=quarantined,
        reasons=settled.without_label.reasons(),
        later=read["later"],
        left=counts.left,
        marked=dict(settled.marked),
        undated=settled.undated,
        passed_over=read["passed_over"],
        records_file=RECORDS_FILE,
        quarantine_file=QUARANTINE_FILE,
        disagreements_file=settled.disagreements_file,
        calls=spending.calls,
        prompt_tokens=spending.prompt_tokens,
        cached_tokens=spending.cached_tokens,
        completion_tokens=spending.completion_tokens,
        estimated=spending.estimated,
        cost=round(spending.cost, 6),
        currency=teacher.prices.currency if spending.cost else "",
        human=settled.agreement.result(),
        sources=spans.all(),
        warnings=spans.doubts(
            ArtifactRoot(config.artifacts.root), (plan.workload_id, plan.client_id), plan.run_id, plan.cutoff
        ),
        seconds=round(time.monotonic() - started, 3),
    )
    (folder / RESULT_FILE).write_bytes(
        orjson.dumps(result.model_dump(mode="json"), option=orjson.OPT_INDENT_2)
    )
    check_gate(result.human, teacher.gate)
    if budget_spent:
        left = _left(budget_spent, result, spending)
        if teacher.budget.when_spent == "stop":
            raise BudgetError(left)
        log.warning("%s", left)
    return result


def _warn(read: Counter[str], spending: Spending) -> None:
    """Say in the log what is missing in the sources and in the endpoint's answers."""
    if read["passed_over"]:
        log.warning(
            "%d texts have neither a time nor a person's label: they serve nothing and were passed over; "
            "name the column with their times (source.columns.timestamp)",
            read["passed_over"],
        )
    if spending.estimated:
        log.warning(
            "%d answers do not say what they used (usage): their tokens and cost are estimated, at %g tokens "
            "a byte, and count for budgets and rates all the same",
            spending.estimated,
            TOKENS_PER_BYTE,
        )


@contextmanager
def _compressed(path: Path) -> Iterator[BinaryIO]:
    """Open a file for records, compressed: each repeats the prompt, which gzip's level 1 makes small."""
    with (
        path.open("wb") as file,
        # Neither name nor time goes in, so that the same records are the same bytes.
        gzip.GzipFile("", "wb", 1, file, mtime=0) as compressed,
        BufferedWriter(compressed, 1 << 17) as buffered,
    ):
        yield buffered


def _left(spent: BudgetError, result: LabelResult, spending: Spending) -> str:
    """Return what was spent, and what is left to do."""
    each = spending.tokens / max(1, spending.calls)
    costs = spending.cost / max(1, spending.calls) * result.left
    about = f"about {each * result.left:,.0f} tokens" + (f" and {spending.money(costs)}" if costs else "")
    when = "in the next month" if "month_budget" in str(spent) else "to go on with a new budget"
    return (
        f"{spent}. {result.labelled:,} headlines are labelled, {result.left:,} have no answer yet ({about}). "
        f"All answers are kept: run this again {when}, or raise it"
    )


def _sources(plan: Plan) -> list[tuple[str, SourceConfig]]:
    """Return the sources of headlines with their keys, those with human labels first.

    They belong to the client that the config names: a run for another has none.
    """
    if not plan.owns_sources:
        return []
    found = [
        (f"source.{index}", source)
        for index, source in enumerate(plan.config.source)
        if source.kind == "headlines"
    ]
    return sorted(found, key=lambda item: item[1].columns.human_label is None)


def _headlines(
    plan: Plan, quarantine: Quarantine, read: Counter[str], spans: SourceSpans
) -> Iterator[Headline]:
    for key, source in _sources(plan):
        log.info("reading %s", source.path)
        yield from read_headlines(
            source, quarantine, key=key, before=plan.cutoff, counts=read, span=spans.of(key, source)
        )
    if plan.config.serving.log == "all":
        from flywheel.stages.watch import production_texts

        yield from production_texts(
            plan.config, plan.workload, (plan.workload_id, plan.client_id), plan.cutoff
        )


def _run(
    plan: Plan,
    spending: Spending,
    quarantine: Quarantine,
    read: Counter[str],
    spans: SourceSpans,
    settle: Callable[[Headline, Outcome], None],
    progress: Callable[[int], None] | None,
) -> tuple[LabellingCounts, BudgetError | None]:
    """Run the labeller in an event loop of its own."""
    teacher = plan.config.teacher
    requests = Requests.of(plan.workload, teacher)
    versions = versions_of(ArtifactRoot(plan.config.artifacts.root), plan.workload.id)
    held = held_answers(plan, [version.workload for version in versions])
    if plan.workload.has_prompt and requests.shared_before < 0.5:
        log.warning(
            "only %.0f %% of the prompt stand before the text: put the text late in the workload's template, "
            "so that the endpoint's prefix cache finds the rest",
            100 * requests.shared_before,
        )
    # The address is looked up before the event loop, which Airflow's client must not run in; that there is
    # none matters only when there is something to ask.
    endpoints: list[Endpoint] | TeacherError
    try:
        endpoints = resolve_endpoints(teacher)
    except TeacherError as error:
        endpoints = error

    async def run() -> tuple[LabellingCounts, BudgetError | None]:
        async with client_of(teacher, endpoints, spending) as client:
            told = LabellingProgress(client, read, _sources(plan))

            def update(counts: LabellingCounts) -> None:
                told.update(counts)
                if progress is not None:
                    progress(counts.headlines)

            labeller = Labeller(
                plan.workload,
                requests,
                client,
                store,
                workers=teacher.concurrency * max(1, client.endpoints),
                ask_again=teacher.ask_again,
                progress=update,
                held=held,
                night=plan.run_id,
                owner=(plan.workload_id, plan.client_id),
            )
            counts = await labeller.run(_headlines(plan, quarantine, read, spans), settle)
            log.info("%s; %d attempts were repeated", told.line(counts), client.retries)
            return counts, labeller.budget_spent

    # Answers are looked up by a hash, so a large cache would fill with pages that nobody asks for again.
    with open_store(plan.config.store, cache_mb=4) as store:
        return asyncio.run(run())


@contextmanager
def only_one(store: StoreConfig) -> Iterator[None]:
    """Hold the lock of labelling into a store; a process that dies lets go of it."""
    path = beside_lock(store, "lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        log.info("another run is labelling into this store; waiting for it (%s)", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def spending_of(config: Config, run_id: str) -> Spending:
    """Return what a run has spent, and what it and its month may still spend; for who holds `only_one`."""
    teacher, month = config.teacher, month_of(config, run_id)
    return Spending(teacher.budget, teacher.prices, path=sums_file(config.store), run_id=run_id, month=month)
