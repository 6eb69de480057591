"""Sources are looked at before anything is paid for: every file is opened, and its first rows are read."""

import gzip
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flywheel.common.errors import SourceError
from flywheel.config.source import SourceConfig
from flywheel.sources import look_at
from flywheel.sources.preflight import FIRST_ROWS
from flywheel.stages.label import label
from tests.unit.news_records import news_record
from tests.unit.teacher_servers import Script, completion, served
from tests.unit.test_stages_label import make

GOOD = "headline,date\n" + "".join(f"Acme beats {number},2024-05-31\n" for number in range(30))


def log_of(count: int, **changes: Any) -> str:
    lines = [news_record(f"h {number}", timestamp=1717200000 + number).to_json() for number in range(count)]
    return "".join(json.dumps(line | changes) + "\n" for line in lines)


def test_the_first_rows_of_every_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(GOOD)
    (tmp_path / "b.csv").write_text("headline,date\n,2024-05-31\n" + "Bolt sinks,2024-06-02\n" * 3000)
    look = look_at(SourceConfig(path=str(tmp_path / "*.csv")), "source.0")
    assert (look.files, look.rows, look.bad) == (2, 30 + FIRST_ROWS, 1)
    assert look.first_problem == f"{tmp_path}/b.csv, line 2: headline: empty"
    assert look.span.line().endswith("from 2024-05-31 00:00 to 2024-06-02 00:00")


def test_the_first_records_of_a_log_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(log_of(20) + "{}\n[]\n" + log_of(1, timestamp="noon"))
    look = look_at(SourceConfig(path=str(tmp_path / "a.log"), kind="log_records"), "source.0")
    assert (look.rows, look.bad, look.span.rows) == (23, 3, 20)
    assert look.first_problem.endswith("line 21: request: missing")


BAD: dict[str, tuple[str, bytes, str]] = {
    "without the column": ("m.csv", b"title,date\nAcme,2024-05-31\n", "no column 'headline'"),
    "empty": ("m.csv", b"", "is empty"),
    "cut off": ("m.csv.gz", gzip.compress(GOOD.encode() * 500)[:-30], "cannot be read"),
    "of days or months first": ("m.csv", b"headline,date\n" + b"Acme,03/04/2024\n" * 5, "time_format"),
    "of no row that can be used": ("m.csv", b"headline,date\n" + b",2024-05-31\n" * 10, "not one of the first 10 rows"),
    "no Parquet": ("m.parquet", b"PAR1 no more", "is not a readable Parquet file"),
    "no zip": ("m.csv.zip", b"PK", "is no readable archive"),
    "no log": ("m.log", b"level=info msg=up\n" * 10, "not one of the first 10 rows can be used"),
}  # fmt: skip


@pytest.fixture
def teacher() -> Iterator[tuple[str, Script]]:
    script = Script([(200, {}, completion("[[[other]]]"))])
    with served(script) as url:
        yield url, script


@pytest.mark.parametrize(("name", "data", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_among_good_ones_ends_the_run_before_anything_is_asked(
    tmp_path: Path, teacher: tuple[str, Script], name: str, data: bytes, message: str
) -> None:
    for good in ("a.csv", "z.csv"):
        (tmp_path / good).write_text(GOOD)
    (tmp_path / name).write_bytes(data)
    sources: list[dict[str, Any]] = [{"path": str(tmp_path / "*.csv*")}]
    if name.endswith(".log"):
        sources.append({"path": str(tmp_path / "*.log"), "kind": "log_records"})
    if name.endswith(".parquet"):
        sources.append({"path": str(tmp_path / "*.parquet")})
    with pytest.raises(SourceError, match=message) as caught:
        label(make(tmp_path, teacher[0], source=sources), tmp_path)
    assert name in str(caught.value)
    assert not teacher[1].calls


def test_a_file_of_an_archive_that_is_damaged_late_ends_the_run_before_anything_is_asked(
    tmp_path: Path, teacher: tuple[str, Script]
) -> None:
    path = tmp_path / "n.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", GOOD)
        archive.writestr("b.csv", GOOD * 200 + "last")
    path.write_bytes(path.read_bytes().replace(b"last", b"lost", 1))
    with pytest.raises(SourceError, match=r"b\.csv: cannot be read: Bad CRC-32"):
        label(make(tmp_path, teacher[0], source=[{"path": str(path)}]), tmp_path)
    assert not teacher[1].calls


def test_a_log_that_is_not_there_ends_the_run_before_anything_is_asked(
    tmp_path: Path, teacher: tuple[str, Script]
) -> None:
    (tmp_path / "a.csv").write_text(GOOD)
    logs = {"path": str(tmp_path / "app.log"), "kind": "log_records"}
    with pytest.raises(SourceError, match=r"app\.log: no such file.*source\.1\.path"):
        label(make(tmp_path, teacher[0], source=[{"path": str(tmp_path / "a.csv")}, logs]), tmp_path)
    assert not teacher[1].calls


def test_few_bad_rows_alone_are_no_bad_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("headline,date\n" + ",2024-05-31\n" * 9)
    look = look_at(SourceConfig(path=str(tmp_path / "a.csv")), "source.0")
    assert (look.rows, look.bad) == (9, 9)
