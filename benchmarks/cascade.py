"""The cascade on real headlines: promised agreement against what a year brought, and when drift is told.

    python -m benchmarks.cascade [--quick] [--students linear,smollm2] [--targets .8,.9,.95,.98]
                                 [--calibration 1875] [--audit 0.5]

Trained on what lies before August 2019, its newest records apart as the calibration slice, served on the
twelve months after, record by record (FLYWHEEL_SHARED_DATA, default ../shared/data). `linear` is TF-IDF
with logistic regression; `smollm2` is SmolLM2-135M-Instruct, trained and asked by the functions that a job
runs (on a GPU where there is one; FLYWHEEL_SMOLLM2 names its folder). By month: agreement of what the
student answered with its one-sided 95 % bound, the share that it answered, its calibration error, and the
share of the teacher's calls that is paid, audit included. Each day the audit (drawn from a fixed seed) goes
into the detector of flywheel.serving.drift (`alarms`); `told`: nights whose audit of the last 30 days is
below the target, which is a remark and no alarm; `told_by_chance`: in which share of 300 draws of the audit
the month has such a night. `--quick`: TF-IDF alone, two targets.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import platform
import resource
import tempfile
import time
from collections import defaultdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.students_real import PROJECT, load_workload, make_student
from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.evaluation import EvaluationConfig
from flywheel.config.schema import Student
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.evaluation.cascade import agreement_low, cascade_of
from flywheel.jobs.result import Calibration
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.serving.drift import Detector, level_of_eval
from flywheel.stages.watch import LEAST_OF_SHARE
from flywheel.students.calibration import bins_of, calibration_error, probabilities_of
from flywheel.students.choosing import LabelChoice
from flywheel.students.linear.model import fit

SERVED_FROM, SERVED_UNTIL = "2019-08", "2020-08"
VALIDATION = 600
Rows = list[dict[str, str]]
# Of each served record: the probability of the answer, and whether it agrees.
Answers = tuple[Calibration, np.ndarray[Any, Any], np.ndarray[Any, Any]]


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--students", default="linear")
    parser.add_argument("--targets", default=".8,.9,.95,.98")
    parser.add_argument("--calibration", type=int, default=1875)
    parser.add_argument("--audit", type=float, default=0.5)
    arguments = parser.parse_args()
    targets = [0.8, 0.95] if arguments.quick else [float(one) for one in arguments.targets.split(",")]
    students = ["linear"] if arguments.quick else arguments.students.split(",")
    started = time.monotonic()
    before, after = read_rows()
    train, held = before[: -arguments.calibration], before[-arguments.calibration :]
    rows: list[dict[str, Any]] = []
    for student in students:
        answers = by_linear(train, held, after) if student == "linear" else by_smollm2(train, held, after)
        for target in targets:
            for row in serve(answers, after, target, arguments.audit):
                rows.append({"student": student, "target": target, **row})
                print(json.dumps(rows[-1]), flush=True)
    told = [row for row in rows if not row["held"]]
    print(
        json.dumps(
            {
                "name": "cascade",
                "ours": sum(row["held"] for row in rows),
                "peer": len(rows),
                "ratio": round(sum(row["held"] for row in rows) / max(1, len(rows)), 3),
                "unit": "months whose agreement reached the target",
                "missed_and_told": [
                    sum(bool(row["alarms"] or row["told"] or row["unsure_alarms"]) for row in told),
                    len(told),
                ],
                "false_alarms": sum(row["false_alarm"] for row in rows),
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "machine": platform.machine(),
                "rows": rows,
                "seconds": round(time.monotonic() - started, 1),
            }
        )
    )


def read_rows() -> tuple[Rows, Rows]:
    """Return the headlines before August 2019 and those of the twelve months after, each text once."""
    path = Path(os.environ.get("FLYWHEEL_SHARED_DATA") or PROJECT.parent / "shared/data")
    with gzip.open(path / "headlines.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["date"])
    rows = list({row["headline"]: row for row in reversed(rows)}.values())[::-1]
    before = [row for row in rows if row["date"] < SERVED_FROM]
    return before, [row for row in rows if SERVED_FROM <= row["date"] < SERVED_UNTIL]


def by_linear(train: Rows, held: Rows, after: Rows) -> Answers:
    """Return TF-IDF's calibration and its answers to what came after."""
    model = fit([row["headline"] for row in train], [row["teacher_label"] for row in train])
    asked = [*after, *held]
    logs = model.log_probabilities([row["headline"] for row in asked])
    choices = [LabelChoice(int(row.argmax()), [], row) for row in logs]
    labelled = [[{"label": row["teacher_label"]} for row in rows] for rows in (after, held)]
    found = probabilities_of(tuple(model.classes), *labelled, choices)
    given = np.array([choice.answer for choice in choices[: len(after)]])
    right = np.array(
        [model.classes[place] == row["teacher_label"] for place, row in zip(given, after, strict=True)]
    )
    return found.calibration, found.values[np.arange(len(after)), given], right


def by_smollm2(train: Rows, held: Rows, after: Rows) -> Answers:
    """Return the same of SmolLM2-135M, customized and evaluated as a job does it."""
    workload = load_workload()
    weights = make_student(Path(os.environ.get("FLYWHEEL_SMOLLM2") or PROJECT / "state/benchmarks/smollm2"))
    # The newest training records validate; the rest train in an order of their own.
    rest = [train[place] for place in np.random.default_rng(0).permutation(len(train) - VALIDATION)]
    parts = {"train": rest, "val": train[-VALIDATION:], "calibration": held, "eval": after}
    with tempfile.TemporaryDirectory() as folder:
        root = ArtifactRoot(f"{folder}/artifacts")
        with root.build("datasets", "cascade") as made:
            for name, rows in parts.items():
                with (made / f"{name}.jsonl").open("wb") as file:
                    for place, row in enumerate(rows):
                        answer = {"role": "assistant", "content": workload.answer_for(row["teacher_label"])}
                        line = {
                            "id": f"{name}{place:06}",
                            "label": row["teacher_label"],
                            "messages": [*workload.messages(row["headline"]), answer],
                        }
                        file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        student = Student(model_name="smollm2", weights=str(weights), context_length=2048)
        adapter = customize_on(root, student, len(rest))
        result = evaluate_on(root, student, adapter, len(rest))
        file = root.fetch("evaluations", result.key) / "predictions.jsonl"
        lines = {line["id"]: line for line in map(orjson.loads, file.read_bytes().splitlines())}
    assert result.calibration is not None
    confidence, right = np.zeros(len(after)), np.zeros(len(after), bool)
    for place in range(len(after)):
        line = lines[f"eval{place:06}"]
        confidence[place] = line.get("probabilities", {}).get(line["student"], 0.0)
        right[place] = line["student"] == line["teacher"]
    return result.calibration, confidence, right


def customize_on(root: ArtifactRoot, student: Student, size: int) -> str:
    """Return the key of the adapter of all training records."""
    from flywheel.stages.customize import customize

    spec = {
        "artifact_root": root.url,
        "student": student,
        "dataset": "cascade",
        "size": size,
        "student_prompt": "text",
        "training": TrainingConfig(),
        "lora": LoraConfig(),
    }
    return customize(CustomizeSpec.model_validate(spec)).adapter


def evaluate_on(root: ArtifactRoot, student: Student, adapter: str, size: int) -> Any:
    """Return the evaluation of an adapter, its classes chosen among."""
    from flywheel.stages.evaluate import evaluate

    workload = load_workload()
    return evaluate(
        EvaluateSpec(
            artifact_root=root.url,
            student=student,
            dataset="cascade",
            adapter=adapter,
            size=size,
            classes=workload.classes,
            aliases=workload.aliases,
            answers=tuple(workload.answer_for(label) for label in workload.classes),
            evaluation=EvaluationConfig(batch_size=512, workload_type="classification", decoding="labels"),
        )
    )


def serve(answers: Answers, after: Rows, target: float, audit: float) -> list[dict[str, Any]]:
    """Return what each month brought behind a cascade."""
    calibration, confidence, right = answers
    cascade = cascade_of(calibration, target)
    print(f"# {cascade.reason}", flush=True)
    alone = np.array([cascade.answers(float(one)) for one in confidence])
    drawn = np.random.default_rng(7).random(len(after)) < audit
    months: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(after):
        months[row["date"][:7]].append(place)
    by_chance = told_by_chance(right, alone, after, target, audit)
    detector, missed_before, rows = Detector(target), False, []
    sure = round(cascade.share * cascade.records)
    shares = Detector(LEAST_OF_SHARE * level_of_eval(sure, cascade.records)) if sure else None
    window: list[tuple[str, int, int]] = []
    for month, all_places in sorted(months.items()):
        places = np.array(all_places)
        mine = places[alone[places]]
        agree, count = int(right[mine].sum()), len(mine)
        days: dict[str, list[int]] = defaultdict(list)
        for place in mine[drawn[mine]]:
            days[after[place]["date"][:10]].append(int(place))
        alarms, told, peak = [], [], 0.0
        for day, there in sorted(days.items()):
            if detector.night(int(right[there].sum()), len(there)):
                alarms.append(day)
            peak = max(peak, detector.evidence)
            window.append((day, int(right[there].sum()), len(there)))
            first = str(date.fromisoformat(day) - timedelta(days=30))
            window = [one for one in window if one[0] > first]
            hits, of = sum(one[1] for one in window), sum(one[2] for one in window)
            if hits < target * of:
                told.append(day)
        by_day: dict[str, list[int]] = defaultdict(list)
        for place in all_places:
            by_day[after[place]["date"][:10]].append(place)
        unsure = [
            day
            for day, there in sorted(by_day.items())
            if shares is not None and shares.night(int(alone[there].sum()), len(there))
        ]
        held = count == 0 or agree / count >= target
        missed_before = missed_before or not held
        paid = (~alone[places]).sum() + drawn[mine].sum()
        rows.append(
            {
                "month": month,
                "requests": len(places),
                "share": round(count / len(places), 3),
                "agree": [agree, count],
                "agreement": round(agree / count, 3) if count else None,
                "low": round(agreement_low(agree, count), 3),
                "held": held,
                "shown_below": bool(count and not held and _high(agree, count) < target),
                "ece": round(calibration_error(bins_of(confidence[places], right[places])), 3),
                "paid": round(float(paid) / len(places), 3),
                "audited": int(drawn[mine].sum()),
                "evidence": round(peak, 1),
                "alarms": alarms,
                "unsure_alarms": unsure,
                "told": len(told),
                "told_by_chance": round(by_chance[month], 2),
                "false_alarm": bool(alarms) and not missed_before,
            }
        )
    return rows


def told_by_chance(
    right: np.ndarray[Any, Any],
    alone: np.ndarray[Any, Any],
    after: Rows,
    target: float,
    audit: float,
    draws: int = 300,
) -> dict[str, float]:
    """Return, by month, in which share of draws of the audit a night of it sees 30 days below the target."""
    days = np.array([date.fromisoformat(row["date"][:10]).toordinal() for row in after])
    days -= days.min()
    months = {row["date"][:7]: set[int]() for row in after}
    for row, day in zip(after, days, strict=True):
        months[row["date"][:7]].add(int(day))
    told = dict.fromkeys(months, 0)
    for seed in range(draws):
        drawn = alone & (np.random.default_rng(seed).random(len(after)) < audit)
        nights = np.bincount(days[drawn], minlength=days.max() + 1)
        above = np.bincount(days[drawn], right[drawn] - target, minlength=days.max() + 1)
        # Hits above those that the target asks for, of the 30 days until each: [days].
        lately = np.convolve(above, np.ones(30))[: len(above)]
        for month, there in months.items():
            told[month] += any(nights[day] and lately[day] < -1e-9 for day in there)
    return {month: count / draws for month, count in told.items()}


def _high(agree: int, count: int) -> float:
    """Return what an agreement is at most: one-sided, 95 %."""
    return 1 - agreement_low(count - agree, count)


if __name__ == "__main__":
    main()
