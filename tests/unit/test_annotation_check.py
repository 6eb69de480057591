"""The proof that no row has read the future, and what it finds."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from flywheel.annotation.checking import CheckFinding, check
from flywheel.annotation.manifest import digest_of
from flywheel.annotation.work import finish_work, plan_work, run_here
from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Config
from tests.unit import labelled_history
from tests.unit.annotation_plants import change_rows, seal_again
from tests.unit.champions import put_in_force
from tests.unit.labelled_history import (
    NIGHTS,
    START,
    Students,
    config_for,
    enter,
    with_champions,
    write_dataset,
    write_headlines,
)

END = START + timedelta(days=90)
MARCH = "rows/month=2019-03/from-01.parquet"


config = labelled_history.history  # a fixture


def label(config: Config) -> str:
    work = plan_work(config, START, END)
    run_here(work, Students())
    finish_work(work)
    return work.out


def failed(config: Config, out: str, tmp_path: Path, **settings: Any) -> dict[str, CheckFinding]:
    """Return what fails, by the first words."""
    found = check(config, out, scratch=tmp_path, **settings)
    return {one.what.partition(":")[0]: one for one in found if one.state == "FAILED"}


def test_a_history_is_proved_and_the_limits_are_counted(config: Config, tmp_path: Path) -> None:
    found = check(config, label(config), scratch=tmp_path)
    assert {one.state for one in found} == {"proved", "limit"}
    ahead = next(one for one in found if one.what.startswith("records:"))
    assert (ahead.state, ahead.checked > 100) == ("proved", True)
    limits = [one for one in found if one.state == "limit"]
    assert [one.what.partition(":")[0] for one in limits] == ["prompt and settings"]  # backfilled today
    assert "prompt and settings" in failed(config, label(config), tmp_path, strict=True)


def test_a_row_that_was_changed_is_found_by_its_files_digest(config: Config, tmp_path: Path) -> None:
    out = label(config)
    change_rows(out, MARCH, lambda row: row.update(label="OTHER"))
    assert "files" in failed(config, out, tmp_path)


def test_a_planted_row_of_a_later_champion_is_found_though_all_digests_fit(
    config: Config, tmp_path: Path
) -> None:
    out = label(config)
    change_rows(out, "rows/month=2019-02/from-01.parquet", lambda row: row.update(adapter="adapter2"))
    seal_again(config, out)
    found = failed(config, out, tmp_path)
    assert {"champion", "records"} <= set(found)
    assert found["records"].detail.startswith("1, the first: row ")


def test_a_row_that_says_it_was_known_later_is_found_in_the_sources(config: Config, tmp_path: Path) -> None:
    out = label(config)
    change_rows(out, MARCH, lambda row: row.update(known_at=row["known_at"] + timedelta(hours=3)))
    seal_again(config, out)
    assert set(failed(config, out, tmp_path)) == {"known_at"}


def test_a_row_that_was_taken_out_is_found_in_the_sources(config: Config, tmp_path: Path) -> None:
    out = label(config)
    table = pq.read_table(Path(out) / MARCH, partitioning=None)
    pq.write_table(table.slice(0, len(table) - 1), Path(out) / MARCH)
    seal_again(config, out)
    assert set(failed(config, out, tmp_path)) == {"sources"}


@pytest.mark.parametrize("with_digest", [False, True])
def test_a_tampered_manifest_is_found(config: Config, tmp_path: Path, with_digest: bool) -> None:
    out = label(config)
    path = Path(out) / "manifest.json"
    manifest = orjson.loads(path.read_bytes())
    manifest["lag"] = 0 if manifest["lag"] else 1
    if with_digest:
        manifest["digest"] = digest_of(manifest)
    path.write_bytes(orjson.dumps(manifest))
    assert "manifest.json" in failed(config, out, tmp_path)


def test_a_clock_that_was_shifted_in_the_data_set_is_found(config: Config, tmp_path: Path) -> None:
    out = label(config)
    write_dataset(ArtifactRoot(config.artifacts.root), "dataset1", int(NIGHTS[1].timestamp()) + 5 * 86_400)
    found = failed(config, out, tmp_path)
    assert {"records", "adapter_cutoff"} <= set(found)


def test_a_clock_that_was_shifted_in_the_config_is_found(config: Config, tmp_path: Path) -> None:
    later = config.model_copy(
        update={"source": (config.source[0].model_copy(update={"known_after": 86_400}),)}
    )
    assert "known_at" in failed(config, label(later), tmp_path)


def test_a_night_that_is_taken_out_of_the_timeline_is_found(config: Config, tmp_path: Path) -> None:
    out = label(config)
    enter(ArtifactRoot(config.artifacts.root), None, int(NIGHTS[1].timestamp()), 1)
    assert "champion" in failed(config, out, tmp_path)


def test_a_data_set_without_times_proves_nothing(config: Config, tmp_path: Path) -> None:
    out = label(config)
    root = ArtifactRoot(config.artifacts.root)
    root.remove("datasets", "dataset1")
    assert {"champions", "records"} <= set(failed(config, out, tmp_path))


def test_a_file_that_nobody_wrote_is_found(config: Config, tmp_path: Path) -> None:
    out = label(config)
    (Path(out) / "rows/month=2019-03/from-02.parquet").write_bytes((Path(out) / MARCH).read_bytes())
    assert "folder" in failed(config, out, tmp_path)


def test_todays_champion_is_checked_and_what_it_has_read_is_counted(tmp_path: Path) -> None:
    write_headlines(tmp_path / "headlines.csv", 200)
    config = config_for(tmp_path, mode="champion")
    put_in_force(ArtifactRoot(config.artifacts.root), with_champions(config)[-1])
    found = check(config, label(config), scratch=tmp_path)
    assert not [one for one in found if one.state == "FAILED"]
    ahead = next(one for one in found if one.what.startswith("records:"))
    assert ahead.state == "limit"
    assert int(ahead.detail.split(",")[0]) > 100


def test_an_output_that_was_copied_elsewhere_has_no_seal_there(config: Config, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(label(config), tmp_path / "copy")
    assert hashlib.sha256((Path(copy) / MARCH).read_bytes()).hexdigest()
    assert set(failed(config, str(copy), tmp_path)) == {"manifest.json"}
