"""The verdict against persons' labels: what they gave to eval records, and a doubt where they contradict."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config import Config
from flywheel.report.model import Report
from flywheel.runs.run import Run
from flywheel.stages import pipeline as wheel
from flywheel.stages.label import label
from flywheel.workloads.workload import Workload
from tests.unit.finished_run import WORKLOAD, config_of, evaluated, finish, plan_of
from tests.unit.teacher_servers import stand_in
from tests.unit.test_stages_label import make

LABELS = ("Earnings", "Dividends")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr("flywheel.stages.score.track", lambda *_: None)
    monkeypatch.setattr("flywheel.stages.promote.register", lambda *_: None)
    return config_of(str(tmp_path / "artifacts"), f"sqlite:///{tmp_path}/mlflow.db")


def examined(
    config: Config,
    records: int,
    *,
    teacher_wrong: int,
    student_wrong: int,
    known_at: int = 100,
    more: str = "",
    labelled: int | None = None,
) -> Run:
    """Return a run whose teacher and choice err on the first so many of the eval records.

    Args:
        labelled: persons labelled the first so many; None: all.
    """
    run = finish(plan_of(config, "night-1", 2), f1={("1b", 25): 0.95})
    dataset = run.root.read_json(f"{run.path}/stages/curate.json")["result"]["dataset"]
    workload = Workload.load(WORKLOAD)
    rows, answers, persons = [], [], []
    for place in range(records):
        text, person = f"Acme reports number {place}", LABELS[place % 2]
        other = LABELS[(place + 1) % 2]
        teacher = other if place < teacher_wrong else person
        student = other if place < student_wrong else person
        messages = [*workload.messages(text), {"role": "assistant", "content": workload.answer_for(teacher)}]
        rows.append({"id": f"e{place}", "label": teacher, "messages": messages})
        answers.append({"id": f"e{place}", "teacher": teacher, "student": student})
        persons.append({"text": f"{text}{more}", "label": person, "known_at": known_at})
    _publish(run.root, "datasets", dataset, "eval.jsonl", rows)
    _publish(run.root, "evaluations", evaluated("1b", 25, dataset, 0.95)["key"], "predictions.jsonl", answers)
    folder = Path(run.root.url) / run.path
    (folder / "label.human.jsonl").write_bytes(b"\n".join(map(orjson.dumps, persons[:labelled])) + b"\n")
    return run


def _publish(root: ArtifactRoot, kind: str, key: str, name: str, rows: list[dict[str, object]]) -> None:
    parts = {}
    if root.find(kind, key):
        parts = {path.name: path.read_bytes() for path in root.fetch(kind, key).glob("*.jsonl")}
        shutil.rmtree(Path(root.url) / kind / key)
    parts[name] = b"\n".join(map(orjson.dumps, rows)) + b"\n"
    with root.build(kind, key) as folder:
        for part, data in parts.items():
            (folder / part).write_bytes(data)


def report_of(run: Run) -> Report:
    return Report.model_validate(run.root.read_json(f"{run.path}/report.json"))


def test_persons_who_see_the_choice_lose_more_than_allowed_keep_it_from_being_promoted(
    config: Config,
) -> None:
    run = examined(config, 200, teacher_wrong=10, student_wrong=70)
    wheel.score(run)
    decision = report_of(run).decision
    assert decision.persons is not None
    assert decision.persons.contradicts
    assert (decision.persons.records, decision.persons.teacher) == (200, pytest.approx(0.95))
    assert decision.persons.difference == pytest.approx(-0.3)
    assert decision.persons.high == pytest.approx(-0.23, abs=0.02)
    assert decision.doubts == [decision.persons.sentence()]
    assert report_of(run).verdict.count(decision.persons.sentence()) == 1
    result = wheel.promote(run)
    assert (result.promoted, result.state) == (False, "none")
    assert (
        "Persons contradict the verdict: by the labels that persons gave to 200 of the eval records, the "
        "teacher's have a weighted F1 of 0.950 (0.920 to 0.980) and the answers of 1b @ 25 0.650"
        in result.reason
    )
    assert "more than the 0.101 that the verdict lets it lose" in result.reason


def test_a_person_may_promote_what_persons_labels_contradict(config: Config) -> None:
    asked = config.model_copy(update={"promotion": config.promotion.model_copy(update={"approval": "human"})})
    run = examined(asked, 200, teacher_wrong=10, student_wrong=70)
    wheel.score(run)
    assert wheel.promote(run).promoted
    assert any(text.startswith("Persons contradict the verdict") for text in report_of(run).verdict)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(20, "within the 0.101"), (32, "more than the 0.101 that the verdict lets it lose, but it")],
)
def test_persons_who_do_not_contradict_by_more_than_chance_stop_nothing(
    config: Config, wrong: int, said: str
) -> None:
    run = examined(config, 200, teacher_wrong=10, student_wrong=wrong)
    wheel.score(run)
    assert wheel.promote(run).promoted
    assert any(said in text and "200 of the eval records" in text for text in report_of(run).verdict)


def test_few_labels_of_persons_say_nothing(config: Config) -> None:
    run = examined(config, 600, teacher_wrong=0, student_wrong=29, labelled=29)
    wheel.score(run)
    assert wheel.promote(run).promoted
    assert (
        "Persons labelled 29 of the eval records, too few to check the verdict by." in report_of(run).verdict
    )


def test_labels_known_after_the_cutoff_and_of_other_texts_count_nowhere(config: Config) -> None:
    late = plan_of(config).cutoff
    for change in ({"known_at": late}, {"more": " and more"}):
        run = examined(config, 100, teacher_wrong=0, student_wrong=100, **change)  # type: ignore[arg-type]  # one of its arguments
        wheel.score(run)
        persons = report_of(run).decision.persons
        assert persons is not None
        assert (persons.records, persons.contradicts) == (0, False)


def test_labels_of_persons_are_kept_with_times_before_the_cutoff_alone(tmp_path: Path) -> None:
    rows = [
        "Acme pays,2024-03-01,dividends",
        "Bolt pays,2024-03-01,",
        "Core pays,2024-03-01,no class",
        "Dune pays,2025-03-01,Dividends",
    ]
    (tmp_path / "headlines.csv").write_text("\n".join(["headline,date,human", *rows]) + "\n")
    (tmp_path / "undated.csv").write_text("headline,human\nEcho pays,Dividends\n")
    sources = [
        {"path": str(tmp_path / "headlines.csv"), "columns": {"human_label": "human"}},
        {"path": str(tmp_path / "undated.csv"), "columns": {"human_label": "human", "timestamp": None}},
    ]
    texts = [*(row.split(",")[0] for row in rows), "Echo pays"]
    with stand_in(dict.fromkeys(texts, "Dividends")) as (url, _):
        plan = make(tmp_path, url, cutoff="2024-06-01", source=sources)
        label(plan, tmp_path)
        kept = (tmp_path / "label.human.jsonl").read_bytes().splitlines()
        assert list(map(orjson.loads, kept)) == [
            {"text": "Acme pays", "label": "Dividends", "known_at": 1709337599}
        ]
        (tmp_path / "headlines.csv").write_text("\n".join(["headline,date,human", *rows[1:]]) + "\n")
        label(plan, tmp_path)
    assert not list(tmp_path.glob("*label.human*"))
