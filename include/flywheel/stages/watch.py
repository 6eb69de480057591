"""Each night, what production was asked: the audit is labelled, and drift is looked for.

    in    the traffic before the night's moment (flywheel.serving.traffic), the champion of then
    out   production/<workload>/<client>/nights/<moment>.json in the artifact root

The teacher labels what the audit has drawn, and what a student answered without being sure, as far as
`teacher.budget` goes; its answers are kept where labelling finds them. Then the audit is counted, and only
what was counted is a text of the next run. A night is made from the one before it and from the traffic since,
so that the same night again gives the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Config
from flywheel.evaluation.cascade import Cascade
from flywheel.jobs.result import EvaluateResult
from flywheel.jobs.spec import RESULT
from flywheel.promotion.champion import Champion, read_state
from flywheel.serving.drift import Detector, Share, distance, level_of_eval, share_of, shares
from flywheel.serving.nights import Night, Watched, nights, nights_folder
from flywheel.serving.student import RefusedError, text_of
from flywheel.serving.traffic import TrafficEntry, ship, traffic_scope
from flywheel.serving.traffic.shipping import traffic_folder
from flywheel.sources import Headline
from flywheel.stages.label import only_one, spending_of
from flywheel.stores import RecordStore, open_store
from flywheel.teacher.configured import client_of
from flywheel.teacher.endpoint import resolve_endpoints
from flywheel.teacher.labeller import Labeller, Outcome
from flywheel.teacher.request import Requests
from flywheel.workloads.workload import Workload

log = logging.getLogger(__name__)

# A champion that answers less than this part of what it answered of the calibration slice is told.
LEAST_OF_SHARE = 0.8
_MONTH = 30 * 86_400


def watch(config: Config, at: datetime, client_id: str | None = None) -> Night:
    """Label the audit of the requests before a moment, count it, and look for drift.

    Args:
        at: with a time zone.
        client_id: whose; default the config's.

    Raises:
        StoreError, TeacherError, ArtifactError: store, teacher or artifact root cannot be used; do it again.
    """
    started = time.monotonic()
    root, workload = ArtifactRoot(config.artifacts.root), Workload.load(config.workload)
    client_id = client_id or config.client_id
    moment = int(at.timestamp())
    before = nights(root, workload.id, client_id, moment)
    last = before[-1] if before else None
    with open_store(config.store, cache_mb=4) as store:
        folder = traffic_folder(config)
        if folder.is_dir():
            ship(folder, store, workload)
        since = last.at if last else 0
        scope = traffic_scope(workload.id, client_id)
        there = [
            entry
            for record in store.read(*scope, moment)
            if (entry := TrafficEntry.of_record(record)).at >= since
        ]
        labels, night = _label(config, workload, store, there, (workload.id, client_id), since, moment)
    _count(night, there, workload, labels)
    state = read_state(root, workload.id, client_id, at=moment)
    _compare(night, config, root, state.champion if state else None, there, workload, labels, before)
    night.seconds = round(time.monotonic() - started, 3)
    name = f"{nights_folder(workload.id, client_id)}/{moment:012}.json"
    root.write_json(name, night.model_dump(mode="json"))
    for alarm in night.alarms:
        log.warning("%s", alarm)
    return night


def asks_teacher(entry: TrafficEntry) -> bool:
    """Return whether a student's answer is asked of the teacher at night."""
    return (
        not entry.by_teacher and entry.label is not None and entry.has_text and (entry.audit or entry.unsure)
    )


def production_texts(
    config: Config, workload: Workload, owner: tuple[str, str], cutoff: int
) -> Iterator[Headline]:
    """Yield what of production a run learns from: what the teacher answered, and what was audited or unsure.

    An audited answer is among them once it was counted (`watch`); the label is the teacher's, which is found.

    Args:
        cutoff: of the run; only what was asked before.
    """
    counted = nights(ArtifactRoot(config.artifacts.root), *owner, before=cutoff + 1)
    until = counted[-1].at if counted else 0
    with open_store(config.store, cache_mb=4) as store:
        for number, record in enumerate(store.read(*traffic_scope(*owner), cutoff), 1):
            entry = TrafficEntry.of_record(record)
            if (entry.by_teacher and entry.key) or (asks_teacher(entry) and entry.at < until):
                text = text_asked(workload, entry)
                if text:
                    yield Headline(text, int(entry.at), int(entry.at), None, "production", number)


def text_asked(workload: Workload, entry: TrafficEntry) -> str:
    """Return the text that was asked about; empty: there is none."""
    try:
        return " ".join(text_of(workload, entry.messages).split())
    except RefusedError:
        return ""


def _label(
    config: Config,
    workload: Workload,
    store: RecordStore,
    there: list[TrafficEntry],
    owner: tuple[str, str],
    since: int,
    moment: int,
) -> tuple[dict[str, str], Night]:
    """Have the teacher label what is to be asked; return the labels by text, and the night with its costs."""
    night = Night(workload_id=owner[0], client_id=owner[1], since=since, at=moment)
    teacher = config.teacher
    labels: dict[str, str] = {}
    # The audit first, in the order of its draws: where the budget ends, what is left is left by chance.
    wanted = sorted(filter(asks_teacher, there), key=lambda entry: (not entry.audit, entry.id))
    texts = [text for text in dict.fromkeys(text_asked(workload, entry) for entry in wanted) if text]
    if not texts:
        return labels, night
    endpoints = resolve_endpoints(teacher)
    spending = spending_of(config, f"watch {moment}")

    def settle(headline: Headline, outcome: Outcome) -> None:
        if outcome.label is not None:
            labels[headline.text] = outcome.label

    async def run() -> None:
        async with client_of(teacher, endpoints, spending) as client:
            labeller = Labeller(
                workload,
                Requests.of(workload, teacher),
                client,
                store,
                workers=min(teacher.concurrency, len(texts)),
                ask_again=teacher.ask_again,
                night=f"watch {moment}",
                owner=owner,
            )
            asked = (Headline(text, moment, moment, None, "production", n) for n, text in enumerate(texts, 1))
            counts = await labeller.run(asked, settle)
            night.asked, night.left = counts.asked, counts.left

    with only_one(config.store):
        asyncio.run(run())
        spending.forget()
    night.cost = spending.cost
    if night.left:
        log.warning("teacher.budget is spent: %d answers of production are not audited", night.left)
    return labels, night


def _count(night: Night, there: list[TrafficEntry], workload: Workload, labels: dict[str, str]) -> None:
    """Count what was asked, and the audit of all students' answers."""
    students = [entry for entry in there if not entry.by_teacher]
    night.requests, night.by_student = len(there), len(students)
    night.by_teacher = night.requests - night.by_student
    night.unsure = sum(entry.unsure for entry in there)
    sure = [entry.confidence for entry in students if entry.confidence is not None]
    night.confidence = sum(sure) / len(sure) if sure else None
    night.classes = shares([entry.label for entry in there if entry.label is not None])
    paid = [entry.cost for entry in there if entry.by_teacher and entry.cost > 0]
    each = (
        sum(paid) / len(paid) if paid else (night.cost / night.asked if night.asked and night.cost else None)
    )
    night.saved = each * night.by_student if each is not None else None
    night.cost = round(night.cost + sum(entry.cost for entry in there), 6)
    if there:
        took = sorted(entry.seconds * 1000 for entry in there)
        night.p50, night.p95 = took[len(took) // 2], took[min(len(took) - 1, int(0.95 * len(took)))]


def _compare(
    night: Night,
    config: Config,
    root: ArtifactRoot,
    champion: Champion | None,
    there: list[TrafficEntry],
    workload: Workload,
    labels: dict[str, str],
    before: list[Night],
) -> None:
    """Put the champion's requests beside what it was promoted on; write alarms into the night."""
    night.currency = config.teacher.prices.currency
    if champion is None:
        return
    night.champion, night.adapter = champion.name, champion.adapter
    own = [entry for entry in there if entry.adapter == champion.adapter]
    found = _evaluation(root, champion)
    if found is not None:
        _show_evaluation(night, found)
    same = before[-1] if before and before[-1].adapter == champion.adapter else None
    promised = champion.cascade if champion.cascade and champion.cascade.threshold is not None else None
    level: float | None = None
    if promised is not None:
        level = promised.target
    elif found is not None and "accuracy" in found.scores:
        level = level_of_eval(round(found.scores["accuracy"] * found.records), found.records)
    _compare_audit(night, _audited(own, workload, labels, promised is not None), level, same)
    mine = {entry.id: not entry.by_teacher and not entry.unsure for entry in own}
    least: float | None = None
    if promised is not None:
        sure = round(promised.share * promised.records)
        least = LEAST_OF_SHARE * level_of_eval(sure, promised.records)
    night.answered = _watched(
        share_of((one, 1.0) for one in mine.values()),
        sum(mine.values()),
        len(mine),
        least,
        same.answered if same else None,
    )
    _tell(night, champion, promised, level, before)


def _show_evaluation(night: Night, found: EvaluateResult) -> None:
    """Note what the champion was sure of in its evaluation, and of which classes."""
    if found.calibration is not None:
        bins = found.calibration.bins
        sure = sum(one.confidence * one.records for one in bins)
        night.confidence_eval = sure / max(1, sum(one.records for one in bins))
    matrix, names = found.confusion.matrix, found.confusion.labels
    columns = [sum(row[column] for row in matrix) for column in range(len(names))]
    night.classes_eval = {name: n / max(1, sum(columns)) for name, n in zip(names, columns, strict=True) if n}
    night.moved = distance(night.classes, night.classes_eval)


def _audited(
    own: list[TrafficEntry], workload: Workload, labels: dict[str, str], promised: bool
) -> list[tuple[bool, float]]:
    """Return of each audited text whether the teacher agrees, and the share that it was drawn with."""
    # A story that many ask about is one draw of the world: each text counts once.
    audited: dict[str, tuple[bool, float]] = {}
    for entry in own:
        text = text_asked(workload, entry)
        if promised and entry.unsure:
            continue  # nothing was promised of it: the teacher should have answered, and could not
        if entry.audit and not entry.by_teacher and text in labels and text not in audited:
            audited[text] = (labels[text] == entry.label, entry.drawn or 1.0)
    return list(audited.values())


def _compare_audit(
    night: Night, audited: list[tuple[bool, float]], level: float | None, same: Night | None
) -> None:
    """Note the agreement of the night, and since the champion answers; `same`: its night before."""
    right = sum(hit for hit, _ in audited)
    night.agreement = _watched(
        share_of(audited), right, len(audited), level, same.agreement if same else None
    )
    earlier = same.agreement_since if same else Watched()
    all_of, all_right = earlier.of + len(audited), round((earlier.value or 0) * earlier.of) + right
    night.agreement_since = _watched(
        share_of([(True, 1.0)] * all_right + [(False, 1.0)] * (all_of - all_right))
    )


def _tell(
    night: Night, champion: Champion, promised: Cascade | None, level: float | None, before: list[Night]
) -> None:
    """Write alarms into the night, and what is no alarm yet."""
    if night.agreement.alarm:
        night.alarms.append(
            f"{champion.name}: of its answers in production {_percent(night.agreement)} agree with the "
            f"teacher, which is below {level:.1%}, more than by chance"
        )
    elif level is not None and promised is not None:
        recent = [one for one in before if one.adapter == champion.adapter and one.at > night.at - _MONTH]
        audits = [one.agreement for one in (*recent, night)]
        of = sum(one.of for one in audits)
        agree = sum((one.value or 0.0) * one.of for one in audits)
        if of and agree / of < level:
            night.remarks.append(
                f"{champion.name}: of {of:,} audited answers of the last 30 days {agree / of:.1%} agree with "
                f"the teacher; {level:.1%} are promised. It may be chance"
            )
    if night.answered.alarm and promised is not None:
        night.alarms.append(
            f"{champion.name}: it is sure of {_percent(night.answered)} of production's requests, where it "
            f"was of {promised.share:.0%} of the calibration slice"
        )


def _watched(
    share: Share, hits: int = 0, of: int = 0, level: float | None = None, before: Watched | None = None
) -> Watched:
    """Return a share with what its detector, going on from the night before, makes of it."""
    found = Watched(value=share.value, low=share.low, high=share.high, of=share.of, level=level)
    if level is None:
        return found
    detector = Detector.of(level, before.state if before is not None and before.level == level else None)
    found.alarm = detector.night(hits, of)
    found.evidence, found.state = detector.evidence, detector.state
    return found


def _percent(share: Watched) -> str:
    value = share.value if share.value is not None else 0.0
    return f"{value:.1%} ({share.low:.1%} to {share.high:.1%}, of {share.of:,})"


def _evaluation(root: ArtifactRoot, champion: Champion) -> EvaluateResult | None:
    folder: Path | None = root.lookup("evaluations", champion.evaluation) if champion.evaluation else None
    return EvaluateResult.model_validate_json((folder / RESULT).read_bytes()) if folder else None
