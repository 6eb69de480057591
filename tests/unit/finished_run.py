"""Runs whose jobs have ended, with the files that stages and jobs leave, for tests of what comes after them."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.config import Config
from flywheel.curation.result import CurateResult
from flywheel.jobs.result import CustomizeResult, EvaluateResult
from flywheel.jobs.spec import CHAMPION
from flywheel.promotion.champion import read_champion
from flywheel.runs.plan import Candidate, Plan, make_plan
from flywheel.runs.run import Run
from flywheel.stages.ingest import IngestResult
from flywheel.stages.label import LabelResult
from flywheel.teacher.agreement import Agreement, HumanConfusion, HumanDisagreement
from flywheel.workloads.workload import Workload

WORKLOAD = "include/workloads/news_classifier.yaml"
PARAMETERS = {"1b": 1_240_000_000, "3b": 3_210_000_000, "8b": 8_030_000_000}
BASE = {"1b": 0.08, "3b": 0.31, "8b": 0.46}
# Weighted F1 by candidate: table 1 of the reference, with sizes a thousandth of its sizes.
TABLE_1 = {
    ("1b", 5): 0.29,
    ("1b", 10): 0.78,
    ("1b", 25): 0.90,
    ("3b", 5): 0.584,
    ("3b", 10): 0.89,
    ("3b", 25): 0.95,
    ("8b", 5): 0.80,
    ("8b", 10): 0.94,
    ("8b", 25): 0.95,
}
# So many that a bound is the score to three digits: what is tested there is not how sure a score is.
MEASURED = 10_000
EVAL_RECORDS = 200 * MEASURED
LABELLED = LabelResult(
    headlines=101,
    labelled=100,
    asked=60,
    found=41,
    quarantined=1,
    later=0,
    records_file="labelled.jsonl.gz",
    quarantine_file="label.quarantine.jsonl",
    prompt_tokens=70_000,
    completion_tokens=360,
    cached_tokens=50_000,
    cost=1.25,
    currency="USD",
    disagreements_file="label.disagreements.csv",
    human=Agreement(
        records=100,
        unknown=3,
        scores={"f1_weighted": 0.91, "f1_macro": 0.88, "accuracy": 0.9},
        intervals={"f1_weighted": (0.85, 0.96), "f1_macro": (0.8, 0.95)},
        per_class={
            "Earnings": {
                "precision": 0.95,
                "recall": 0.9,
                "f1": 0.924,
                "f1_low": 0.87,
                "f1_high": 0.97,
                "support": 60.0,
            }
        },
        confusion=HumanConfusion(labels=("Earnings", "Guidance"), matrix=((54, 5, 1), (4, 36, 0))),
        disagreements=(
            HumanDisagreement(
                text="Acme <b>sees</b> more", human="Earnings", teacher="Guidance", confidence=0.6
            ),
            HumanDisagreement(text="Bolt is quiet", human="Earnings", teacher=""),
        ),
    ),
    seconds=2.5,
)
INGESTED = IngestResult(
    read=100,
    written=60,
    already_there=38,
    quarantined=2,
    reasons={"names none of the classes": 2},
    later=0,
    other_workload=0,
    quarantine_file="ingest.quarantine.jsonl",
    seconds=0.1,
)


def config_of(root: str, tracking_uri: str, prefix: str = "test", **sections: Any) -> Config:
    """Return a configuration of three students and three sizes; MLflow keeps files beside its SQLite file."""
    location = str(Path(tracking_uri.removeprefix("sqlite:///")).parent / "mlruns")
    return Config.model_validate(
        {
            "nims": [{"model_name": f"meta/llama-{name}", "name": name} for name in PARAMETERS],
            "sizes": [5, 10, 25],
            "workload": WORKLOAD,
            "artifacts": {"root": root},
            "promotion": {"within": 0.101, "min_eval": 1, **sections.pop("promotion", {})},
            "mlflow_config": {
                "tracking_uri": tracking_uri,
                "artifact_location": location,
                "experiment_name_prefix": prefix,
            },
            **sections,
        }
    )


def plan_of(config: Config, run_id: str = "night-1", day: int = 2, **arguments: Any) -> Plan:
    """Return a plan whose cutoff is a day of March 2019."""
    cutoff = datetime(2019, 3, day, tzinfo=UTC)
    return make_plan(config, run_id=run_id, cutoff=cutoff, workload_id="news_classifier", **arguments)


def write_dataset(root: ArtifactRoot, texts: int = 40, seed: int = 1) -> str:
    """Publish a small dataset of headlines and return its key."""
    workload, rng = Workload.load(WORKLOAD), random.Random(seed)
    words = {"Dividends": "raises quarterly dividend payout", "Earnings": "quarter profit revenue beats"}
    key = key_of("dataset", texts, seed)
    if root.find("datasets", key):
        return key
    with root.build("datasets", key) as folder:
        for name, count in (("train", texts), ("val", 4), ("eval", 20)):
            rows = []
            for number in range(count):
                label = list(words)[number % 2]
                text = f"{rng.choice(['Acme', 'Foo', 'Bar'])} {rng.choice(words[label].split())} {number}"
                answer = {"role": "assistant", "content": workload.answer_for(label)}
                rows.append(
                    {"id": str(number), "label": label, "messages": [*workload.messages(text), answer]}
                )
            (folder / f"{name}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n")
    return key


def change_plan(run: Run, plan: Plan) -> None:
    """Have a run go on as if it had begun with another plan."""
    run.root.write_json(f"{run.path}/plan.json", plan.model_dump(mode="json"))
    run.plan_digest = ""


def finish(
    plan: Plan,
    *,
    f1: dict[tuple[str, int], float] | None = None,
    failed: dict[tuple[str, int], str] | None = None,
    data_seed: int = 1,
    train: int = 36,
    label: bool = True,
    champion_f1: float | None = None,
) -> Run:
    """Leave the files of a run whose stages up to evaluate have ended.

    Args:
        f1: weighted F1 by candidate, default table 1; a candidate that is not in it has no result.
        failed: why jobs failed, by candidate.
        data_seed: another one gives another dataset, and so other adapters.
        train: training records of the split.
        champion_f1: weighted F1 of the champion in force on this run's eval set; None: not measured anew.
    """
    run = Run.create(plan)
    dataset = write_dataset(run.root, seed=data_seed)
    stages: dict[str, BaseModel] = {"ingest": INGESTED, "curate": curated(dataset, train)}
    if label:
        stages["label"] = LABELLED
    for name, stage in stages.items():
        _save(run, f"stages/{name}", stage.model_dump(mode="json"))
    champion = read_champion(run.root, plan.workload_id, plan.client_id)
    if champion is not None and champion_f1 is not None:
        anew = evaluated(champion.student, champion.size, dataset, champion_f1) | {
            "adapter": champion.adapter
        }
        _save(run, f"jobs/{CHAMPION}/champion_eval", anew)
    for student in plan.students:
        _save(run, f"jobs/{student}/base_eval", evaluated(student, None, dataset, BASE[student]))
    for candidate in plan.candidates:
        pair = (candidate.student, candidate.size)
        if failed and pair in failed:
            failure = {"stage": "customize", "reason": failed[pair]}
            run.root.write_json(f"{run.path}/jobs/{candidate.folder}/failure.json", failure)
        elif pair in (f1 or TABLE_1):
            _save(run, f"jobs/{candidate.folder}/customize", customized(candidate, dataset))
            value = (f1 or TABLE_1)[pair]
            _save(run, f"jobs/{candidate.folder}/evaluate", evaluated(*pair, dataset, value))
            publish_adapter(run.root, candidate, dataset)
    return run


def curated(dataset: str, train: int) -> CurateResult:
    """Return what the split gave."""
    counts = {"total": 30, "train": 18, "val": 2, "eval": 10}
    return CurateResult.model_validate(
        {
            "dataset": dataset,
            "found": False,
            "cutoff": 1551484800,
            "total": 66,
            "duplicates": 4,
            "near_duplicates": 2,
            "used": 60,
            "train": train,
            "val": 4,
            "eval": 20,
            "stratified": True,
            "notes": ["The rarest class has few records."],
            "per_class": {"Dividends": counts, "Earnings": counts},
            "sizes": {},
            "seconds": 0.2,
        }
    )


def adapter_key(student: str, size: int, dataset: str) -> str:
    """Return the key of a candidate's adapter."""
    return key_of("adapter", student, size, dataset)


def customized(candidate: Candidate, dataset: str) -> dict[str, Any]:
    """Return what a customization job gave."""
    key, steps = adapter_key(candidate.student, candidate.size, dataset), 12
    losses = [
        {"step": step, "loss": 2.0 / step, "val_loss": 1.0 if step == 12 else None} for step in range(1, 13)
    ]
    result = CustomizeResult.model_validate(
        {
            "adapter": key,
            "path": f"adapters/{key}",
            "student": candidate.student,
            "size": candidate.size,
            "parameters": PARAMETERS[candidate.student],
            "trainable_parameters": 11_000_000,
            "train_records": candidate.size,
            "steps": steps,
            "steps_run": steps,
            "samples": steps * 64,
            "train_seconds": 3.5 * candidate.size,
            "records_per_second": 610.0,
            "train_loss": 0.2,
            "val_loss": 1.0,
            "losses": losses,
            "stopped_early": False,
            "found": False,
            "resumed_from_step": None,
            "device": "cpu",
        }
    )
    return result.model_dump(mode="json")


CALIBRATION = {
    "temperature": 1.6,
    "records": 90,
    "ece": 0.021,
    "ece_before": 0.083,
    "bins": [
        {"records": 100, "confidence": 0.62, "right": 0.6, "low": 0.5, "high": 0.7},
        {"records": 100, "confidence": 0.97, "right": 1.0, "low": 0.96, "high": 1.0},
    ],
}


def evaluated(student: str, size: int | None, dataset: str, f1: float) -> dict[str, Any]:
    """Return what an evaluation gave, with a confusion matrix to match its F1 roughly."""
    labels, rng = Workload.load(WORKLOAD).classes, random.Random(f"{student}{size}")
    weights = [30, 12, 25, 8, 10, 6, 14, 28, 9, 20, 5, 11, 22]
    matrix = [[0] * (len(labels) + 1) for _ in labels]
    for row, weight in enumerate(weights):
        for _ in range(weight):
            right = rng.random() < f1
            matrix[row][row if right else rng.randrange(len(labels) + 1)] += MEASURED
    per_class = {
        label: {"precision": min(1, f1 + 0.01), "recall": max(0, f1 - 0.01), "f1": f1, "support": weight}
        for label, weight in zip(labels, weights, strict=True)
    }
    key = key_of("evaluation", student, size, dataset)
    result = EvaluateResult.model_validate(
        {
            "key": key,
            "student": student,
            "size": size,
            "adapter": None if size is None else adapter_key(student, size, dataset),
            "records": EVAL_RECORDS,
            "scores": {"f1_weighted": f1, "f1_macro": f1 - 0.02, "accuracy": f1},
            "intervals": {"f1_weighted": (max(0.0, f1 - 0.03), min(1.0, f1 + 0.03))},
            "per_class": per_class,
            "unparsable": sum(row[-1] for row in matrix),
            "seconds": 2.0,
            "records_per_second": 100.0 / PARAMETERS[student] * 1e9,
            "latency_ms": {"p50": PARAMETERS[student] / 1e8, "p95": PARAMETERS[student] / 0.7e8},
            "batch_size": 100,
            "warmup_seconds": 1.5,
            "single_ms": {"p50": PARAMETERS[student] / 1e9, "p95": PARAMETERS[student] / 0.7e9},
            "parameters": PARAMETERS[student],
            "calibration": None if size is None else CALIBRATION,
            "predictions": f"evaluations/{key}/predictions.jsonl",
            "confusion": {"labels": labels, "matrix": matrix},
            "found": False,
            "device": "cpu",
        }
    )
    return result.model_dump(mode="json")


def _save(run: Run, name: str, result: dict[str, Any]) -> None:
    value = {"result": result, "started_at": 1000.0, "ended_at": 1002.5}
    run.root.write_json(f"{run.path}/{name}.json", value)


def publish_adapter(root: ArtifactRoot, candidate: Candidate, dataset: str) -> None:
    """Publish a candidate's adapter, of which a champion has a copy."""
    key = adapter_key(candidate.student, candidate.size, dataset)
    if not root.find("adapters", key):
        with root.build("adapters", key) as folder:
            Path(folder / "adapter_config.json").write_text("{}")
