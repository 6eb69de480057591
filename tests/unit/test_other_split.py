"""What the other split would have shown: measured on the same records, said where it is more than chance."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.schema import DataSplitConfig
from flywheel.curation.result import CurateResult
from flywheel.report import other_split as module
from flywheel.report.checks import OtherSplitPart
from flywheel.report.other_split import other_split
from flywheel.report.verdict import verdict_of
from flywheel.workloads.records import Record
from tests.unit.finished_run import config_of, finish, plan_of, write_dataset
from tests.unit.news_records import WORKLOAD, news_record
from tests.unit.test_curate import LABELS, WORDS, run
from tests.unit.test_score import no_tracking, scored  # noqa: F401

SPLIT = {"eval_size": 100, "event_days": 0.0, "near_duplicate_similarity": 1.0}


def news_of_days(days: int = 10, changing: bool = True, seed: int = 5) -> list[Record]:
    """Return records whose label is that of the company they name, companies that are new each day or stay."""
    rng = random.Random(seed)
    records = []
    for day in range(days):
        for _ in range(60):
            company = rng.randrange(6) + (10 * day if changing else 0)
            label = LABELS[(7 * company) % len(LABELS)]
            text = " ".join([f"company{company}", *rng.sample(WORDS, 3)])
            records.append(news_record(text, label, timestamp=86400 * (day + 1) + rng.randrange(80000)))
    return records


def measured(folder: Path, result: CurateResult, split: str, size: int = 300) -> OtherSplitPart | None:
    config = DataSplitConfig.model_validate({"min_total_records": 1, "split": split, **SPLIT})
    return other_split(ArtifactRoot(str(folder / "artifacts")), result.dataset, config, size, WORKLOAD)


@pytest.mark.parametrize("split", ["temporal", "random"])
def test_news_that_changes_by_the_day_scores_better_on_a_random_split(tmp_path: Path, split: str) -> None:
    result = run(tmp_path, news_of_days(), split=split, **SPLIT)
    found = measured(tmp_path, result, split)
    assert found is not None
    here, there = (found.here, found.there) if split == "random" else (found.there, found.here)
    assert found.split != split
    assert here.score > 0.8 > 0.5 > there.score
    assert here.eval_records == there.eval_records == 100
    assert here.score_ci95[0] < here.score < here.score_ci95[1]
    assert found.differs


def test_news_that_stays_as_it_is_differs_by_chance_alone(tmp_path: Path) -> None:
    result = run(tmp_path, news_of_days(changing=False), split="temporal", **SPLIT)
    found = measured(tmp_path, result, "temporal")
    assert found is not None
    assert not found.differs


def test_both_splits_train_on_as_many_records_and_are_fitted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(tmp_path, news_of_days(), split="temporal", gap_days=2.0, **SPLIT)
    trained: list[int] = []
    fit = module.fit
    monkeypatch.setattr(
        module, "fit", lambda texts, *more: (trained.append(len(texts)), fit(texts, *more))[1]
    )
    first = measured(tmp_path, result, "temporal", size=100_000)
    assert first is not None
    assert trained == [result.train, result.train] == [first.size] * 2
    assert measured(tmp_path, result, "temporal", size=100_000) == first
    assert len(trained) == 2


def test_what_somebody_posted_beside_others_is_in_no_eval_set_of_the_other_split_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted = [
        replace(record, labelled_by="posted") for record in news_of_days(days=12, seed=6) if record.timestamp
    ]
    result = run(tmp_path, [*news_of_days(), *posted], split="temporal", **SPLIT)
    held: list[list[str]] = []
    score = module._score
    monkeypatch.setattr(
        module,
        "_score",
        lambda train, part, workload: (held.append([r["id"] for r in part]), score(train, part, workload))[1],
    )
    assert measured(tmp_path, result, "temporal") is not None
    assert len(held) == 2
    assert not {record.id for record in posted} & {name for part in held for name in part}


def test_a_dataset_of_before_that_tells_no_times_has_no_other_split(tmp_path: Path) -> None:
    root = ArtifactRoot(str(tmp_path))
    config = DataSplitConfig(split="temporal", eval_size=20)
    assert other_split(root, write_dataset(root), config, 20, WORKLOAD) is None


def test_the_report_says_it_in_a_sentence_where_the_two_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"score": 0.3, "score_ci95": (0.25, 0.35), "eval_records": 400}
    two = {"score": 0.63, "score_ci95": (0.58, 0.68), "eval_records": 400}
    part = OtherSplitPart.model_validate(
        {"split": "random", "metric": "f1_weighted", "size": 2000, "here": one, "there": two}
    )
    monkeypatch.setattr("flywheel.stages.score.other_split", lambda *_: part)
    run = finish(plan_of(config_of(str(tmp_path / "artifacts"), "http://127.0.0.1:9")))
    report = scored(run)
    sentence = (
        "With data_split_config.split: random, TF-IDF with logistic regression would have shown 0.630 (0.580 to "
        "0.680) instead of 0.300 (0.250 to 0.350) on 2,000 training records (95 % intervals): texts of the same "
        "days in training make a score look better than the next day's."
    )
    assert sentence in report.verdict
    folder = tmp_path / "artifacts/runs/night-1"
    assert orjson.loads((folder / "report.json").read_bytes())["other_split"]["there"]["score"] == 0.63
    assert "instead of 0.300" in (folder / "report.html").read_text()
    turned = part.model_copy(update={"split": "temporal", "here": part.there, "there": part.here})
    lower = verdict_of(report.model_copy(update={"other_split": turned}))
    assert any("on what comes after all that a student learned from, expect lower" in one for one in lower)
    alike = part.model_copy(update={"there": part.here})
    assert not any(
        "would have shown" in one for one in verdict_of(report.model_copy(update={"other_split": alike}))
    )
