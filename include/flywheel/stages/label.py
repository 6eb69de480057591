"""Stage 1, label: the teacher labels the headlines before the cutoff, and is compared with people.

    in    the config's sources of kind `headlines`, the workload, the answers that the store already has
    out   labelled.jsonl.gz: one log record a line; label.quarantine.jsonl: what was set aside, and why;
          label.json: the result, also when the gate against human labels then stops the run

One process labels at a time for a store: a lock beside the store (a SQLite file), else in state/locks of the
machine. So nothing is asked twice by two runs at once; the second one waits, then finds the answers.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
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

from flywheel.artifacts import key_of
from flywheel.config import resolve_path
from flywheel.config.schema import StoreConfig, TeacherConfig
from flywheel.errors import TeacherError
from flywheel.plan import Plan
from flywheel.quarantine import Quarantine
from flywheel.records import make_record
from flywheel.sources import Headline, read_headlines
from flywheel.stores import open_store
from flywheel.teacher.agreement import Agreement, AgreementCounter, check_gate
from flywheel.teacher.client import TeacherClient
from flywheel.teacher.endpoint import Endpoint, resolve_endpoint
from flywheel.teacher.labeller import Counts, Labeller, Outcome
from flywheel.teacher.request import Requests
from flywheel.workload import Workload

log = logging.getLogger(__name__)

RECORDS_FILE = "labelled.jsonl.gz"
QUARANTINE_FILE = "label.quarantine.jsonl"
RESULT_FILE = "label.json"


class LabelResult(BaseModel):
    """What the stage gave.

    Attributes:
        headlines: usable headlines before the cutoff.
        labelled: of these, the ones with a label, which are in `records_file`.
        asked: answers asked of the teacher, and paid for.
        found: headlines whose answer was there before, or that came twice.
        quarantined: rows and answers set aside, in `quarantine_file`.
        later: headlines at or after the cutoff, left for later runs.
        records_file: name of the JSONL file of log records in the run's folder, compressed with gzip.
        human: the comparison with human labels; None without any.
        seconds: wall-clock time of the stage.
    """

    model_config = ConfigDict(frozen=True)

    headlines: int
    labelled: int
    asked: int
    found: int
    quarantined: int
    later: int
    records_file: str
    quarantine_file: str
    prompt_tokens: int
    completion_tokens: int
    human: Agreement | None
    seconds: float


def label(plan: Plan, folder: Path, progress: Callable[[int], None] | None = None) -> LabelResult:
    """Label the headlines before the plan's cutoff.

    Args:
        folder: of the run; the stage writes its files there.
        progress: called with the number of labelled headlines from time to time.

    Raises:
        SourceError: a source cannot be read at all.
        TeacherError: the teacher cannot be used, or people do not agree with it (see `teacher.gate`).
        StoreError: the store cannot be used.
    """
    started = time.monotonic()
    config = plan.config
    workload = plan.workload
    read: Counter[str] = Counter()
    agreement = AgreementCounter(workload)
    with _only_one(config.store), Quarantine(folder / QUARANTINE_FILE) as quarantine:
        aside = folder / f".{RECORDS_FILE}.aside"
        with _compressed(aside) as file:

            def settle(headline: Headline, outcome: Outcome) -> None:
                if headline.human_label is not None and (outcome.label or outcome.answer):
                    agreement.add(headline.human_label, outcome.label)
                if outcome.label is None:
                    quarantine.add(headline.file, headline.line, outcome.reason, headline.text)
                    return
                record = make_record(
                    workload_id=plan.workload_id,
                    client_id=plan.client_id,
                    timestamp=headline.timestamp,
                    model=config.teacher.model,
                    messages=workload.messages(headline.text),
                    answer=outcome.answer,
                    label=outcome.label,
                )
                file.write(orjson.dumps(record.to_json(), option=orjson.OPT_APPEND_NEWLINE))

            headlines = _headlines(plan, quarantine, read)
            counts = _run(config.teacher, config.store, workload, headlines, settle, progress)
        os.replace(aside, folder / RECORDS_FILE)
        quarantined = quarantine.count
    if agreement.unknown:
        names = ", ".join(repr(name) for name, _ in agreement.unknown.most_common(5))
        log.warning("%d human labels are no class or alias: %s", agreement.unknown.total(), names)
    result = LabelResult(
        headlines=counts.headlines,
        labelled=counts.headlines - counts.set_aside,
        asked=counts.asked,
        found=counts.found,
        quarantined=quarantined,
        later=read["later"],
        records_file=RECORDS_FILE,
        quarantine_file=QUARANTINE_FILE,
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        human=agreement.result(),
        seconds=round(time.monotonic() - started, 3),
    )
    (folder / RESULT_FILE).write_bytes(
        orjson.dumps(result.model_dump(mode="json"), option=orjson.OPT_INDENT_2)
    )
    check_gate(result.human, config.teacher.gate)
    return result


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


def _headlines(plan: Plan, quarantine: Quarantine, read: Counter[str]) -> Iterator[Headline]:
    for index, source in enumerate(plan.config.source):
        if source.kind == "headlines":
            log.info("reading %s", source.path)
            key = f"source.{index}"
            yield from read_headlines(source, quarantine, key=key, before=plan.cutoff, counts=read)


def _run(
    teacher: TeacherConfig,
    store_config: StoreConfig,
    workload: Workload,
    headlines: Iterator[Headline],
    settle: Callable[[Headline, Outcome], None],
    progress: Callable[[int], None] | None,
) -> Counts:
    """Run the labeller in an event loop of its own."""
    requests = Requests(
        workload, model=teacher.model, temperature=teacher.temperature, max_tokens=teacher.max_tokens
    )
    # The address is looked up before the event loop, which Airflow's client must not run in; that there is
    # none matters only when there is something to ask.
    endpoint: Endpoint | TeacherError
    try:
        endpoint = resolve_endpoint(teacher)
    except TeacherError as error:
        endpoint = error

    async def run() -> Counts:
        client = TeacherClient(
            endpoint,
            concurrency=teacher.concurrency,
            timeout_seconds=teacher.timeout_seconds,
            max_attempts=teacher.max_attempts,
        )
        async with client:
            labeller = Labeller(
                workload, requests, client, store, workers=teacher.concurrency, progress=progress
            )
            counts = await labeller.run(headlines, settle)
            if client.retries:
                log.info("%d attempts were repeated", client.retries)
            return counts

    with open_store(store_config) as store:
        return asyncio.run(run())


@contextmanager
def _only_one(store: StoreConfig) -> Iterator[None]:
    """Hold the lock of labelling into a store; a process that dies lets go of it."""
    path = Path(f"{resolve_path(store.path)}.label.lock") if store.type == "sqlite" else _lock_path(store)
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


def _lock_path(store: StoreConfig) -> Path:
    return Path(resolve_path("state/locks")) / f"label-{key_of(store.model_dump(mode='json'))}.lock"
