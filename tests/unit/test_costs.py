"""What runs cost: by their prices, over repeats, and until the champion has paid for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.jobs.result import CustomizeResult
from flywheel.jobs.used import Used
from flywheel.promotion.champion import read_champion
from flywheel.promotion.costs import record_cost
from flywheel.report.costs import cost_of
from flywheel.report.files import read_report
from flywheel.report.html import render_html
from flywheel.report.outcomes import gather
from flywheel.report.parts import CostPart
from flywheel.report.table import render_table
from flywheel.runs.run import Run
from flywheel.serving.nights import Night, nights_folder
from flywheel.serving.payback import Costs, costs
from flywheel.stages import pipeline as wheel
from tests.unit.finished_run import config_of, finish, plan_of

# The label stage's answers cost 1.25, its 60 answers were asked: 20,833 for a million.
PRICES = {"prices": {"cpu_hour": 3.6}, "teacher": {"prices": {"prompt": 12.0, "completion": 12.0}}}
WHOSE = ("news_classifier", "default")


def ended(folder: Path, run_id: str = "night-1", **sections: Any) -> Run:
    """Return a run whose jobs have ended; one training took half an hour, an evaluation a quarter."""
    config = config_of(str(folder / "artifacts"), f"sqlite:///{folder}/mlflow.db", **{**PRICES, **sections})
    run = finish(plan_of(config, run_id))
    for name, seconds in (("customize", 1800.0), ("evaluate", 900.0)):
        change(run, f"jobs/1b@25/{name}", timing={"train": seconds})
    change(run, "jobs/1b@25/evaluate", answer_seconds=[0.001, 0.001, 0.001])
    return run


def change(run: Run, name: str, **changes: Any) -> None:
    path = f"{run.path}/{name}.json"
    data = run.root.read_json(path)
    run.root.write_json(path, {**data, "result": {**data["result"], **changes}})


def known(run: Run) -> Costs:
    return costs(run.root, *WHOSE, zone="UTC")


def test_a_nights_cost_is_one_figure_in_report_page_table_ledger_and_mlflow(tmp_path: Path) -> None:
    run = ended(tmp_path)
    wheel.score(run)
    report = read_report(run.root, run.run_id)
    words = "3.95 USD: the teacher 1.25 (70,360 tokens), machines 2.70 (0.75 CPU hours)"
    assert report.cost is not None
    assert (report.cost.total, report.cost.words) == (pytest.approx(3.95), words)
    assert words in render_html(report)
    assert words in "".join(str(part) for part in render_table(report).renderables)
    assert known(run).last == known(run).total == report.cost
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    assert report.tracking is not None
    metrics = mlflow.get_run(report.tracking.run_id).data.metrics
    assert [metrics[name] for name in ("cost", "cost_teacher", "cost_machines")] == pytest.approx(
        [3.95, 1.25, 2.7]
    )


def test_what_stages_and_jobs_used_is_their_cost(tmp_path: Path) -> None:
    run = ended(tmp_path)
    use = {
        "stages/label": Used(wall_seconds=9000, cpu_seconds=100),  # it waits for the teacher
        "stages/curate": Used(wall_seconds=300, cpu_seconds=260),
        "jobs/1b@25/customize": Used(wall_seconds=3600, cpu_seconds=9999),
    }
    for name, used in use.items():
        path = f"{run.path}/{name}.json"
        run.root.write_json(path, {**run.root.read_json(path), "used": used.model_dump()})
    wheel.score(run)
    assert run.used("stages/score") is not None  # its own comes after the report
    cost = read_report(run.root, run.run_id).cost
    assert cost is not None
    # An hour of training, a quarter of an hour of an evaluation without `used`, 360 CPU seconds of stages.
    assert (cost.cpu_hours, cost.machines) == (pytest.approx(1.35), pytest.approx(1.35 * 3.6))
    assert known(run).last == cost


def test_stages_without_a_price_of_cpus_do_not_hide_what_gpus_cost(tmp_path: Path) -> None:
    run = ended(tmp_path, prices={"gpu_hour": 2.0})
    for job in run.root.list(f"{run.path}/jobs"):
        for name in ("base_eval", "customize", "evaluate"):
            if run.root.exists(f"{run.path}/jobs/{job}/{name}.json"):
                change(run, f"jobs/{job}/{name}", device="NVIDIA H200")
    label = f"{run.path}/stages/label.json"
    run.root.write_json(label, {**run.root.read_json(label), "used": Used(cpu_seconds=360).model_dump()})
    cost = cost_of(run.plan, gather(run))
    assert (cost.cpu_hours, cost.gpu_hours, cost.machines) == (0.1, 0.75, pytest.approx(1.5))


def test_a_night_that_is_done_again_adds_what_it_paid_again_and_no_more(tmp_path: Path) -> None:
    run = ended(tmp_path)
    record_cost(run, gather(run))
    first = known(run).total
    # Another try of the same night finds its jobs done, and stays as dear as it was.
    for name in ("customize", "evaluate"):
        change(run, f"jobs/1b@25/{name}", found=True)
    record_cost(run, gather(run))
    assert known(run).total == first
    # From its labels on it is another try, which paid the teacher alone.
    label = run.root.read_json(f"{run.path}/stages/label.json")
    run.root.write_json(f"{run.path}/stages/label.json", {**label, "started_at": label["started_at"] + 100})
    record_cost(run, gather(run))
    total = known(run).total
    assert first is not None
    assert total is not None
    assert (total.teacher, total.machines) == (pytest.approx(2.5), first.machines)
    assert known(run).last == CostPart(currency="USD", tokens=70_360, teacher=1.25, machines=0.0)
    assert sum(month.runs for month in known(run).months) == 2


def night_of_production(run: Run, at: int, **figures: Any) -> None:
    night = Night(workload_id=WHOSE[0], client_id=WHOSE[1], since=0, at=at, **figures)
    run.root.write_json(f"{nights_folder(*WHOSE)}/{at:012d}.json", night.model_dump(mode="json"))


def test_the_champion_has_paid_when_its_answers_have_saved_what_its_run_cost(tmp_path: Path) -> None:
    run = ended(tmp_path)
    wheel.score(run)
    wheel.promote(run)
    before = known(run)
    assert before.teacher_per_million == pytest.approx(1.25 / 60 * 1e6)
    assert before.champion_per_million == pytest.approx(1.0)  # a millisecond each, 3.60 an hour
    assert before.making is not None
    assert before.making.after == pytest.approx(3.95 / (1.25 / 60 - 1e-6), abs=1)
    assert (before.making.answered, before.making.saved, before.making.paid) == (0, None, None)
    champion = read_champion(run.root, *WHOSE)
    assert champion is not None
    # The teacher's price of the night, less the champion's own: 90 answers of a millionth.
    for at, saved, paid in ((1, 2.0, False), (2, 1.95, False), (3, 0.1, True)):
        night_of_production(run, at, by_student=90, saved=saved, adapter=champion.adapter)
        making = known(run).making
        assert making is not None
        assert (making.answered, making.paid) == (90 * at, paid)
    assert making.saved == pytest.approx(4.05 - 270 * 1e-6)
    assert (
        "the champion pays for its own run after 190 answers in the teacher's place; 270 were given in "
        in (said := "\n".join(known(run).lines()))
    )
    assert "and saved 4.05 USD: it has paid" in said


def test_answers_of_other_champions_pay_for_all_runs_and_not_for_this_ones_making(tmp_path: Path) -> None:
    run = ended(tmp_path)
    wheel.score(run)
    wheel.promote(run)
    night_of_production(run, 1, by_student=500, saved=None, adapter="another")  # its teacher had no price
    found = known(run)
    assert found.making is not None
    assert found.all_runs is not None
    assert (found.making.answered, found.making.paid) == (0, None)
    assert found.all_runs.answered == 500
    assert found.all_runs.saved == pytest.approx(500 * (1.25 / 60 - 1e-6))  # the last run's price
    assert found.all_runs.paid


def test_what_has_no_price_is_not_free(tmp_path: Path) -> None:
    run = ended(tmp_path, prices={}, teacher={})
    change(run, "stages/label", cost=0.0)
    wheel.score(run)
    cost = read_report(run.root, run.run_id).cost
    assert cost is not None
    assert (cost.total, cost.teacher, cost.machines) == (None, None, None)
    assert cost.words == (
        "what has no price: the teacher without a price (70,360 tokens), machines without a price (0.75 CPU hours)"
    )
    wheel.promote(run)
    making = known(run).making
    assert making is not None
    assert (making.cost, making.after, making.saved) == (None, None, None)


def test_nobody_has_cost_anything_yet(tmp_path: Path) -> None:
    found = costs(ArtifactRoot(str(tmp_path)), "news", "desk", "UTC")
    assert found.lines() == ["news (desk): no run has cost anything yet."]


def test_a_result_that_calls_its_timing_parts_is_still_read(tmp_path: Path) -> None:
    run = ended(tmp_path)
    older = run.root.read_json(f"{run.path}/jobs/1b@25/customize.json")["result"]
    older["parts"] = older.pop("timing")
    assert CustomizeResult.model_validate(older).timing == {"train": 1800.0}
