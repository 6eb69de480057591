"""A labelled history: who labels what, and the files that come out."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from flywheel.annotation.manifest import AnnotationManifest, read_manifest
from flywheel.annotation.rows import SCHEMA_VERSION, about, class_columns
from flywheel.annotation.shard import annotate_shard
from flywheel.annotation.work import Work, finish_work, plan_work, run_here
from flywheel.artifacts.root import ArtifactRoot
from flywheel.artifacts.root_files import RootFiles
from flywheel.common.errors import ConfigError, JobError
from flywheel.config import Config
from flywheel.promotion.timeline import Timeline
from tests.unit import labelled_history
from tests.unit.champions import put_in_force
from tests.unit.labelled_history import (
    NIGHTS,
    START,
    WORKLOAD,
    Students,
    config_for,
    enter,
    with_champions,
    write_headlines,
)

END = START + timedelta(days=90)


config = labelled_history.history  # a fixture


def label(
    config: Config, start: datetime = START, end: datetime = END, students: Students | None = None
) -> tuple[Work, AnnotationManifest]:
    """Label a span in this process."""
    work = plan_work(config, start, end)
    run_here(work, students or Students())
    return work, finish_work(work)


def frame(work: Work) -> pd.DataFrame:
    return pd.read_parquet(f"{work.out}/rows")


def files(out: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(Path(out).rglob("*"))
        if path.is_file()
    }


def test_each_text_is_labelled_by_the_champion_of_the_last_night_before_it(config: Config) -> None:
    work, manifest = label(config)
    rows = frame(work)
    line = Timeline(ArtifactRoot(config.artifacts.root), WORKLOAD.id, "desk")
    assert len(rows) == manifest.rows == 300
    for row in rows.to_dict("records"):
        champion = line.champion_at(int(row["known_at"].timestamp()))
        assert (champion is None) == pd.isna(row["adapter"])
        assert champion is None or row["adapter"] == champion.adapter
        assert champion is None or row["adapter_cutoff"] <= row["known_at"]
    assert rows["adapter"].nunique() == len(NIGHTS)


def test_texts_of_before_the_first_champion_are_rows_without_a_label_and_with_the_reason(
    config: Config,
) -> None:
    work, manifest = label(config)
    rows = frame(work)
    early = rows[rows["label"].isna()]
    assert set(early["reason"]) == {"no champion yet: no night had promoted one"}
    assert early["known_at"].max() <= pd.Timestamp(NIGHTS[0])
    assert manifest.rows - manifest.labelled == len(early) > 0
    assert rows[rows["label"].notna()]["reason"].isna().all()


def test_a_lag_keeps_a_champion_from_what_comes_soon_after_it(tmp_path: Path) -> None:
    write_headlines(tmp_path / "headlines.csv", 300)
    config = config_for(tmp_path, lag=5 * 86_400)
    with_champions(config)
    work, _ = label(config)
    rows = frame(work).dropna(subset=["adapter_cutoff"])
    assert (rows["known_at"] - rows["adapter_cutoff"]).min() >= pd.Timedelta(days=5)


def test_a_person_who_puts_the_teacher_back_makes_a_gap(config: Config) -> None:
    enter(ArtifactRoot(config.artifacts.root), None, int(NIGHTS[1].timestamp()) + 86_400, 7)
    work, _ = label(config)
    rows = frame(work)
    after = rows[
        (rows["known_at"] > pd.Timestamp(NIGHTS[1] + timedelta(days=2)))
        & (rows["known_at"] < pd.Timestamp(NIGHTS[2]))
    ]
    assert after["label"].isna().all()
    assert set(after["reason"]) == {"nobody: no candidate was good enough"}


def test_todays_champion_labels_all_and_each_row_says_so(tmp_path: Path) -> None:
    write_headlines(tmp_path / "headlines.csv", 300)
    config = config_for(tmp_path, mode="champion")
    last = with_champions(config)[-1]
    put_in_force(ArtifactRoot(config.artifacts.root), last)
    work, manifest = label(config)
    rows = frame(work)
    assert set(rows["adapter"]) == {last.adapter}
    assert set(rows["mode"]) == {"champion"}
    assert manifest.labelled == 300
    assert "not point in time" in (Path(work.out) / "README.md").read_text()


def test_pandas_polars_and_duckdb_read_the_same_counts(config: Config) -> None:
    work, manifest = label(config)
    pattern = f"{work.out}/rows/month=*/*.parquet"
    by_pandas = frame(work)["label"].value_counts().to_dict()
    by_polars = dict(pl.read_parquet(pattern).drop_nulls("label").group_by("label").len().iter_rows())
    asked = f"SELECT label, count(*) FROM read_parquet('{pattern}', hive_partitioning = true) WHERE label IS NOT NULL GROUP BY 1"
    by_duckdb = dict(duckdb.sql(asked).fetchall())
    of_manifest: dict[str, int] = {}
    for month in manifest.months.values():
        for name, (count, _) in month.by_class.items():
            of_manifest[name] = of_manifest.get(name, 0) + count
    assert by_pandas == by_polars == by_duckdb == of_manifest


def test_months_are_partitions_and_files_say_their_schema(config: Config) -> None:
    work, manifest = label(config)
    assert list(manifest.files) == [f"rows/month=2019-0{month}/from-01.parquet" for month in (1, 2, 3)]
    schema = pq.read_schema(Path(work.out) / "rows/month=2019-02/from-01.parquet")
    assert about(schema)["schema_version"] == SCHEMA_VERSION
    assert [name for name in schema.names if name.startswith("probability_")] == list(
        class_columns(WORKLOAD.classes).values()
    )


def test_the_same_again_asks_nobody_and_leaves_every_byte(config: Config) -> None:
    work, _ = label(config)
    before = files(work.out)
    students = Students()
    label(config, students=students)
    assert students.asked == 0
    assert files(work.out) == before


def test_a_day_more_asks_for_that_day_alone_and_gives_the_bytes_of_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "once").mkdir()
    write_headlines(tmp_path / "once" / "headlines.csv", 300)
    with_champions(config_for(tmp_path / "once"))
    shutil.copytree(tmp_path / "once", tmp_path / "nightly")
    nightly, once = (config_for(tmp_path / name) for name in ("nightly", "once"))
    label(nightly, end=END - timedelta(days=1))
    students = Students()
    work, _ = label(nightly, END - timedelta(days=2), END, students)
    assert 0 < students.asked <= 4
    whole, _ = label(once)
    assert files(work.out) == files(whole.out)


def test_a_text_that_comes_twice_is_one_row(config: Config) -> None:
    path = Path(config.source[0].path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, *lines[1:11]]) + "\n")
    work, manifest = label(config)
    assert manifest.rows == 300
    assert work.counts["doubled"] == 10
    assert frame(work)["id"].is_unique


def test_a_night_that_is_backfilled_later_labels_its_texts_anew_and_no_others(config: Config) -> None:
    label(config)
    with_champions(config, [*NIGHTS, datetime(2019, 3, 20, 2, tzinfo=UTC)])
    students = Students()
    work, _ = label(config, students=students)
    rows = frame(work)
    assert students.asked == int((rows["adapter"] == "adapter3").sum()) > 0


def test_hashed_texts_stand_in_no_file(tmp_path: Path) -> None:
    write_headlines(tmp_path / "headlines.csv", 300)
    config = config_for(tmp_path, text="hash")
    with_champions(config)
    work, _ = label(config)
    assert "text" not in frame(work).columns
    assert frame(work)["text_sha256"].str.len().eq(64).all()
    assert not any(b"raises its dividend" in data for data in files(work.out).values())


def test_a_champion_that_knows_more_than_its_decision_labels_nothing(config: Config) -> None:
    from tests.unit.labelled_history import write_dataset

    write_dataset(ArtifactRoot(config.artifacts.root), "dataset1", int(NIGHTS[1].timestamp()) + 3600)
    work, _ = label(config)
    rows = frame(work)
    assert "adapter1" not in set(rows["adapter"])
    assert any("after its decision" in reason for reason in rows["reason"].dropna())


def test_a_students_refusal_is_a_row_with_its_reason(config: Config) -> None:
    class Refusing(Students):
        def __call__(self, stretch: Any) -> Any:
            student = super().__call__(stretch)
            given = type(student).classify

            class One:
                classes = student.classes

                def classify(self, texts: list[str]) -> Any:
                    said = given(student, texts)
                    said.answers[0], said.probabilities[0] = -1, float("nan")
                    said.refused[0] = "too long"
                    return said

            return One()

    work, _ = label(config, students=Refusing())
    rows = frame(work)
    refused = rows[rows["reason"] == "the student could not answer: too long"]
    assert len(refused) == 5  # one of each group of a month's texts with one champion
    assert refused["label"].isna().all()


def test_another_lag_is_refused_for_the_same_folder(config: Config) -> None:
    label(config)
    other = config.model_copy(update={"annotation": config.annotation.model_copy(update={"lag": 60})})
    with pytest.raises(ConfigError, match="another folder"):
        plan_work(other, START, END)


def test_shards_of_days_are_files_of_a_month(tmp_path: Path) -> None:
    write_headlines(tmp_path / "headlines.csv", 300)
    config = config_for(tmp_path, shard_days=10)
    with_champions(config)
    work, manifest = label(config)
    assert [name for name in manifest.files if "2019-01" in name] == [
        f"rows/month=2019-01/from-{day}.parquet" for day in ("01", "11", "21", "31")
    ]
    assert len(frame(work)) == 300


def test_texts_that_are_not_those_of_the_plan_are_refused(config: Config) -> None:
    work = plan_work(config, START, END)
    root = ArtifactRoot(config.artifacts.root)
    spec = work.read_spec(root, "2019-02-01")
    root.write_bytes(spec.texts, b"other")
    with pytest.raises(JobError, match="not what was planned"):
        annotate_shard(spec, Students())


def test_the_manifest_is_read_again_as_it_was_written(config: Config) -> None:
    work, manifest = label(config)
    assert read_manifest(RootFiles(work.out)) == manifest
    card = (Path(work.out) / "README.md").read_text()
    assert "The teacher's own knowledge" in card
    assert "linear @ 20" in card
