"""Every source says from when to when its texts are; what cannot be right about that is a warning."""

import json
from pathlib import Path
from typing import Any

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import NotEnoughRecordsError
from flywheel.config.source import SourceConfig
from flywheel.sources import SourceSpan, SourceSpans, read_headlines
from flywheel.sources.quarantine import Quarantine
from flywheel.sources.spans import doubts_of
from flywheel.stages.curate import curate
from flywheel.stages.ingest import IngestResult, ingest
from flywheel.stages.label import LabelResult
from tests.unit.news_records import news_plan, news_record

HOUR, DAY = 3600, 86_400
JUNE_1 = 1717200000  # 2024-06-01T00:00:00Z
NOTHING = LabelResult(
    headlines=0, labelled=0, asked=0, found=0, quarantined=0, later=0, records_file="labelled.jsonl",
    quarantine_file="label.quarantine.jsonl", prompt_tokens=0, completion_tokens=0, human=None, seconds=0,
)  # fmt: skip


def test_a_source_says_its_earliest_and_latest_and_how_many_lie_after_the_cutoff(tmp_path: Path) -> None:
    rows = ["2024-05-31T22:00Z", "2024-05-30T10:00Z", "2024-06-01T00:00Z", "2024-06-02", "never"]
    (tmp_path / "h.csv").write_text("headline,date\n" + "".join(f"Acme beats,{row}\n" for row in rows))
    source, spans = SourceConfig(path=str(tmp_path / "h.csv")), SourceSpans()
    with Quarantine(tmp_path / "q") as quarantine:
        list(read_headlines(source, quarantine, before=JUNE_1, span=spans.of("source.0", source)))
    (span,) = spans.all()
    assert span.line() == (
        f"{tmp_path}/h.csv: 4 texts from 2024-05-30 10:00 to 2024-06-02 00:00, 2 of them after the cutoff"
    )
    assert span.newest == JUNE_1 - 2 * HOUR


def test_a_source_without_times_says_so(tmp_path: Path) -> None:
    spans = SourceSpans()
    spans.of("source.0", SourceConfig(path="h.csv"))
    assert [span.line() for span in spans.all()] == ["h.csv: no text with a time"]
    assert spans.doubts(ArtifactRoot(str(tmp_path)), ("news", "desk"), "night", JUNE_1) == ()


# -- what speaks against it ----------------------------------------------------------------------------


class Nights:
    """The nights of a feed, one after the other."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.root = ArtifactRoot(str(folder))
        self.source = SourceConfig(path="wire.csv", **settings)

    def doubts(self, cutoff: int, newest: int | None, *, later: int = 0, rows: int = 100) -> list[str]:
        latest = cutoff + DAY if later else newest
        span = SourceSpan(
            key="source.0", path="wire.csv", rows=rows, later=later,
            earliest=min(JUNE_1 - 400 * DAY, latest or 0), latest=latest, newest=newest,
        )  # fmt: skip
        return doubts_of(self.root, ("news", "desk"), f"night {cutoff}", cutoff, span, self.source)


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def test_a_source_of_the_future_is_a_doubt(nights: Nights) -> None:
    (doubt,) = nights.doubts(JUNE_1, None, later=100)
    assert "source.0: all 100 texts of wire.csv lie after the cutoff 2024-06-01 00:00" in doubt
    (doubt,) = nights.doubts(JUNE_1, JUNE_1 - 1, later=2999, rows=3000)
    assert "2,999 of 3,000 texts" in doubt
    assert nights.doubts(JUNE_1, JUNE_1 - 1, later=90) == []


def test_an_old_file_in_the_place_of_a_new_one_is_a_doubt(nights: Nights) -> None:
    assert nights.doubts(JUNE_1, JUNE_1 - HOUR) == []
    (doubt,) = nights.doubts(JUNE_1 + DAY, JUNE_1 - 30 * DAY)
    assert (
        "before the cutoff is of 2024-05-02 00:00, but an earlier run has seen one of 2024-05-31 23:00"
        in doubt
    )


def test_the_same_night_again_is_told_the_same_and_no_night_by_later_ones(nights: Nights) -> None:
    nights.doubts(JUNE_1 + 5 * DAY, JUNE_1 + 4 * DAY)
    assert nights.doubts(JUNE_1, JUNE_1 - HOUR) == []
    assert nights.doubts(JUNE_1, JUNE_1 - 2 * HOUR) == []


def test_a_feed_that_has_stopped_is_a_doubt_by_what_was_usual(nights: Nights) -> None:
    for night in range(4):
        assert nights.doubts(JUNE_1 + night * DAY, JUNE_1 + night * DAY - 6 * HOUR) == []
    last = JUNE_1 + 3 * DAY - 6 * HOUR
    assert nights.doubts(JUNE_1 + 4 * DAY, last)  # 30 hours old, where 6 were usual
    (doubt,) = nights.doubts(JUNE_1 + 5 * DAY, last)
    assert "2.2 days before it; the last 3 runs had one of at most 6 hours: has the feed stopped?" in doubt
    assert nights.doubts(JUNE_1 + 6 * DAY, JUNE_1 + 6 * DAY - HOUR) == []


def test_an_archive_that_never_changes_is_no_doubt(nights: Nights) -> None:
    for night in range(40):
        assert nights.doubts(JUNE_1 + night * DAY, JUNE_1 - HOUR) == []


def test_a_silence_as_long_as_earlier_ones_is_no_doubt(nights: Nights) -> None:
    found = []
    for night in range(28):
        cutoff = JUNE_1 + night * DAY  # a Saturday, then on; nothing is written on weekends
        found.append(nights.doubts(cutoff, cutoff - 6 * HOUR - max(0, night % 7 - 4) * DAY))
    assert found[14:] == [[]] * 14


def test_stale_after_decides_where_it_is_set(tmp_path: Path) -> None:
    nights = Nights(tmp_path, stale_after=DAY)
    assert nights.doubts(JUNE_1, JUNE_1 - DAY) == []
    (doubt,) = nights.doubts(JUNE_1 + DAY, JUNE_1 - DAY)
    assert "2.0 days before it; source.0.stale_after allows 24 hours" in doubt


def test_sources_of_other_clients_and_paths_are_others(nights: Nights, tmp_path: Path) -> None:
    nights.doubts(JUNE_1, JUNE_1 - HOUR)
    span = SourceSpan(key="source.0", path="wire.csv", rows=1, later=0, earliest=1, latest=1, newest=1)
    assert doubts_of(nights.root, ("news", "other"), "night", JUNE_1, span, nights.source) == []
    assert doubts_of(nights.root, ("news", "desk"), "night", JUNE_1, span, SourceConfig(path="b.csv")) == []


# -- stages and report ---------------------------------------------------------------------------------


def logged(tmp_path: Path, times: list[int], *, cutoff: int) -> IngestResult:
    (tmp_path / "labelled.jsonl").write_text("")
    lines = [json.dumps(news_record(f"h {t}", timestamp=t).to_json()) for t in times]
    (tmp_path / "logs.jsonl").write_text("\n".join(lines))
    source = {"path": str(tmp_path / "logs.jsonl"), "kind": "log_records"}
    return ingest(news_plan(tmp_path, cutoff=cutoff, source=[source]), tmp_path, NOTHING)


def test_ingest_tells_the_times_of_logs(tmp_path: Path) -> None:
    result = logged(tmp_path, [JUNE_1 - 7, JUNE_1 - 5, JUNE_1], cutoff=JUNE_1)
    (span,) = result.sources
    assert (span.rows, span.later, span.earliest, span.latest, span.newest) == (
        3, 1, JUNE_1 - 7, JUNE_1, JUNE_1 - 5,
    )  # fmt: skip
    assert result.warnings == ()


def test_times_from_now_on_as_a_notebook_makes_them_are_a_warning_and_are_named_where_records_lack(
    tmp_path: Path,
) -> None:
    result = logged(tmp_path, list(range(JUNE_1 - 1, JUNE_1 + 2999)), cutoff=JUNE_1)
    assert "2,999 of 3,000 texts" in result.warnings[0]
    plan = news_plan(tmp_path, cutoff=JUNE_1, min_total_records=50)
    with pytest.raises(NotEnoughRecordsError, match="2,999 lie after the cutoff"):
        curate(plan, tmp_path)
