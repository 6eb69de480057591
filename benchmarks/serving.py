"""The endpoint under load: requests a second and p50/p99, beside vLLM and beside its own engine alone.

    python -m benchmarks.serving [--quick] [--without-vllm] [--keep log]
    python -m benchmarks.serving --device cuda [--shape 1b | --weights FOLDER]       our engine alone

A wheel turns once for each form of prompt (short: the headline alone; whole: the teacher's prompt), with
the medium demo student on a CPU; on a GPU with a student of a shape, its weights random, or of a folder.
Its champion is served by `flywheel serve`, a process of its own, and asked by 1, 8 and 64 callers in
another process. The engine alone answers the same requests in this process, in batches of
`serving.batch_size`, before and after that, with threads that sleep as the endpoint's do. vLLM (`make
install-vllm`) has the same base weights and adapter, on the same cores, in the same run; each is idle while
another is measured. `listeners`: what the cascade and the log took of each answer, whole prompts, 64
callers, both on; about half are asked of a teacher in this process, which answers at once. `ratio` is ours
by vLLM's at 64 callers, whole prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import orjson
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import gpu_common
from benchmarks.closed_loop import Teacher, serve_teacher
from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.loading import validate_config
from flywheel.demo.headlines import generate
from flywheel.evaluation.cascade import Cascade
from flywheel.promotion.champion import read_champion
from flywheel.promotion.mlflow_client import TrackingError
from flywheel.promotion.transitions import decide, promoted
from flywheel.promotion.whole import keep_whole
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.serving.sources import Sources
from flywheel.serving.student import Answer, Question, ServedStudent
from flywheel.stages import score
from flywheel.stages.promote import champion_of
from flywheel.workloads.workload import Workload
from tests.serving_load import endpoint_process, measure
from tests.unit.turned_wheel import turn
from tests.vllm_server import vllm

PROJECT = Path(__file__).resolve().parents[1]
WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
CLIENT, FORMS = "bench", {"short": "text", "whole": "full"}
CALLERS = (1, 8, 64)


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 seconds each, 200 records")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", help="on a GPU: a shape of benchmarks.gpu_shapes, such as 1b")
    parser.add_argument("--weights", type=Path, help="of a student; default: the medium demo student")
    parser.add_argument("--without-vllm", action="store_true")
    parser.add_argument("--vllm-url", help="a vLLM with the same base weights that runs already")
    parser.add_argument(
        "--keep", action="append", choices=["log"], default=[], help="with the traffic log on"
    )
    arguments = parser.parse_args()
    if "OMP_WAIT_POLICY" not in os.environ:  # it is read when torch is loaded, which is done by now
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    os.environ["FLYWHEEL_DEVICE"] = arguments.device
    _without_missing_libraries()
    with tempfile.TemporaryDirectory(prefix="benchmark-serving-") as temporary:
        with redirect_stdout(sys.stderr):  # what the stages log
            found = _measure(Path(temporary), arguments)
        print(json.dumps(found))


def _measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    seconds = 2.0 if arguments.quick else 10.0
    weights = arguments.weights or PROJECT / "include/flywheel/demo/students/medium"
    if arguments.shape:
        from benchmarks.job import make_student

        weights = make_student(arguments.shape, folder / "weights")
    found: dict[str, Any] = {}
    adapters: dict[str, tuple[Path, Path]] = {}
    texts = [headline.text for headline in generate(2400, seed=7)][400:]
    for form, prompt in FORMS.items():
        home = folder / form
        home.mkdir()
        config = _turned(home, prompt, weights, 200 if arguments.quick else 1000, arguments)
        bodies = home / "bodies.jsonl"
        requests = [_messages(form, text) for text in texts]
        _write(bodies, WORKLOAD.id, requests)
        alone = [_alone(home, config, requests, seconds)]
        with endpoint_process(home / "config.yaml") as url:
            ours = {str(callers): measure(url, bodies, callers, seconds) for callers in CALLERS}
        alone.append(_alone(home, config, requests, seconds))
        of_alone = round(ours["64"]["requests_per_second"] / (sum(alone) / 2), 3)
        found[form] = {"engine_alone": alone, "ours": ours, "of_the_engine_alone": of_alone}
        _say(form, found[form])
        champion = read_champion(ArtifactRoot(config["artifacts"]["root"]), WORKLOAD.id, CLIENT)
        assert champion is not None and champion.whole is not None
        if form == "whole":
            found["listeners"] = _listeners(home, config, bodies, requests, seconds)
            _say("listeners", found["listeners"])
        adapters[form] = (Path(config["artifacts"]["root"]) / "adapters" / champion.adapter, bodies)
    result: dict[str, Any] = {"name": "serving", "unit": "requests/s at 64 callers, whole prompts"}
    result["ours"] = found["whole"]["ours"]["64"]["requests_per_second"]
    if arguments.device == "cpu" and not arguments.without_vllm:
        with _vllm(weights, folder, arguments.vllm_url) as url:
            for form, (adapter, bodies) in adapters.items():
                name = adapter.name
                order = {"lora_name": name, "lora_path": str(adapter.resolve())}
                httpx.post(f"{url}/v1/load_lora_adapter", json=order, timeout=120).raise_for_status()
                _write(bodies, name, [_messages(form, text) for text in texts], max_tokens=12, temperature=0)
                found[form]["vllm"] = {
                    str(callers): measure(url, bodies, callers, seconds) for callers in CALLERS
                }
                _say(form, found[form]["vllm"])
        result["peer"] = found["whole"]["vllm"]["64"]["requests_per_second"]
        result["ratio"] = round(result["ours"] / result["peer"], 2) if result["peer"] else None
    machine = gpu_common.machine() if arguments.device == "cuda" else {"cpus": os.cpu_count()}
    return {**result, "student": arguments.shape or Path(weights).name, **found, "machine": machine}


def _say(form: str, found: Any) -> None:
    print(f"{form}: {json.dumps(found)}", file=sys.stderr, flush=True)


def _messages(form: str, text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}] if form == "short" else WORKLOAD.messages(text)


def _write(path: Path, model: str, requests: list[Any], **more: Any) -> None:
    path.write_bytes(
        b"".join(
            orjson.dumps({"model": model, "messages": messages, **more}) + b"\n" for messages in requests
        )
    )


def _turned(
    home: Path, prompt: str, weights: Path, records: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Turn a wheel whose candidate is the champion, good or not; return its config."""
    with (home / "log.jsonl").open("wb") as file:
        for place, headline in enumerate(generate(records + 120)):
            answer = {"role": "assistant", "content": WORKLOAD.answer_for(headline.teacher_label)}
            line = {
                "request": {"model": "teacher", "messages": WORKLOAD.messages(headline.text)},
                "response": {"choices": [{"message": answer}]},
                "timestamp": 1_700_000_000 + place,
                "workload_id": WORKLOAD.id,
                "client_id": CLIENT,
            }
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    student: dict[str, Any] = {"model_name": "bench/student", "name": "student", "weights": str(weights)}
    student |= {"context_length": 2048, "gpus": int(arguments.device == "cuda")}
    data: dict[str, Any] = {
        "client_id": CLIENT,
        "workload": str(PROJECT / "include/workloads/news_classifier.yaml"),
        "nims": [student],
        "sizes": [records // 2],
        "source": [{"path": str(home / "log.jsonl"), "kind": "log_records"}],
        "store": {"path": str(home / "records.sqlite")},
        "artifacts": {"root": str(home / "artifacts")},
        "mlflow_config": {"tracking_uri": f"sqlite:///{home}/mlflow.db"},
        "data_split_config": {"split": "random", "eval_size": 100, "min_total_records": 100, "val_ratio": 0},
        "student_prompt": prompt,
        "lora_config": {"adapter_dropout": 0.0},
        "training_config": {"batch_size": 32, "epochs": 2, "learning_rate": 0.005, "validations": 0},
        "evaluation_config": {"workload_type": "classification", "decoding": "labels"},
        "promotion": {"within": 0.001, "min_eval": 1},  # decided by hand below
        "serving": {"log": "all" if "log" in arguments.keep else "none", "log_folder": str(home / "traffic")},
    }
    plan = make_plan(
        validate_config(data, "benchmark"), run_id="once", cutoff=datetime(2026, 1, 1, tzinfo=UTC)
    )
    run = Run.create(plan)
    report = turn(run)
    row = report.candidate("student", records // 2)
    assert row is not None
    chosen = champion_of(plan, report, row, reason="by hand", comment="", registry=None)
    whole = keep_whole(run.root, plan, chosen)
    decide(run.root, WORKLOAD.id, CLIENT, lambda state: promoted(state, whole), by="benchmark")
    (home / "config.yaml").write_text(yaml.safe_dump(data))
    return data


def _without_missing_libraries() -> None:
    """On a machine of a GPU alone, without MLflow or matplotlib, a report is neither tracked nor drawn."""

    def untracked(*_: Any) -> None:
        raise TrackingError("MLflow is not installed here")

    if find_spec("mlflow") is None:
        score.track = untracked
    if find_spec("matplotlib") is None:
        score.draw_png = lambda *_: None


def _alone(home: Path, config: dict[str, Any], requests: list[Any], seconds: float) -> float:
    """Return the requests a second of the engine that the endpoint has, without the endpoint."""
    settings = validate_config(config, "benchmark")
    root = ArtifactRoot(settings.artifacts.root)
    champion = read_champion(root, WORKLOAD.id, CLIENT)
    assert champion is not None
    student = ServedStudent(Sources(root, settings.nims).in_force(champion))
    batch = settings.serving.batch_size
    questions = [Question(messages) for messages in requests]
    student.answer(questions[:batch])
    done, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        start = done % (len(questions) - batch)
        done += len(student.answer(questions[start : start + batch]))
    return round(done / taken, 1)


def _listeners(
    home: Path, config: dict[str, Any], bodies: Path, requests: list[Any], seconds: float
) -> dict[str, Any]:
    """Return what the cascade and the log take of an answer, by listener; the champion then has a cascade.

    Its threshold is the median of what it is sure of, and its teacher answers at once.
    """
    root = ArtifactRoot(config["artifacts"]["root"])
    champion = read_champion(root, WORKLOAD.id, CLIENT)
    assert champion is not None
    student = ServedStudent(Sources(root, validate_config(config, "benchmark").nims).in_force(champion))
    answers = student.answer([Question(messages) for messages in requests[:64]])
    sure = sorted(max(answer.probabilities.values()) for answer in answers if isinstance(answer, Answer))
    cascade = Cascade(target=0.9, threshold=sure[len(sure) // 2], reason="half is asked of the teacher")
    cascading = champion.model_copy(update={"cascade": cascade})
    decide(root, WORKLOAD.id, CLIENT, lambda state: promoted(state, cascading), by="benchmark")
    with serve_teacher(Teacher(WORKLOAD)) as address:
        both = {
            **config,
            "teacher": {"base_url": f"{address}/v1", "model": "teacher"},
            "data_split_config": {**config["data_split_config"], "calibration_ratio": 0.1},
            "serving": {"cascade": {"agreement": 0.9}, "log": "all", "log_folder": str(home / "traffic")},
        }
        (home / "listeners.yaml").write_text(yaml.safe_dump(both))
        with endpoint_process(home / "listeners.yaml") as url:
            load = measure(url, bodies, 64, seconds)
            said = httpx.get(f"{url}/metrics", timeout=30).text
    counts: dict[str, dict[float, float]] = {}
    for family in text_string_to_metric_families(said):
        for sample in family.samples:
            if sample.name == "flywheel_serving_listener_seconds_bucket":
                of = counts.setdefault(sample.labels["listener"], {})
                of[float(sample.labels["le"])] = sample.value
    found: dict[str, Any] = {"load": load}
    for name, of in counts.items():
        answered = of[float("inf")]
        # The least bound of a bucket that 99 of 100 are within.
        p99 = min(bound for bound, count in of.items() if count >= 0.99 * answered)
        found[name] = {
            "answers": int(answered),
            "p99_ms_at_most": 1000 * p99,
            "within_15_ms": round(of[0.015] / answered, 4),
        }
    return found


@contextmanager
def _vllm(weights: Path, folder: Path, url: str | None) -> Iterator[str]:
    if url:
        yield url
    else:
        with vllm(weights, folder / "vllm.log") as own:
            yield own


if __name__ == "__main__":
    main()
