"""Small inputs that would grow: answers in Unicode's worst, braces without end, bad rows and archives of zeros."""

import bz2
import gzip
import json
import lzma
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard

from flywheel.common.errors import RecordError, SourceError
from flywheel.config.source import SourceConfig
from flywheel.sources import quarantine, read_headlines
from flywheel.sources.preflight import check_sources
from flywheel.sources.quarantine import Quarantine
from flywheel.workloads import labels, tool_calls
from flywheel.workloads.labels import parse_label
from flywheel.workloads.records import Record
from flywheel.workloads.tool_calls import parse_calls

CLASSES = ("Earnings", "OTHER")
ZEROS = b"headline,date\n" + b"a,2024-05-31\n" + b"\n" * 70_000_000


class Normalizing:
    """Counts what Unicode's normal forms are made of: characters in and out, and the steps of sorting."""

    def __init__(self) -> None:
        self.given = self.got = self.steps = 0

    def __call__(self, form: str, text: str) -> str:
        found = unicodedata.normalize(form, text)
        marks = sum(map(bool, map(unicodedata.combining, text)))
        self.given, self.got = self.given + len(text), self.got + len(found)
        self.steps += marks * marks
        return found


@pytest.mark.parametrize(
    "answer",
    ["\ufdfa" * 600_000, "a" + "\u0315\u0300" * 300_000, "[\ufdfa" * 90_000, ("\ufdfa" * 60 + "] [") * 1500],
    ids=["ligatures", "marks", "open brackets", "brackets"],
)
def test_an_answer_of_unicode_s_worst_is_no_answer_and_costs_what_its_length_does(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Normalizing()
    monkeypatch.setattr(labels, "unicodedata", SimpleNamespace(normalize=counted))
    assert parse_label(answer, CLASSES, {}) is None
    assert counted.got <= 3 * len(answer)
    assert counted.steps <= 400 * len(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "［［［ＥＡＲＮＩＮＧＳ］］］",
        "﹇earnings﹈",
        "word " * 5000 + "[[[earnings]]]",
        "思考" * 300 + " [[[earnings]]]",
    ],
)
def test_a_class_in_an_answer_of_any_usual_length_and_script_is_read_as_before(answer: str) -> None:
    assert parse_label(answer, CLASSES, {}) == "Earnings"


def test_an_answer_of_100_000_characters_beside_its_thoughts_names_no_class() -> None:
    assert parse_label("x " * 50_000 + "[[[earnings]]]", CLASSES, {}) is None
    assert parse_label("<think>" + "x " * 200_000 + "</think>[[[earnings]]]", CLASSES, {}) == "Earnings"


def test_braces_without_end_are_read_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    class Decoder:
        def raw_decode(self, text: str, place: int) -> tuple[object, int]:
            nonlocal tries
            tries += 1
            return json.JSONDecoder().raw_decode(text, place)

    monkeypatch.setattr(tool_calls, "_DECODER", Decoder())
    assert parse_calls('{"a":' * 100_000) == ()
    assert tries <= 100


def record(**changes: object) -> dict[str, object]:
    message = {"role": "assistant", "content": "[[[earnings]]]"}
    return {
        "request": {"model": "m", "messages": [{"role": "user", "content": "x"}], **changes},
        "response": {"choices": [{"message": message}]},
        "workload_id": "w",
        "client_id": "c",
        "timestamp": 1760845128,
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (record(model="m" * 300), "request.model: expected at most 256"),
        (record(messages=[{"role": "user", "content": "x"}] * 10_001), "at most 10000"),
        (record(tools=[{"type": "function", "function": {"name": "f"}}] * 1001), "at most 1000"),
        ({**record(), "client_id": " " * 1_000_000}, "client_id: expected at most 256"),
    ],
)
def test_what_is_longer_or_more_than_any_log_has_is_refused(data: object, said: str) -> None:
    with pytest.raises(RecordError, match=said):
        Record.from_json(data, CLASSES, {})


def test_a_quarantine_lists_the_first_of_each_reason_and_counts_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MAX_LISTED", 3)
    with Quarantine(tmp_path / "q") as aside:
        for line in range(1000):
            aside.add("a.csv", line, f"date: none: {line}", "x")
        aside.add("a.csv", 1000, "blank line")
    rows = [json.loads(line) for line in (tmp_path / "q").read_text().splitlines()]
    assert [row["line"] for row in rows] == [0, 1, 2, 1000, None]
    assert rows[-1]["reason"] == "date: 997 more, which are not listed"
    assert (aside.count, aside.reasons) == (1001, {"date": 1000, "blank line": 1})


def test_a_quarantine_is_of_bounded_size_whatever_its_reasons_and_inputs_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MAX_BYTES", 100_000)
    with Quarantine(tmp_path / "q") as aside:
        for line in range(2000):
            aside.add("f" * 10_000, line, f"{line}" + "r" * 1_000_000, "\x00" * 100_000, answer="\x00" * 9999)
    assert (aside.count, sum(aside.reasons.values())) == (2000, 2000)
    assert len(aside.reasons) == quarantine.MAX_KINDS + 1
    assert (tmp_path / "q").stat().st_size < 700_000


def zipped(data: bytes) -> bytes:
    import io

    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", data)
    return made.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "csv.gz": gzip.compress,
    "csv.bz2": bz2.compress,
    "csv.xz": lzma.compress,
    "csv.zst": lambda data: zstandard.ZstdCompressor().compress(data),
    "zip": zipped,
}


@pytest.mark.parametrize("ending", PACKED)
def test_a_file_that_unpacks_to_hundreds_of_times_its_size_is_an_error_that_names_it(
    ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"bomb.{ending}"
    path.write_bytes(PACKED[ending](ZEROS))
    source = SourceConfig(path=str(path))
    with pytest.raises(SourceError, match=r"bomb.*it unpacks to more than 64,000,000 bytes.*max_ratio"):
        check_sources([("source.0", source)])


def test_all_files_of_an_archive_together_may_unpack_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "parts.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "abc":
            archive.writestr(f"{name}.csv", b"headline,date\na,2024-05-31\n" + b"b,2024-05-31\n" * 100)
    small = SourceConfig(path=str(path), max_unpacked_gb=3e-6)
    with Quarantine(tmp_path / "q") as aside, pytest.raises(SourceError, match="it unpacks to more than"):
        list(read_headlines(small, aside, key="source.0"))
    with Quarantine(tmp_path / "q") as aside:
        assert len(list(read_headlines(SourceConfig(path=str(path)), aside, key="source.0"))) == 303


def test_an_archive_of_more_files_than_anyone_packs_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(10_001):
            archive.writestr(f"{number}.csv", b"")
    with pytest.raises(SourceError, match="more than 10,000 files"):
        check_sources([("source.0", SourceConfig(path=str(path)))])


def test_a_row_s_time_and_label_of_thousands_of_characters_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"headline,date,label\na,{'9' * 5000},\nb,2024-05-31,{'x' * 5000}\nc,2024-05-31,\n")
    source = SourceConfig(path=str(path), columns={"human_label": "label"})  # type: ignore[arg-type]
    with Quarantine(tmp_path / "q") as aside:
        assert [headline.text for headline in read_headlines(source, aside)] == ["c"]
    assert set(aside.reasons) == {"date", "label"}
