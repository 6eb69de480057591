"""Archives: every file in a zip or tar is read, or the source is an error that names it."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from flywheel.common.errors import SourceError
from flywheel.config.source import SourceConfig
from flywheel.sources import read_headlines
from flywheel.sources.files import files_of
from flywheel.sources.quarantine import Quarantine

HEADER = "headline,date\n"
CASE = Path(__file__).parents[3] / "shared/cases/zip_of_several_files/months.csv.zip"


def csv(*texts: str) -> bytes:
    return (HEADER + "".join(f"{text},2024-05-31\n" for text in texts)).encode()


def zipped(path: Path, files: dict[str, bytes], **settings: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(files: dict[str, bytes], *, link: str = "") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        folder = tarfile.TarInfo("news")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "elsewhere.csv"
            archive.addfile(info)
    return made.getvalue()


def texts_of(path: object, tmp_path: Path, **settings: Any) -> list[str]:
    source = SourceConfig(path=str(path), **settings)
    with Quarantine(tmp_path / "q.jsonl") as quarantine:
        headlines = list(read_headlines(source, quarantine, key="source.0"))
    assert quarantine.count == 0
    return [headline.text for headline in headlines]


THREE = {"2024-01.csv": csv("a", "b"), "news/2024-02.csv": csv("c"), "2024-03.csv": csv("d", "e")}


def test_all_files_of_a_zip_are_read_and_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "2024.csv.zip", THREE)
    assert texts_of(path, tmp_path) == ["a", "b", "c", "d", "e"]
    names = [file.name for file in files_of(SourceConfig(path=str(path)), "source.0")]
    assert names == [f"{path}/{name}" for name in THREE]


@pytest.mark.skipif(not CASE.exists(), reason="no shared/cases here")
def test_the_reported_zip_of_three_months_has_sixty_headlines(tmp_path: Path) -> None:
    assert len(texts_of(CASE, tmp_path)) == 60


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("n.tar", bytes),
        ("n.tar.gz", gzip.compress),
        ("n.tgz", gzip.compress),
        ("n.tar.bz2", bz2.compress),
        ("n.tar.xz", lzma.compress),
        ("n.tar.zst", zstandard.compress),
    ],
)
def test_all_files_of_a_tar_are_read(tmp_path: Path, name: str, compress: Callable[[bytes], bytes]) -> None:
    (tmp_path / name).write_bytes(compress(tarred(THREE)))
    assert texts_of(tmp_path / name, tmp_path) == ["a", "b", "c", "d", "e"]


def test_what_systems_add_to_an_archive_is_passed_over(tmp_path: Path) -> None:
    added = {
        "__MACOSX/._2024.csv": b"\x00\x05\x16\x07",
        "._x.csv": b"\x00\x05",
        ".DS_Store": b"\x00Bud1",
        "d/": b"",
    }
    path = zipped(tmp_path / "n.zip", {**added, "2024.csv": csv("a")})
    assert texts_of(path, tmp_path) == ["a"]


def test_what_systems_add_to_an_unpacked_archive_is_passed_over_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(csv("a"))
    (tmp_path / "._a.csv").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX/b.csv").write_bytes(b"\x00")
    assert texts_of(tmp_path / "*.csv", tmp_path) == ["a"]
    assert texts_of(tmp_path / "**/*.csv", tmp_path) == ["a"]


def test_archives_of_a_remote_file_system_are_read(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/archives/a.zip", zipped(tmp_path / "a.zip", THREE).read_bytes())
    memory.pipe("/archives/b.tar.gz", gzip.compress(tarred({"x.csv": csv("f")})))
    assert texts_of("memory://archives/*", tmp_path) == ["a", "b", "c", "d", "e", "f"]


def test_files_in_archives_are_read_by_their_own_names(tmp_path: Path) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"headline": ["p"], "date": ["2024-05-31"]}), table)
    files = {
        "a.csv.gz": gzip.compress(csv("g")),
        "b.jsonl": b'{"headline": "j", "date": "2024-05-31"}\n',
        "c.parquet": table.getvalue(),
        "d.csv.zst": zstandard.compress(csv("z")),
    }
    assert texts_of(zipped(tmp_path / "n.zip", files), tmp_path) == ["g", "j", "p", "z"]
    (tmp_path / "n.tar.zst").write_bytes(zstandard.compress(tarred(files)))
    assert texts_of(tmp_path / "n.tar.zst", tmp_path) == ["g", "j", "p", "z"]


def test_a_glob_of_archives_and_files(tmp_path: Path) -> None:
    zipped(tmp_path / "a.csv.zip", {"x.csv": csv("a"), "y.csv": csv("b")})
    (tmp_path / "b.csv").write_bytes(csv("c"))
    assert texts_of(tmp_path / "*.csv*", tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is an archive without a file"),
        ({"__MACOSX/._a.csv": b"\x00"}, "is an archive without a file"),
        ({"a.csv": csv("a"), "notes.pdf": b"%PDF"}, "n.zip/notes.pdf: its name ends in none of"),
        ({"a.csv": csv("a"), "read.txt": b"Terms of use\n"}, "n.zip/read.txt: no column 'headline'"),
        ({"a.csv": csv("a"), "b.csv": b""}, "n.zip/b.csv: is empty"),
        ({"a.csv": csv("a"), "b.zip": b"PK"}, "holds an archive"),
        ({"a.csv": csv("a"), "\x1b[31m.pdf": b"%PDF"}, r"n.zip/\x1b[31m.pdf"),
    ],
)
def test_a_file_in_an_archive_that_is_no_source_is_an_error_with_its_name(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(SourceError) as caught:
        texts_of(zipped(tmp_path / "n.zip", files), tmp_path)
    assert message in str(caught.value)
    assert "source.0" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def damaged_zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a.csv", csv("a"))
    return made.getvalue().replace(b"a,2024-05-31", b"x,2024-05-31")


ENCRYPTED = bytearray(damaged_zip())
ENCRYPTED[6] |= 1  # the flag of the file's header
ENCRYPTED[ENCRYPTED.rindex(b"PK\x01\x02") + 8] |= 1  # and of the directory's


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("n.zip", b"no zip", "is no readable archive"),
        ("n.zip", damaged_zip()[:-30], "is no readable archive"),
        ("n.zip", damaged_zip(), "a.csv: cannot be read: Bad CRC-32"),
        ("n.zip", bytes(ENCRYPTED), "is encrypted"),
        ("n.tar", b"no tar" * 200, "is no readable archive"),
        ("n.tar", tarred(THREE)[:1500], "is no readable archive"),
        ("n.tar", tarred({"a.csv": csv("a")})[:1536], "the mark of its end is missing"),
        ("n.tgz", gzip.compress(tarred(THREE))[:-20], "n.tgz"),
        ("n.tar.zst", zstandard.compress(tarred(THREE))[:-9], "is no readable archive"),
        ("n.tar", tarred(THREE, link="today.csv"), "'today.csv' in it is a link"),
        ("n.csv.zst", zstandard.compress(csv(*map(str, range(9999))))[:-900], "ends within a frame"),
        ("n.csv.zst", b"no zst", "cannot be read"),
    ],
)
def test_a_damaged_archive_is_an_error_with_its_name(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError) as caught:
        texts_of(tmp_path / name, tmp_path)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_frames_of_zstandard_one_after_the_other_are_one_file(tmp_path: Path) -> None:
    many = csv(*(f"h{number}" for number in range(5000)))
    (tmp_path / "n.csv.zst").write_bytes(zstandard.compress(many[:7]) + zstandard.compress(many[7:]))
    assert len(texts_of(tmp_path / "n.csv.zst", tmp_path)) == 5000


def test_a_compressed_tar_is_unpacked_twice_however_many_files_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{number:03}.csv": csv(f"h{number}", "x" * 2000) for number in range(60)}
    (tmp_path / "n.tar.gz").write_bytes(gzip.compress(tarred(files)))
    rewinds = []
    rewind = gzip._GzipReader._rewind  # type: ignore[attr-defined]
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda self: (rewinds.append(1), rewind(self)))  # type: ignore[attr-defined]
    assert len(texts_of(tmp_path / "n.tar.gz", tmp_path)) == 120
    assert len(rewinds) <= 3
