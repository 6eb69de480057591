"""Many nights of the flywheel as they lie in the artifact root after their end, made from one that is whole.

The first night's stages are done by `finished_run` and by the report's own code; the others are its files with
other figures. Predictions are those of the first night, for all: the figures of a page are what is of interest
here, not how they came about.
"""

from __future__ import annotations

import copy
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from flywheel.artifacts.root import ArtifactRoot
from flywheel.promotion.champion import Champion, champion_folder
from flywheel.promotion.older import number_decisions
from flywheel.report.build import build_report
from flywheel.report.files import write_report
from flywheel.report.outcomes import gather
from flywheel.report.verdict import verdict_of
from flywheel.runs.plan import Plan
from flywheel.runs.run import Run
from flywheel.stages.examined import PREDICTIONS
from flywheel.workloads.workload import Workload
from tests.unit.finished_run import EVAL_RECORDS, TABLE_1, WORKLOAD, config_of, finish, plan_of

HEADLINES = (
    "Acme raises quarterly dividend by 12 percent after strong cash flow",
    "Regulator opens inquiry into pricing of Borealis Pharma's new inhaler",
    "Cobalt Bank lifts its price target on Dune Motors to 48 dollars",
    "Elm Retail warns that full-year profit will miss forecasts",
    "Fjord Shipping agrees to buy rival Gale Lines for 2.1 billion",
    "Shares of Hearth Energy fall 9 percent in early trading",
    "Iris Robotics wins contract to equip three warehouses of Juno Foods",
    "Kite Air and pilots' union reach a deal and avert a strike",
)


def make_nights(root_url: str, tracking_uri: str, count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Write nights into an artifact root, the latest first; return them as `seed_runs` takes them."""
    root, rng = ArtifactRoot(root_url), random.Random(seed)
    config = config_of(root_url, tracking_uri, "nights", client_id="desk")
    template = _template(root, plan_of(config, run_id="template", client_id="desk"))
    _publish_predictions(root, template)
    tonight = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0)
    runs, champions = [], []
    for number in range(count):
        night = tonight - timedelta(days=number)
        run_id = f"scheduled__{night:%Y-%m-%dT%H:%M:%S}+00:00"
        champion = _write_night(root, template, run_id, night, rng, promotes=rng.random() < 0.3)
        if champion:
            champions.append(champion)
        runs.append(
            {"run_id": run_id, "state": "success", "minutes_ago": 24 * 60 * number + 5, "root": root_url}
        )
    _write_champions(root, champions)
    return runs


def _template(root: ArtifactRoot, plan: Plan) -> dict[str, Any]:
    """Finish a run and return its files by name."""
    run = finish(plan)
    report = build_report(plan, gather(run))
    report.verdict = verdict_of(report)
    with run.folder() as folder:
        write_report(folder, report)
        return {
            str(path.relative_to(folder)): orjson.loads(path.read_bytes())
            for path in sorted(folder.rglob("*.json"))
        }


def _write_night(
    root: ArtifactRoot,
    template: dict[str, Any],
    run_id: str,
    night: datetime,
    rng: random.Random,
    *,
    promotes: bool,
) -> dict[str, Any] | None:
    files = copy.deepcopy(template)
    cutoff = int(night.timestamp())
    plan, report = files["plan.json"], files["report.json"]
    plan |= {"run_id": run_id, "cutoff": cutoff}
    report |= {"run_id": run_id, "cutoff": cutoff, "created_at": night.isoformat()}
    rows = {(row["student"], row["size"]): row for row in report["candidates"]}
    for (student, size), usual in TABLE_1.items():
        f1 = min(0.995, max(0.02, usual + rng.gauss(0, 0.02)))
        interval = [max(0, f1 - 0.03), min(1, f1 + 0.03)]
        scores = {"scores": {"f1_weighted": f1}}
        rows[student, size] |= {**scores, "score": f1, "score_ci95": interval}
        result = files[f"jobs/{student}@{size}/evaluate.json"]["result"]
        result |= {**scores, "intervals": {"f1_weighted": interval}}
    best = max(report["candidates"], key=lambda row: row["score"])
    report["best"] |= {name: best[name] for name in ("student", "size", "score")}
    choice = report["decision"]["choice"]
    row = rows[choice["student"], choice["size"]]
    choice |= {"score": row["score"], "run_id": run_id, "promoted_at": night.isoformat()}
    report["decision"] |= {"state": "promoted" if promotes else "in place"}
    report["champion"] = choice if promotes else None
    folder = Path(root.url) / Run(root, run_id).path
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(value))
    return {**row, "run_id": run_id, "cutoff": cutoff, "promoted_at": night.isoformat()} if promotes else None


def _write_champions(root: ArtifactRoot, rows: list[dict[str, Any]]) -> None:
    """Write the champions there were, the latest first, and put the first in force."""
    folder = champion_folder("news_classifier", "desk")
    for row in rows:
        champion = Champion.model_validate(
            {
                **row,
                "workload_id": "news_classifier",
                "client_id": "desk",
                "model_name": f"meta/llama-{row['student']}",
                "weights": f"meta/llama-{row['student']}",
                "adapter_path": f"adapters/{row['adapter']}",
                "dataset": None,
                "metric": "f1_weighted",
                "reason": f"{row['student']} @ {row['size']} is the cheapest candidate that is good enough.",
            }
        )
        data = champion.model_dump(mode="json")
        when = row["promoted_at"][:19].replace("-", "").replace(":", "")
        root.write_json(f"{folder}/history/{when}Z-{row['adapter']}.json", data)  # as of before
    number_decisions(root, folder)


def _publish_predictions(root: ArtifactRoot, template: dict[str, Any]) -> None:
    """Publish the answers of each candidate, as its confusion matrix counts them."""
    classes = Workload.load(WORKLOAD).classes
    for name, value in template.items():
        if name.endswith(("/evaluate.json", "/base_eval.json")):
            result = value["result"]
            pairs = [
                (classes[row], classes[column] if column < len(classes) else "")
                for row, counts in enumerate(result["confusion"]["matrix"])
                for column, times in enumerate(counts)
                for _ in range(times)
            ]
            assert len(pairs) == EVAL_RECORDS
            random.Random(result["key"]).shuffle(pairs)
            lines = [
                {
                    "id": f"{number:020d}",
                    "text": f"{HEADLINES[number % len(HEADLINES)]} ({number})",
                    "teacher": teacher,
                    "student": student,
                    "answer": f"[[[{student.lower()}]]]" if student else "I would say it is about markets",
                }
                for number, (teacher, student) in enumerate(pairs)
            ]
            if not root.find("evaluations", result["key"]):
                with root.build("evaluations", result["key"]) as folder:
                    (folder / PREDICTIONS).write_bytes(b"\n".join(map(orjson.dumps, lines)) + b"\n")
