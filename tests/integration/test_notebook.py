"""The blueprint's notebook, from its records to its bar: a client for each size, through the real API.

What the notebook does is done here step by step: the records of a data set go in under a client_id of its own,
with times of now plus a second for each record; a job for that client is started and waited for; then its
table and its one bar a model are read from the job, as the notebook reads them; at last its best
`customized_model` is asked with the records' messages.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from flywheel.config import load_config
from flywheel.demo.headlines import generate
from flywheel.serving.app import Serving
from flywheel.workloads.workload import Workload
from tests.integration.airflow_stack import STUDENTS, Stack, make_home
from tests.unit.teacher_servers import served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")
SIZES = (1000, 5000, 10_000, 25_000)
# The keys that a blueprint's file has; nothing of this project's own.
SPLIT = {"eval_size": 100, "val_ratio": 0.1, "min_total_records": 50, "random_seed": 42, "limit": None}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Give an Airflow whose config is the blueprint's, but for a student of a million parameters."""
    weights = {"name": "small", "weights": f"{STUDENTS}/small", "context_length": 2048, "gpus": 0}
    folder = make_home(
        tmp_path_factory.mktemp("notebook") / "home",
        sizes=list(SIZES),
        nims=[{"model_name": "meta/llama-3.2-1b-instruct", **weights}],
        data_split_config=SPLIT,
        training_config={"epochs": 1, "batch_size": 64, "learning_rate": 0.005, "validations": 1},
        promotion={},
    )
    names = {"FLYWHEEL_HOME": str(folder), "FLYWHEEL_CONFIG": str(folder / "config.yaml")}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    running = Stack(folder)
    running.http.headers["Accept"] = "application/json"
    try:
        yield running
    finally:
        running.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def log_records(client_id: str, count: int, seed: int = 7) -> Iterator[bytes]:
    """Yield a data set as the notebook writes it: one line for each call, newer than now."""
    now = int(time.time())
    for index, item in enumerate(generate(count, seed=seed)):
        record = {
            "request": {
                "model": "meta/llama-3.3-70b-instruct",
                "messages": WORKLOAD.messages(item.text),
            },
            "response": {
                "choices": [
                    {"message": {"role": "assistant", "content": WORKLOAD.answer_for(item.teacher_label)}}
                ]
            },
            "workload_id": "news_classifier",
            "client_id": client_id,
            "timestamp": now + index,
        }
        yield json.dumps(record).encode() + b"\n"


def post_records(http: httpx.Client, client_id: str, count: int) -> None:
    headers = {"Content-Type": "application/x-ndjson"}
    body = b"".join(log_records(client_id, count))
    answer = http.post(
        "/flywheel/api/records?answers=quarantined", content=body, headers=headers, timeout=300
    )
    assert answer.status_code == 200, answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    summary = lines[-1]["summary"] if "summary" in lines[-1] else lines[-1]
    assert summary["accepted"] == count, summary


def finished_job(stack: Stack, client_id: str) -> dict[str, Any]:
    """Start a job as the notebook does, with two ids and nothing else, and poll it until it is over."""
    body = {"workload_id": "news_classifier", "client_id": client_id}
    started = stack.http.post("/flywheel/api/jobs", json=body)
    assert started.status_code == 200, started.text
    job_id = started.json()["id"]
    while True:
        job: dict[str, Any] = stack.http.get(f"/flywheel/api/jobs/{job_id}").json()
        if job["status"] in ("completed", "failed", "cancelled"):
            assert job["status"] == "completed", stack.explain(job_id)
            return job
        time.sleep(1)


@pytest.mark.parametrize(
    "count",
    [5000, *(pytest.param(size, marks=pytest.mark.drill) for size in (10_000, 25_000))],
)
def test_the_notebook_gets_its_table_and_its_bar(notebook: Stack, count: int) -> None:
    client_id = f"news-classifier-{count}"
    post_records(notebook.http, "somebody-else", 200)
    post_records(notebook.http, client_id, count)
    job = finished_job(notebook, client_id)

    run = notebook.http.get(f"/flywheel/api/runs/{job['id']}").json()
    data = run["report"]["data"]
    # All of its records and no others: none was lost for a time ahead of now.
    assert (data["records"], data["split"], data["eval"]) == (count, "random", 100)
    assert data["labelled_by"] == {"posted": data["used"]}
    assert (job["num_records"], job["error"]) == (data["used"], None)
    # Sizes beyond the data are one candidate on all of it, named by the true number.
    sizes = sorted({size for size in SIZES if size < data["train"]} | {data["train"]}, reverse=True)
    assert data["train"] < count
    assert [row["size"] for row in run["report"]["candidates"]] == sizes[::-1]
    (nim,) = job["nims"]
    assert (nim["model_name"], nim["status"], nim["error"]) == (
        "meta/llama-3.2-1b-instruct",
        "completed",
        None,
    )
    assert len(nim["customizations"]) == len(sizes)
    # The notebook's table has each evaluation's f1_score; its bar the first of a model and kind.
    scores = [(one["eval_type"], one["scores"]) for one in nim["evaluations"]]
    assert [kind for kind, _ in scores] == ["base-eval", *["customized-eval"] * len(sizes)]
    assert all(0 <= one["f1_score"] <= 1 for _, one in scores)
    customized = [one for kind, one in scores if kind == "customized-eval"]
    assert [one["training_records"] for one in customized] == sizes
    by_size = {row["size"]: row["score"] for row in run["report"]["candidates"]}
    assert customized[0]["f1_score"] == by_size[sizes[0]] > scores[0][1]["f1_score"]
    # 100 eval records are too few to promote by; the job is completed all the same, and says why elsewhere.
    assert run["champion"] is None
    assert run["report"]["decision"]["state"] == "none"
    best = max(nim["evaluations"][1:], key=lambda one: one["scores"]["f1_score"])
    models = [one["customized_model"] for one in nim["customizations"]]
    adapters = {row["size"]: row["adapter"] for row in run["report"]["candidates"]}
    size = int(best["scores"]["training_records"])
    assert f"meta/llama-3.2-1b-instruct@{adapters[size]}" in models
    # Its last part: the best model is asked with the records' own messages, and its report is the run's.
    asked = classification_report_of(notebook, f"meta/llama-3.2-1b-instruct@{adapters[size]}")
    assert asked["support"] == 100
    assert asked["f1-score"] == pytest.approx(by_size[size], abs=0.05)


def classification_report_of(stack: Stack, model: str) -> dict[str, float]:
    """Ask a customized model as the notebook does, and return the weighted row of its report."""
    from sklearn.metrics import classification_report

    curated = max(
        stack.folder.glob("artifacts/runs/**/stages/curate.json"), key=lambda file: file.stat().st_mtime
    )
    dataset = json.loads(curated.read_bytes())["result"]["dataset"]
    lines = (stack.folder / "artifacts" / "datasets" / dataset / "eval.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    truth, given = [], []
    with served(Serving(load_config()).app()) as url:
        assert httpx.get(f"{url}/v1/models/{model}", timeout=600).status_code == 200  # it is loaded
        for record in records:
            kept = record["messages"][:-1]  # with the prompt, or it is kept once for all
            messages = WORKLOAD.messages(WORKLOAD.text_of(kept) or kept[-1]["content"])
            body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 64}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
            assert answer.status_code == 200, answer.text
            truth.append(record["label"])
            given.append(WORKLOAD.label_of(answer.json()["choices"][0]["message"]["content"]))
    report = classification_report(truth, given, output_dict=True, zero_division=0)
    return dict(report["weighted avg"])
