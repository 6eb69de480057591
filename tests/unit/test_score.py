"""Scoring: one report with every candidate in it, whatever became of it."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.report import Report, print_report, read_report, render_markdown, render_table
from flywheel.report.files import mark_latest
from flywheel.report.html import render_html
from flywheel.runs.plan import Candidate
from flywheel.runs.run import Run
from flywheel.sources import SourceSpan
from flywheel.stages import pipeline as wheel
from tests.unit import finished_run
from tests.unit.finished_run import EVAL_RECORDS, TABLE_1, config_of, finish, plan_of

UNREACHABLE = "http://127.0.0.1:9"  # the discard port: refused at once


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "artifacts")


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Without MLflow, which has its own tests."""
    from flywheel.promotion.mlflow_client import TrackingError

    def unreachable(*_: object) -> None:
        raise TrackingError("MLflow at nowhere: not asked for")

    monkeypatch.setattr("flywheel.stages.score.track", unreachable)
    monkeypatch.setattr("flywheel.stages.promote.register", unreachable)


def scored(run: Run) -> Report:
    wheel.score(run)
    return read_report(run.root, run.run_id)


def test_report_json_has_the_agreed_keys(root: str) -> None:
    run = finish(plan_of(config_of(root, UNREACHABLE)))
    wheel.score(run)
    wheel.promote(run)
    report = json.loads((Path(root) / "runs/night-1/report.json").read_bytes())
    assert (report["run_id"], report["cutoff"]) == ("night-1", 1551484800)
    assert report["teacher"]["model"] == "meta/llama-3.3-70b-instruct"
    assert report["teacher"]["human_scores"]["f1_weighted"] == 0.91
    assert [(row["student"], row["score"]) for row in report["base"]] == [
        ("1b", 0.08),
        ("3b", 0.31),
        ("8b", 0.46),
    ]
    assert {(row["student"], row["size"]): row["score"] for row in report["candidates"]} == TABLE_1
    for row in report["candidates"]:
        assert row["score_ci95"][0] < row["score"] < row["score_ci95"][1]
        for key in ("parameters", "train_seconds", "records_per_second", "adapter"):
            assert row[key], key
        assert isinstance(row["unparsable"], int)
    assert (report["champion"]["student"], report["champion"]["size"]) == ("1b", 25)
    assert (
        "1b @ 25 reaches 0.900, at least 0.900, with 98.4 % confidence over 9 candidates, within 0.10 of the teacher"
        in report["champion"]["reason"]
    )
    assert report["counters"] == {"teacher_calls": 60, "training_steps": 9 * 12}
    stages = ["label", "ingest", "curate", "base_eval", "customize", "evaluate", "score", "promote"]
    assert list(report["stages"]) == stages
    assert report["stages"]["customize"] == 2.5
    assert [row["size"] for row in report["baseline"]] == [5, 10, 25]
    data = report["data"]
    assert data["quarantined"] == {"label": 1, "ingest": 2}
    assert data["reasons"] == {"names none of the classes": 2}
    assert (data["labelled"], data["stored"], data["records"], data["used"]) == (100, 60, 66, 60)
    assert (data["exact_duplicates"], data["near_duplicates"]) == (4, 2)
    assert data["notes"] == ["The rarest class has few records."]
    assert data["per_class"]["Earnings"] == {
        "total": 30,
        "train": 18,
        "val": 2,
        "calibration": 0,
        "eval": 10,
    }


def test_a_failed_candidate_is_in_the_table_with_its_reason(root: str) -> None:
    f1 = {pair: value for pair, value in TABLE_1.items() if pair != ("8b", 25)}
    run = finish(plan_of(config_of(root, UNREACHABLE)), f1=f1, failed={("8b", 25): "out of <memory>"})
    report = scored(run)
    row = report.candidate("8b", 25)
    assert row is not None
    assert (row.state, row.reason, row.score) == ("failed", "customize: out of <memory>", None)
    assert len(report.scored) == 8
    assert "Of 9 candidates 1 failed." in report.verdict
    page = (Path(root) / "runs/night-1/report.html").read_text()
    assert "out of &lt;memory&gt;" in page
    assert "8b @ 25: failed: customize: out of <memory>" in text_of(report)


def test_the_page_shows_the_teacher_against_people(root: str) -> None:
    run = finish(plan_of(config_of(root, UNREACHABLE)))
    teacher = scored(run).teacher
    assert teacher.human_confusion is not None
    assert teacher.human_confusion.columns == ["Earnings", "Guidance", "no class"]
    assert teacher.human_confusion.matrix == [[54, 5, 1], [4, 36, 0]]
    assert teacher.human_per_class[0].f1_ci95 == (0.87, 0.97)
    page = (Path(root) / "runs/night-1/report.html").read_text()
    for shown in (
        "(95 % interval 0.850 to 0.960)",
        "Earnings answered as Guidance: 5 of 60",
        "<td>0.870 to 0.970</td>",
        "<code>label.disagreements.csv</code>",
        "Acme &lt;b&gt;sees&lt;/b&gt; more",
        "<td>no class</td><td>–</td>",
        "1.25 USD",
    ):
        assert shown in page, shown


def test_the_page_says_which_tokens_and_costs_are_estimated(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    untold = finished_run.LABELLED.model_copy(update={"estimated": 60})
    monkeypatch.setattr(finished_run, "LABELLED", untold)
    page = render_html(scored(finish(plan_of(config_of(root, UNREACHABLE)))))
    assert "answers whose tokens and cost are estimated" in page
    assert "60: the endpoint did not tell" in page


def test_the_page_draws_how_far_the_probabilities_of_the_best_candidate_can_be_trusted(root: str) -> None:
    report = scored(finish(plan_of(config_of(root, UNREACHABLE))))
    assert all(row.ece == 0.021 for row in report.scored)
    page = render_html(report)
    for shown in (
        "Reliability diagram: expected calibration error 0.021",
        "100 answers of confidence 0.620: 0.600 agree, 0.500 to 0.700",
        "after scaling by a temperature of 1.60, fitted on the 90 records of the calibration slice; 0.083 without",
    ):
        assert shown in page
    assert report.best is not None
    best = report.best.model_copy(update={"calibration": None})
    assert "Reliability diagram" not in render_html(report.model_copy(update={"best": best}))


def test_what_became_of_records_in_jobs_is_told_once_with_the_candidates(root: str) -> None:
    run = finish(plan_of(config_of(root, UNREACHABLE)))
    note = "1 of 20 prompts count as unanswered: 1 refused by the chat template: roles (record e3)"
    for name in ("1b/base_eval", "1b/25/evaluate", "3b/25/evaluate"):
        path = f"{run.path}/jobs/{name}.json"
        if not run.root.exists(path):
            student, size, stage = name.split("/")
            path = f"{run.path}/jobs/{Candidate(student=student, size=int(size)).folder}/{stage}.json"
        kept = run.root.read_json(path)
        kept["result"]["notes"] = [note]
        run.root.write_json(path, kept)
    said = f"1b, 3b @ 25, 1b @ 25: {note}"  # in the order of the plan
    assert said in scored(run).warnings
    assert said in (Path(root) / "runs/night-1/report.html").read_text()


def test_the_times_of_each_source_and_what_speaks_against_them_are_shown(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    span = SourceSpan(
        key="source.0", path="wire.csv", rows=7, later=7, earliest=1717200000, latest=1717200060
    )
    labelled = finished_run.LABELLED.model_copy(update={"sources": (span,), "warnings": ("all 7 <texts>",)})
    monkeypatch.setattr(finished_run, "LABELLED", labelled)
    report = scored(finish(plan_of(config_of(root, UNREACHABLE))))
    assert report.data.sources == [span.line()]
    assert report.warnings[0] == "all 7 <texts>"
    page = render_html(report)
    assert "wire.csv: 7 texts from 2024-06-01 00:00 to 2024-06-01 00:01, 7 of them after the cutoff." in page
    assert "all 7 &lt;texts&gt;" in page


def test_a_size_without_enough_records_is_shown_as_such(root: str) -> None:
    run = finish(plan_of(config_of(root, UNREACHABLE)), train=12, f1={("1b", 5): 0.5})
    states = {row.name: (row.state, row.reason) for row in scored(run).candidates}
    assert states["1b @ 25"] == ("unavailable", "asks for 25 training records; the split has 12")
    assert states["1b @ 10"][0] == "missing"
    assert states["1b @ 5"][0] == "scored"


def test_a_run_without_any_result_has_a_report(root: str) -> None:
    run = finish(plan_of(config_of(root, UNREACHABLE), students=["1b"]), f1={("none", 1): 0.0}, label=False)
    report = scored(run)
    assert report.best is None
    assert report.verdict[0] == "No candidate has a result, so there is nothing to choose from."
    assert (Path(root) / "runs/night-1/learning_curve.png").stat().st_size > 0
    assert "No candidate has a result" in text_of(report)


def test_an_evaluation_of_another_adapter_does_not_count(root: str) -> None:
    run = finish(plan_of(config_of(root, UNREACHABLE)))
    path = f"{run.path}/jobs/1b@5/evaluate.json"
    value = run.root.read_json(path)
    value["result"]["adapter"] = "of-an-earlier-try"
    run.root.write_json(path, value)
    row = scored(run).candidate("1b", 5)
    assert row is not None
    assert row.state == "missing"


def test_the_page_needs_nothing_outside_of_it_and_is_well_formed(root: str) -> None:
    run = finish(plan_of(config_of(root, UNREACHABLE)))
    report = scored(run)
    page = (Path(root) / "runs/night-1/report.html").read_text()
    assert not [
        address for address in ("http://", "https://", "src=", "href=", "@import", "url(") if address in page
    ]
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.headings[0] == "h1"
    assert checker.counts["table"] == checker.counts["caption"] >= 7
    assert checker.images_without_name == 0
    assert "prefers-color-scheme: dark" in page
    for row in report.candidates:
        assert f"{row.student} @ {row.size}</th>" in page or f"{row.student} @ {row.size} <span" in page
    assert "proposed" in page


def test_the_curve_is_a_png(root: str) -> None:
    wheel.score(finish(plan_of(config_of(root, UNREACHABLE))))
    with Image.open(Path(root) / "runs/night-1/learning_curve.png") as image:
        assert (image.format, image.size) == ("PNG", (1600, 960))


def test_the_confusion_matrix_is_of_the_best_candidate_and_sums_to_its_records(root: str) -> None:
    report = scored(finish(plan_of(config_of(root, UNREACHABLE))))
    assert report.best is not None
    assert report.best.confusion is not None
    assert (report.best.student, report.best.size) == ("3b", 25)  # as good as 8b, with fewer parameters
    assert sum(map(sum, report.best.confusion.matrix)) == EVAL_RECORDS
    supports = [part.support for part in report.best.per_class]
    assert supports == sorted(supports, reverse=True)


def test_what_could_not_be_tracked_is_a_warning_and_not_the_end(root: str) -> None:
    report = scored(finish(plan_of(config_of(root, UNREACHABLE))))
    assert report.tracking is None
    assert report.warnings == ["Not tracked: MLflow at nowhere: not asked for"]


def test_scoring_twice_gives_the_same_report(root: str) -> None:
    run = finish(plan_of(config_of(root, UNREACHABLE)))
    first, second = scored(run), scored(run)
    same = {"created_at", "stages"}
    assert first.model_dump(exclude=same) == second.model_dump(exclude=same)
    names = sorted(path.name for path in (Path(root) / "runs/night-1").iterdir() if path.is_file())
    assert names == ["learning_curve.png", "plan.json", "report.html", "report.json"]


def test_latest_is_the_run_scored_last(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(root, UNREACHABLE)
    for run_id in ("night-1", "night:2+0"):
        wheel.score(finish(plan_of(config, run_id)))
    link = Path(root) / "latest"
    assert link.is_symlink()
    assert json.loads((link / "report.json").read_bytes())["run_id"] == "night:2+0"
    print_report(root)
    assert f"{Run(ArtifactRoot(root), 'night:2+0').path}/report.html" in capsys.readouterr().out
    print_report(root, "night-1")
    assert "runs/night-1/report.html" in capsys.readouterr().out


def test_a_folder_named_latest_stays(root: str) -> None:
    (Path(root) / "latest").mkdir(parents=True)
    mark_latest(Run(ArtifactRoot(root), "night-1"))
    assert [path.name for path in Path(root).iterdir()] == ["latest"]


def test_a_report_that_is_not_there_is_named(root: str) -> None:
    with pytest.raises(ArtifactError, match="no run was scored yet"):
        print_report(root)
    with pytest.raises(ArtifactError, match=r"runs/x/report\.json: no report; .* runs: none"):
        print_report(root, "x")


def test_a_run_behind_a_remote_root_is_scored_and_found(memory_root: str) -> None:
    run = finish(plan_of(config_of(memory_root, UNREACHABLE)))
    wheel.score(run)
    wheel.promote(run)
    assert read_report(ArtifactRoot(memory_root)).champion is not None
    assert {"report.html", "learning_curve.png"} <= set(run.root.list(run.path))


def test_markdown_has_the_table_and_the_verdict(root: str) -> None:
    text = render_markdown(scored(finish(plan_of(config_of(root, UNREACHABLE)))))
    assert "**1b @ 25 is proposed as champion**" in text
    assert "| 25 | 0.900 ◀ | 0.950 | 0.950 |" in text


def text_of(report: Report) -> str:
    console = Console(width=200, record=True, quiet=False)
    with console.capture() as captured:
        console.print(render_table(report))
    return captured.get()


def test_the_table_fits_a_terminal_of_80_columns(root: str) -> None:
    report = scored(finish(plan_of(config_of(root, UNREACHABLE))))
    console = Console(width=80)
    with console.capture() as captured:
        console.print(render_table(report))
    assert "…" not in captured.get()


def test_latencies_are_said_to_be_of_a_batch_or_of_a_request_alone(root: str) -> None:
    run = finish(plan_of(config_of(root, UNREACHABLE)))
    report = scored(run)
    (row,) = (row for row in report.scored if row.name == "8b @ 25")
    assert (row.batch_size, row.warmup_seconds, row.latency_p95_ms) == (100, 1.5, pytest.approx(114.7, 0.01))
    assert (row.single_p50_ms, row.single_p95_ms) == (pytest.approx(8.03), pytest.approx(11.47, 0.01))
    page = (Path(root) / run.path / "report.html").read_text()
    assert "<td>80 / 115 ms (100)</td><td>8.0 / 11 ms</td>" in page
    assert "of 100" in text_of(report) and "alone" in text_of(report)
    for row in report.candidates:  # as of reports written before
        row.batch_size = row.warmup_seconds = row.single_p50_ms = row.single_p95_ms = None
    assert "<td>80 / 115 ms</td><td>–</td>" in render_html(report)
    assert "of 100" not in text_of(report)


class Checker(HTMLParser):
    """Checks that tags are closed in order, and counts what accessibility asks for."""

    VOID = frozenset({"meta", "br", "img", "link", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.headings: list[str] = []
        self.images_without_name = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag in ("h1", "h2", "h3"):
            self.headings.append(tag)
        if tag == "svg" and not dict(attrs).get("aria-labelledby"):
            self.images_without_name += 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
