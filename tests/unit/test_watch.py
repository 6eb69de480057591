"""A night of production: the audit is labelled and counted, drift is told, and what was counted may train."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.config import Config
from flywheel.evaluation.cascade import Cascade
from flywheel.jobs.result import EvaluateResult
from flywheel.jobs.spec import RESULT
from flywheel.promotion.champion import Champion
from flywheel.runs.plan import make_plan
from flywheel.serving.traffic import TrafficEntry
from flywheel.stages.label import label
from flywheel.stages.watch import production_texts, watch
from flywheel.stages.watch_tables import write_tables
from flywheel.stores import open_store
from tests.unit.champions import put_in_force
from tests.unit.finished_run import evaluated
from tests.unit.teacher_servers import stand_in
from tests.unit.test_traffic import WORKLOAD, config_of

NIGHT = datetime.fromtimestamp(2_500_000_000, UTC)  # decisions are taken before it, at the clock's time
ADAPTER = "b" * 20
OWNER = (WORKLOAD.id, "desk")


def asked(number: int, at: float, text: str, given: str = "Dividends", **more: Any) -> TrafficEntry:
    notes = {"confidence": 0.95, "audit": True, "drawn": 0.5, "adapter": ADAPTER, "by": "small @ 5", **more}
    return TrafficEntry(
        id=f"chatcmpl-{number}", at=at, workload_id=WORKLOAD.id, client_id="desk", model=WORKLOAD.id,
        messages=[{"role": "user", "content": text}], answer=WORKLOAD.answer_for(given), label=given, **notes,
    )  # fmt: skip


def keep(config: Config, entries: Sequence[TrafficEntry]) -> None:
    with open_store(config.store) as store:
        store.write([one.record() for one in entries])


def in_force(config: Config) -> None:
    """Put a champion into force long ago, with an evaluation of .9 and a promise of .9."""
    root = ArtifactRoot(config.artifacts.root)
    result = EvaluateResult.model_validate(evaluated("1b", 5, "d" * 20, 0.9))
    with root.build("evaluations", "e" * 20) as folder:
        (folder / RESULT).write_text(result.model_dump_json())
    promised = Cascade(target=0.9, threshold=0.8, share=0.9, agreement=0.95, low=0.91, records=900, reason="")
    made = Champion(
        workload_id=WORKLOAD.id, client_id="desk", student="small", model_name="x/small", weights="x/small",
        size=5, parameters=None, adapter=ADAPTER, adapter_path=f"adapters/{ADAPTER}", dataset="d" * 20,
        evaluation="e" * 20, metric="f1_weighted", score=0.9, score_ci95=None, run_id="night-0", cutoff=1,
        promoted_at="", reason="", cascade=promised,
    )  # fmt: skip
    put_in_force(root, made)


def texts(count: int, start: int = 0) -> list[str]:
    return [f"Company {number} raises its dividend" for number in range(start, start + count)]


def at(hours: float) -> float:
    return (NIGHT + timedelta(hours=hours)).timestamp()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return config_of(tmp_path)


def with_teacher(config: Config, address: str, **teacher: Any) -> Config:
    prices = {"prompt": 1.0, "completion": 1.0}
    section = {"base_url": f"{address}/v1", "prices": prices, **teacher}
    return Config.model_validate({**config.model_dump(exclude_unset=True), "teacher": section})


def test_a_night_counts_its_audit_by_text_and_the_next_goes_on_from_it(config: Config) -> None:
    in_force(config)
    right = dict.fromkeys(texts(200), "Dividends")
    with stand_in(right) as (address, _):
        asks = with_teacher(config, address)
        keep(asks, [asked(n, at(-1), text) for n, text in enumerate(texts(100))])
        keep(asks, [asked(1000 + n, at(-1), texts(1)[0]) for n in range(5)])  # the same text again
        first = watch(asks, NIGHT)
        keep(asks, [asked(2000 + n, at(23), t, "Earnings") for n, t in enumerate(texts(100, 100))])
        second = watch(asks, NIGHT + timedelta(days=1))
        again = watch(asks, NIGHT + timedelta(days=1))
    assert (first.requests, first.by_student, first.asked) == (105, 105, 100)
    assert (first.agreement.value, first.agreement.of, first.alarms) == (1.0, 100, [])
    assert first.cost > 0 and first.moved is not None and first.confidence == pytest.approx(0.95)
    assert (second.requests, second.agreement.value, second.agreement_since.value) == (100, 0.0, 0.5)
    assert len(second.alarms) == 1 and "below 90.0%" in second.alarms[0]
    assert again.model_dump(exclude={"seconds", "asked", "cost", "saved"}) == second.model_dump(
        exclude={"seconds", "asked", "cost", "saved"}
    )
    assert again.asked == 0  # paid for once


def test_a_month_below_its_target_is_told_also_where_it_may_be_chance(config: Config) -> None:
    in_force(config)
    known = {text: "Earnings" if number < 12 else "Dividends" for number, text in enumerate(texts(100))}
    with stand_in(known) as (address, _):
        asks = with_teacher(config, address)
        keep(asks, [asked(n, at(-1), text) for n, text in enumerate(texts(100))])
        night = watch(asks, NIGHT)
    assert (night.agreement.value, night.alarms) == (0.88, [])
    assert len(night.remarks) == 1 and "88.0% agree" in night.remarks[0]


def test_a_champion_that_is_suddenly_unsure_is_told(config: Config) -> None:
    in_force(config)
    with stand_in(dict.fromkeys(texts(300), "Dividends")) as (address, _):
        asks = with_teacher(config, address)
        sure = [asked(n, at(-1), text, audit=False) for n, text in enumerate(texts(100))]
        unsure = [
            asked(1000 + n, at(-1), text, by="teacher", unsure=True, confidence=None, audit=False)
            for n, text in enumerate(texts(200, 100))
        ]
        keep(asks, [*sure, *unsure])
        night = watch(asks, NIGHT)
    assert night.answered.value == pytest.approx(1 / 3)
    assert len(night.alarms) == 1 and "sure of 33.3%" in night.alarms[0]


def test_where_the_budget_ends_what_is_left_is_told_and_the_unsure_come_after_the_audit(
    config: Config,
) -> None:
    in_force(config)
    with stand_in(dict.fromkeys(texts(20), "Dividends")) as (address, _):
        asks = with_teacher(config, address, budget={"calls": 8})
        keep(asks, [asked(n, at(-1), text) for n, text in enumerate(texts(5))])
        unsure = [asked(50 + n, at(-1), t, audit=False, unsure=True) for n, t in enumerate(texts(5, 5))]
        keep(asks, unsure)
        night = watch(asks, NIGHT)
    assert (night.asked, night.left, night.agreement.of) == (8, 2, 5)


def test_what_was_audited_trains_only_once_it_was_counted_and_never_by_the_students_word(
    config: Config, tmp_path: Path
) -> None:
    in_force(config)
    with stand_in(dict.fromkeys(texts(10), "Earnings")) as (address, _):
        asks = with_teacher(config, address)
        keep(asks, [asked(n, at(-1), text) for n, text in enumerate(texts(4))])
        keep(asks, [asked(100 + n, at(-1), text, audit=False) for n, text in enumerate(texts(4, 5))])
        cutoff = int(NIGHT.timestamp())
        assert list(production_texts(asks, WORKLOAD, OWNER, cutoff)) == []
        night = watch(asks, NIGHT)
        found = list(production_texts(asks, WORKLOAD, OWNER, cutoff))
        assert {headline.text for headline in found} == set(texts(4))
        plan = make_plan(asks, run_id="night", cutoff=NIGHT)
        (tmp_path / "run").mkdir()
        result = label(plan, tmp_path / "run")
    assert (night.asked, night.agreement.value) == (4, 0.0)
    # The labels are the teacher's, and were there: none is paid for twice.
    assert (result.labelled, result.found, result.asked) == (4, 4, 0)


def test_without_traffic_or_champion_a_night_is_empty(config: Config) -> None:
    night = watch(config, NIGHT)
    assert (night.requests, night.champion, night.alarms) == (0, "", [])
    assert "none audited" in night.line()


def test_a_night_and_the_eval_set_are_tables_without_texts(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no champion with its evaluation"):
        write_tables(config, watch(config, NIGHT - timedelta(days=1)), tmp_path / "tables")
    in_force(config)
    folder = ArtifactRoot(config.artifacts.root).lookup("evaluations", "e" * 20)
    assert folder is not None
    predicted = {"id": "1", "text": "Acme cuts jobs", "teacher": "OTHER", "student": "Earnings"}
    (folder / "predictions.jsonl").write_bytes(
        orjson.dumps({**predicted, "probabilities": {"Earnings": 0.7}})
    )
    one = {"audit": False, "drawn": None}
    instead = {"by": "teacher", "student_label": "OTHER", "student_confidence": 0.3, "confidence": None}
    keep(config, [
        asked(1, at(-1), "Company 1", **one),
        asked(2, at(-1), "Company 22", **one, **instead),
        asked(3, at(-1), "of another adapter", **one, adapter="c" * 20),
    ])  # fmt: skip
    assert write_tables(config, watch(config, NIGHT), tmp_path / "tables") == (1, 2)
    read = [(tmp_path / "tables" / name).read_text().splitlines() for name in ("eval.csv", "production.csv")]
    assert read[0] == ["class,confidence,characters", "Earnings,0.7,14"]
    assert sorted(read[1][1:]) == ["Dividends,0.95,9", "OTHER,0.3,10"]
