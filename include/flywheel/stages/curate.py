"""Stage 3, curate: the store's records before the cutoff become a dataset.

    in    records of the plan's workload and client known before its cutoff
    out   datasets/<key>/ in the artifact root: train.jsonl, val.jsonl, calibration.jsonl, eval.jsonl,
          prompts.json (what lines share: flywheel.workloads.lines), events.jsonl, summary.json

A line is `{"id", "timestamp", "known_at", "event", "text", "label", "labelled_by", "messages"}`: the event by
the id of its first record, the text by a number of its words, the messages those of the request and the
teacher's answer: of a classification the class in the workload's own form, whatever the teacher wrote around
it (all candidates learn what they are asked for, and nobody's thoughts), else as logged; `tools` are there
where the request offers any, and the arguments of calls are then objects
(data_split_config.parse_function_arguments). The workload's type is told from the
labels, unless the config names it. The first N lines of train.jsonl are a stratified sample for every N, so
training sets of different sizes are nested; one eval set serves all sizes and students. Of near-duplicate
texts the earliest record of the strongest word is kept, and texts of one event are on one side, so none
straddles train and eval. A size that the data does not reach becomes one candidate on all training records,
named by their number. `limit` takes the newest records. The same records and settings give the same key,
and a dataset that is there is not built again.

The records are read twice, once to choose and once to write, so that memory holds no prompts.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.common.collecting import rare_collections
from flywheel.common.errors import NotEnoughRecordsError
from flywheel.config.evaluation import WorkloadType
from flywheel.curation.posted import examinable, split_samples
from flywheel.curation.prompts import Sift, notes_of, renamed
from flywheel.curation.reading import own_workload, reduced
from flywheel.curation.result import CurateResult, SizeResult
from flywheel.curation.samples import Samples, collect
from flywheel.curation.seen import EVENTS_FILE, write_events
from flywheel.curation.summary import summary_of
from flywheel.curation.telling import check_can_tell
from flywheel.runs.plan import Candidate, Plan
from flywheel.stores import RecordStore, open_store
from flywheel.workloads.labels import without_thinking
from flywheel.workloads.lines import LineWriter
from flywheel.workloads.markers import in_conversation, in_tools
from flywheel.workloads.records import Record
from flywheel.workloads.tool_calls import is_functions, with_arguments
from flywheel.workloads.workload import Workload

log = logging.getLogger(__name__)

# Raised when the code changes what comes out of the same input: datasets are then built anew.
CODE_VERSION = 14
WRITE_BATCH = 500
# A time beyond that of any record.
_ALWAYS = 1 << 40
# Records are written in an order of their own, so that each is a look-up anywhere in the file: of a million
# records (0.2 GB) all pages then stay in memory.
CACHE_MB = 256


def curate(plan: Plan, folder: Path) -> CurateResult:
    """Build the dataset of the records before the plan's cutoff, or find it.

    Args:
        folder: of the run; nothing is written there.

    Raises:
        NotEnoughRecordsError: fewer records than the configuration asks for, none to train on, or an eval
            set on which one answer is always right.
        StoreError, ArtifactError: the store or the artifact root cannot be used.
    """
    started = time.monotonic()
    config = plan.config.data_split_config
    workload = own_workload(plan)
    root = ArtifactRoot(plan.config.artifacts.root)
    with open_store(plan.config.store, cache_mb=CACHE_MB, rereads=True) as store, rare_collections():
        scope = (plan.workload_id, plan.client_id, plan.cutoff)
        known = dict(store.read_known(*scope))
        ids = list(known)
        sift = Sift.of(plan, workload, root)
        if config.limit:
            if sift.others and len(ids) > config.limit:
                # The limit is of records that go in: another version's must not take their places.
                there = store.read(plan.workload_id, plan.client_id, plan.cutoff)
                ids = [record.id for record in Sift(workload, sift.others).through(there)]
            ids = ids[-config.limit :]
        key = key_of(
            "dataset",
            CODE_VERSION,
            # What was said of a record later, by a stronger word, may change what stays.
            hashlib.sha256("".join(f"{id}{known[id]:x} " for id in sorted(ids)).encode()).hexdigest(),
            store.counts_by_labeller(*scope),
            config.model_dump(mode="json"),
            workload.sha256 if workload else None,
            plan.config.evaluation_config.workload_type,
            plan.workload.classes,
            sift.key,
        )
        found = root.lookup("datasets", key) is not None
        if not found:
            _build(plan, store, ids, sift, key, root, folder)
    dataset = root.fetch("datasets", key)
    summary = orjson.loads((dataset / "summary.json").read_bytes())
    there = summary["train"]
    kind = _workload_type(plan, summary["per_class"])
    check_can_tell(_whose(plan), kind, summary["per_class"], dataset / "eval.jsonl")
    beyond = _beyond(plan, there)
    summary["notes"] = [*summary["notes"], *([beyond] if beyond else [])]
    result = CurateResult(
        **{**summary, "cutoff": plan.cutoff, "workload_type": kind},
        found=found,
        sizes=_sizes(plan, dataset / "train.jsonl", there),
        candidates=_candidates(plan, there),
        seconds=round(time.monotonic() - started, 3),
    )
    for note in result.notes:
        log.warning("%s", note)
    log.info("candidates: %s", ", ".join(candidate.name for candidate in result.candidates))
    return result


def _workload_type(plan: Plan, labels: Iterable[str]) -> WorkloadType:
    """Return the type that the config names, else what the labels of the records say."""
    given = plan.config.evaluation_config.workload_type
    if given != "auto":
        return given
    if any(is_functions(label) for label in labels):
        return "tool_calling"
    return "classification" if plan.workload.classes else "generic"


def _build(
    plan: Plan,
    store: RecordStore,
    ids: Sequence[str],
    sift: Sift,
    key: str,
    root: ArtifactRoot,
    folder: Path,
) -> None:
    """Choose records and write the dataset."""
    config = plan.config.data_split_config
    samples = collect(
        reduced(plan, store, ids, sift),
        config,
    )
    log.info(
        "%d records: %d duplicates and %d near-duplicates left out, %d used",
        len(ids),
        samples.duplicates,
        samples.near_duplicates,
        len(samples.ids),
    )
    prompts = sift.counts()
    beyond = _beyond_cutoff(plan, store, folder)
    _check_enough(plan, len(ids), samples, [*notes_of(prompts), *beyond])
    parts = split_samples(samples, config)
    if len(parts.train) == 0:
        raise NotEnoughRecordsError(
            f"{_whose(plan)}: none of {len(samples.ids)} records is left to train on: data_split_config "
            f"holds {len(parts.eval)} out for eval, {len(parts.val)} for validation, "
            f"{len(parts.calibration)} for calibration, {len(parts.left_out)} in the gap or of their "
            "events; add data, or lower these"
        )
    sides = {"train": parts.train, "val": parts.val, "calibration": parts.calibration, "eval": parts.eval}
    summary = summary_of(plan, key, len(ids), samples, parts, sides, prompts)
    classifies = _workload_type(plan, samples.names) == "classification"
    with root.build("datasets", key) as made:
        writer = LineWriter(made)
        for name, places in sides.items():
            records = store.get(samples.ids[place] for place in places.tolist())
            if sift.has_changed:
                records = sift.through(records)
            if classifies:
                records = (in_own_form(record, plan.workload) for record in records)
            events = (samples.ids[event] for event in samples.events[places].tolist())
            lines = zip(records, events, samples.texts[places].tolist(), strict=True)
            _write(made / f"{name}.jsonl", lines, writer, parse_arguments=config.parse_function_arguments)
        writer.close()
        write_events(made / EVENTS_FILE, _events(samples))
        (made / "summary.json").write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2))


def _check_enough(plan: Plan, total: int, samples: Samples, notes: Sequence[str]) -> None:
    config = plan.config.data_split_config
    used = len(samples.ids)
    found = (
        f"{_whose(plan)}: {used} records can be used ({total} read, {samples.duplicates} duplicates, "
        f"{samples.near_duplicates} near-duplicates{''.join(f'; {note}' for note in notes)})"
    )
    if used < config.min_total_records:
        raise NotEnoughRecordsError(
            f"{found}, but data_split_config.min_total_records asks for {config.min_total_records}; "
            "add data, check workload_id, client_id and the cutoff, or lower that key"
        )
    may_examine = examinable(samples)
    if may_examine <= config.eval_size < used:
        raise NotEnoughRecordsError(
            f"{found}, but {used - may_examine} of them were posted, which examine nobody where a client has "
            f"others, and data_split_config.eval_size holds {config.eval_size} of the {may_examine} others "
            "out; add data, post under a client_id of its own, or lower that key"
        )
    if used <= config.eval_size:
        raise NotEnoughRecordsError(
            f"{found}, but data_split_config.eval_size holds {config.eval_size} out, which leaves none to "
            "train on; add data, or lower that key"
        )


def _beyond_cutoff(plan: Plan, store: RecordStore, folder: Path) -> list[str]:
    """Say what was left for later runs, and whose the config's sources are, where records are too few."""
    scope = (plan.workload_id, plan.client_id)
    later = store.count(*scope, _ALWAYS) - store.count(*scope, plan.cutoff)
    for name in ("label.json", "ingest.json"):
        if (folder / name).exists():
            later += orjson.loads((folder / name).read_bytes())["later"]
    said = [f"{later:,} lie after the cutoff"] if later else []
    if not plan.owns_sources and plan.config.source:
        said.append(
            f"the config's sources belong to the client {plan.config.client_id!r}, another one brings its "
            "own records (POST /api/records)"
        )
    return said


def _whose(plan: Plan) -> str:
    cutoff = datetime.fromtimestamp(plan.cutoff, UTC).isoformat()
    return f"workload {plan.workload_id!r}, client {plan.client_id!r}, before {cutoff} ({plan.cutoff})"


def _events(samples: Samples) -> Iterator[list[str]]:
    """Yield the ids of the records of each event of two or more, those left out as duplicates among them."""
    events = np.concatenate([samples.events, samples.events[samples.aside_of]])
    order = np.argsort(events, kind="stable")
    _, starts, sizes = np.unique(events[order], return_index=True, return_counts=True)
    kept = len(samples.ids)
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        places = order[start : start + size].tolist()
        yield [samples.ids[place] if place < kept else samples.aside[place - kept] for place in places]


def _write(
    path: Path, records: Iterator[tuple[Record, str, int]], writer: LineWriter, *, parse_arguments: bool
) -> None:
    """Write the lines; a thread hands them to the disk, which takes a third of the time, as they are made."""
    with path.open("wb") as file, ThreadPoolExecutor(1, thread_name_prefix="curate-write") as disk:
        written: Future[int] | None = None
        whole = partial(as_learned, parse_arguments=parse_arguments)
        while lines := writer.lines([whole(*one) for one in islice(records, WRITE_BATCH)]):
            if written is not None:
                written.result()  # one batch on its way at most: memory stays flat
            written = disk.submit(file.write, lines)
        if written is not None:
            written.result()


def in_own_form(record: Record, workload: Workload) -> Record:
    """Return a record of a classification with its class, as the workload asks for it, as the answer."""
    if record.tool_calls or record.label not in workload.classes:
        return record
    if record.answer == workload.answer_for(record.label):
        return record
    return renamed(record, record.label, workload)


def line_of(record: Record, event: str, text: int = 0, *, parse_arguments: bool) -> bytes:
    """Return a record as a whole line of a dataset; see `as_learned`."""
    line = as_learned(record, event, text, parse_arguments=parse_arguments)
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def as_learned(record: Record, event: str, text: int = 0, *, parse_arguments: bool) -> dict[str, Any]:
    """Return a record as students learn it.

    Args:
        event: the id of the first record of its event.
        text: the number by which its text is known again; 0: none.
    """
    answer: dict[str, Any] = {"role": "assistant", "content": record.answer}
    line: dict[str, Any] = {
        "id": record.id,
        "timestamp": record.timestamp,
        "known_at": record.known_at,
        "event": event,
        **({"text": f"{text:016x}"} if text else {}),
        "label": record.label,
        "labelled_by": record.labelled_by,
        # Thoughts go first: broken up, their marks would not be found.
        "messages": in_conversation([_as_learned(message) for message in record.messages]),
    }
    if record.tools or record.tool_calls:
        if record.tool_calls:
            answer["tool_calls"] = record.tool_calls
        line["tools"] = in_tools(record.tools)
    line["messages"].append(_as_learned(answer))
    if parse_arguments:  # earlier turns may have called functions whatever this request offers
        line["messages"] = with_arguments(line["messages"], as_text=False)
    return line


def _as_learned(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with its text alone: null, of a turn that only calls, is `None` in a prompt.

    What a model thought before an answer or a call is not what a student shall write.
    """
    content = message.get("content") or ""
    if message["role"] == "assistant":
        content = without_thinking(content)
    return message if content == message.get("content") else {**message, "content": content}


def _candidates(plan: Plan, there: int) -> tuple[Candidate, ...]:
    """Return the candidates that the data allows: a size beyond it is all of it, once for each student."""
    sizes = ((candidate.student, min(candidate.size, there)) for candidate in plan.candidates)
    return tuple(Candidate(student=student, size=size) for student, size in dict.fromkeys(sizes))


def _sizes(plan: Plan, train: Path, there: int) -> dict[int, SizeResult]:
    """Tell what the training set of each size holds."""
    asked = {*plan.config.sizes, *(candidate.size for candidate in plan.candidates)}
    results = {}
    counts: Counter[str] = Counter()
    with train.open("rb") as file:
        read = 0
        for size in sorted({min(size, there) for size in asked}):
            counts.update(orjson.loads(line)["label"] for line in islice(file, size - read))
            read = size
            results[size] = SizeResult(available=True, reason="", per_class=dict(sorted(counts.items())))
    return results


def _beyond(plan: Plan, there: int) -> str:
    """Say which sizes the data does not reach; nothing where it reaches all."""
    beyond = [f"{size:,}" for size in sorted(set(plan.config.sizes)) if size > there]
    if not beyond:
        return ""
    return (
        f"size {', '.join(beyond)}: there are {there:,} training records, so the largest candidate of each "
        f"student is @ {there}"
    )
