"""Whatever headlines say and a teacher answers, each is labelled and stored, set aside with a reason, or counted."""

import csv
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from flywheel.common import exact_json
from flywheel.common.errors import SourceError
from flywheel.sources import clean_text
from flywheel.stages.ingest import ingest
from flywheel.stages.label import QUARANTINE_FILE, label
from flywheel.stores import PaidAnswer, open_store
from flywheel.teacher.request import Requests
from tests.unit.news_records import news_plan
from tests.unit.properties.conversations import TEXTS
from tests.unit.properties.inputs import JSON_TEXTS, bounded

_HEADLINES = st.one_of(
    TEXTS, TEXTS.map(lambda text: f"Acme {text} beats"), st.sampled_from(["Acme beats", "Acme\u2028 beats"])
)
_TIMES = st.sampled_from(["2024-03-01", "2024-03-01T09:30:00Z", "2024-03-02"])
_ANSWERS = st.one_of(
    st.sampled_from(
        [
            "[[[earnings]]]",
            "[[[other]]]",
            "<think>[[[guidance]]]</think>Dividends",
            "earnings or guidance",
            "",
            "\x00",
        ]
    ),
    TEXTS,
    TEXTS.map(lambda text: f"[[[{text}]]]"),
    JSON_TEXTS.map(lambda text: text.encode("utf-8", "replace").decode()),
)
_PERSONS = st.one_of(st.just(""), st.sampled_from(["Earnings", "earnings ", "=Other", "nonsense\n"]), TEXTS)


# Without it, what is of no use would be asked for again.
ASKED_TONIGHT = {"night": "night"}


@given(
    rows=st.lists(st.tuples(_HEADLINES, _TIMES, _PERSONS), min_size=1, max_size=8),
    answers=st.lists(_ANSWERS, min_size=8, max_size=8),
)
@bounded(8)
def test_each_headline_is_labelled_and_stored_or_set_aside(rows: list[Any], answers: list[str]) -> None:
    rows, answers = [("Acme beats", "2024-03-01", ""), *rows], ["[[[earnings]]]", *answers]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "news.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["headline", "date", "who"])
            writer.writerows(
                [text.replace("\r", ""), time, person.replace("\r", "")] for text, time, person in rows
            )
        source = {"path": str(folder / "news.csv"), "columns": {"human_label": "who"}}
        plan = news_plan(folder, source=[source], cutoff=1_900_000_000)
        requests = Requests.of(plan.workload, plan.config.teacher)
        given_answers = {
            requests.key(clean_text(text.replace("\r", ""))): PaidAnswer(answer, "m", 1, dict(ASKED_TONIGHT))
            for (text, _, _), answer in reversed(list(zip(rows, answers, strict=False)))
        }
        with open_store(plan.config.store) as store:
            store.put_answers(list(given_answers.items()))
        try:
            labelled = label(plan, folder)
        except SourceError as error:
            event("refused")
            assert "news.csv" in str(error)
            return
        aside = [exact_json.loads(line) for line in (folder / QUARANTINE_FILE).read_bytes().splitlines()]
        taken = ingest(plan, folder, labelled)
        with open_store(plan.config.store) as store:
            stored = list(store.read(plan.workload_id, plan.client_id, plan.cutoff))
    event("labelled")
    set_aside = labelled.headlines - labelled.labelled
    assert labelled.asked == labelled.left == labelled.later == labelled.passed_over == 0
    assert labelled.quarantined == len(aside) == len(rows) - labelled.labelled
    assert sum("answer" in entry for entry in aside) == set_aside
    assert all(entry["reason"] and entry["line"] for entry in aside)
    assert (taken.read, taken.quarantined) == (labelled.labelled, 0)
    assert taken.written == len(stored) <= labelled.labelled
    texts = {clean_text(text.replace("\r", "")) for text, _, _ in rows}
    assert {plan.workload.text_of(record.messages) for record in stored} <= texts


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the lock of labelling and the notes beside it out of the project."""
    workloads = Path("include/workloads").resolve()
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    (tmp_path / "include").mkdir()
    (tmp_path / "include/workloads").symlink_to(workloads)
