"""The linear student: customized, examined, promoted, asked at the endpoint; one model with the report's line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from tiny_students import CLASSES, save_dataset

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ConfigError, NotEnoughRecordsError, StudentError
from flywheel.config import Config, Student
from flywheel.config.loading import validate_config
from flywheel.demo.headlines import generate
from flywheel.jobs.result import EvaluateResult
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.promotion.champion import read_champion
from flywheel.report.model import Report
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.serving.app import Serving
from flywheel.stages import pipeline as wheel
from flywheel.stages.customize import customize
from flywheel.stages.evaluate import evaluate
from flywheel.students.classifiers import ask
from flywheel.students.linear.model import ARRAYS, LinearModel, fit
from flywheel.workloads.workload import Workload
from tests.unit.teacher_servers import served
from tests.unit.turned_wheel import turn

LINEAR = {"model_name": "tfidf", "family": "linear"}
WORKLOAD = Workload.load("include/workloads/news_classifier.yaml")


@pytest.fixture
def root(tmp_path: Path) -> ArtifactRoot:
    save_dataset(tmp_path / "artifacts", "d1", train=300, calibration=120, held_out=100)
    return ArtifactRoot(str(tmp_path / "artifacts"))


def made_of(root: ArtifactRoot, **changes: Any) -> CustomizeSpec:
    settings = {"artifact_root": root.url, "student": Student(**LINEAR), "dataset": "d1", "size": 300}
    return CustomizeSpec(**{**settings, **changes})


def examined(root: ArtifactRoot, adapter: str | None, **changes: Any) -> EvaluateSpec:
    settings = {"student": Student(**LINEAR), "dataset": "d1", "adapter": adapter, "classes": CLASSES}
    return EvaluateSpec(artifact_root=root.url, **{**settings, **changes})


def lines_of(root: ArtifactRoot, result: EvaluateResult) -> list[dict[str, Any]]:
    folder = root.fetch("evaluations", result.key)
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_it_is_trained_on_the_own_texts_and_gives_calibrated_probabilities(root: ArtifactRoot) -> None:
    made = customize(made_of(root))
    assert made.family == "linear" and made.short_prompt is not None and made.base_sha256 == ""
    assert made.val_loss is not None and made.val_loss < np.log(len(CLASSES))
    result = evaluate(examined(root, made.adapter, size=300))
    assert result.scores["f1_weighted"] > 0.9
    assert result.calibration is not None and result.calibration.records == 30
    assert result.calibration.ece < result.calibration.ece_before
    for line in lines_of(root, result):
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=0.002)
        assert max(line["probabilities"], key=line["probabilities"].get) == line["student"]
    assert result.parameters == made.parameters and result.single_ms is not None
    assert customize(made_of(root)).found and evaluate(examined(root, made.adapter)).found


def test_no_setting_of_other_families_makes_another_adapter(root: ArtifactRoot) -> None:
    assert made_of(root, seed=1, student_prompt="text").key == made_of(root).key
    assert made_of(root, size=299).key != made_of(root).key


def test_its_answers_are_those_of_the_reports_line(root: ArtifactRoot) -> None:
    made = customize(made_of(root))
    rows = [orjson.loads(line) for line in (root.fetch("datasets", "d1") / "train.jsonl").open("rb")]
    texts = [row["messages"][1]["content"].rpartition("headline.\nHeadline: ")[2] for row in rows]
    own = [text.removesuffix("\nClass:") for text in texts]
    line = fit(own, [row["label"] for row in rows])
    read = LinearModel.read(root.fetch("adapters", made.adapter))
    assert read.words == line.words and read.classes == line.classes
    asked = ["profit dividends bank", "strange words alone"]
    assert np.array_equal(read.log_probabilities(asked), line.log_probabilities(asked))


def test_two_classes_have_a_row_of_coefficients_each() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts, labels = ["profit up", "profit down", "rain today", "rain later"] * 5, ["a", "a", "b", "b"] * 5
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    plain = LogisticRegression(C=10, solver="saga", tol=1e-2, random_state=0)
    plain.fit(vectorizer.fit_transform(texts), labels)
    asked = ["profit today", "rain"]
    expected = plain.predict_log_proba(vectorizer.transform(asked))
    assert fit(texts, labels).log_probabilities(asked) == pytest.approx(expected)


def test_a_class_that_no_record_had_is_possible_and_one_that_is_no_more_is_not() -> None:
    model = fit(["profit up", "profit down", "rain today", "rain later"], ["a", "a", "b", "b"])
    (given,) = ask(model, ("b", "new"), ["profit today"])
    # Of b as the model has it, and of the new one 1 / (n + 2); "a" is no class here.
    b = np.exp(model.log_probabilities(["profit today"])[0, 1])
    assert np.exp(given.log_probabilities) == pytest.approx(np.array([b, 1 / 6]) / (b + 1 / 6))
    with pytest.raises(StudentError, match="trained on none of the classes other"):
        ask(model, ("other",), ["profit"])


def test_what_it_cannot_do_is_refused_in_words(root: ArtifactRoot) -> None:
    with pytest.raises(StudentError, match="classifies, and only when it was trained"):
        evaluate(examined(root, None))
    with pytest.raises(NotEnoughRecordsError, match="the first 1 training records are all of one class"):
        customize(made_of(root, size=1))
    path = root.fetch("adapters", customize(made_of(root)).adapter) / ARRAYS
    path.write_bytes(b"x")
    with pytest.raises(StudentError, match="no linear student"):
        LinearModel.read(path.parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation_config": {"workload_type": "generic"}}, "family linear, which classifies only"),
        ({"nims": [{**LINEAR, "gpus": 1}]}, "no weights and no gpus, as family is linear"),
        ({"nims": [{**LINEAR, "customization_enabled": False}]}, "customization_enabled: true"),
        (
            {
                "nmp_config": {
                    "nemo_base_url": "http://a",
                    "nim_base_url": "http://b",
                    "datastore_base_url": "http://c",
                }
            },
            "students of family causal_lm, as runtime.type is nemo",
        ),
    ],
)
def test_a_config_it_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate_config({"nims": [LINEAR], **changes}, "test")


def test_a_workload_without_classes_is_refused_when_a_run_is_planned() -> None:
    config = validate_config({"nims": [LINEAR], "workload": "include/workloads/desk_briefs.yaml"}, "test")
    with pytest.raises(ConfigError, match=r"tfidf is of family linear, which classifies, but .* no classes"):
        make_plan(config, run_id="night", cutoff=datetime(2026, 1, 1, tzinfo=UTC))


def config_of(folder: Path) -> Config:
    data = {
        "client_id": "desk",
        "nims": [LINEAR],
        "sizes": [200, 500],
        "source": [{"path": str(folder / "log.jsonl"), "kind": "log_records"}],
        "store": {"path": str(folder / "records.sqlite")},
        "artifacts": {"root": str(folder / "artifacts")},
        "mlflow_config": {"tracking_uri": f"sqlite:///{folder}/mlflow.db"},
        "data_split_config": {"eval_size": 100, "val_ratio": 0.05, "calibration_ratio": 0.08},
        "evaluation_config": {"workload_type": "classification"},
        "promotion": {"within": 0.9, "min_eval": 1},
        "serving": {"follow_seconds": 0.1},
    }
    return validate_config(data, "test")


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Report]]:
    """A flywheel whose wheel has turned once, with a linear student alone."""
    home = tmp_path_factory.mktemp("home")
    with (home / "log.jsonl").open("wb") as file:
        for place, one in enumerate(generate(800)):
            answer = {"role": "assistant", "content": WORKLOAD.answer_for(one.teacher_label)}
            line = {
                "request": {"model": "teacher", "messages": WORKLOAD.messages(one.text)},
                "response": {"choices": [{"message": answer}]},
                "timestamp": 1_700_000_000 + place,
                "workload_id": WORKLOAD.id,
                "client_id": "desk",
            }
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    plan = make_plan(config_of(home), run_id="night", cutoff=datetime(2026, 1, 1, tzinfo=UTC))
    yield home, turn(Run.create(plan))


def test_it_is_promoted_as_other_students_are(turned: tuple[Path, Report]) -> None:
    folder, report = turned
    assert report.base == [] and [row.name for row in report.scored] == ["tfidf @ 200", "tfidf @ 500"]
    assert [row.score for row in report.scored] == [pytest.approx(row.score) for row in report.baseline]
    champion = read_champion(ArtifactRoot(str(folder / "artifacts")), WORKLOAD.id, "desk")
    assert champion is not None and champion.family == "linear" and champion.weights == ""
    assert champion.whole is not None
    spec = wheel.champion_spec(Run(ArtifactRoot(str(folder / "artifacts")), "night"))
    assert spec.student.family == "linear" and evaluate(spec).found


def test_the_endpoint_answers_with_it_as_it_was_examined(turned: tuple[Path, Report]) -> None:
    folder, report = turned
    root = ArtifactRoot(str(folder / "artifacts"))
    champion = read_champion(root, WORKLOAD.id, "desk")
    assert champion is not None
    path = root.fetch("evaluations", str(champion.evaluation)) / "predictions.jsonl"
    with served(Serving(config_of(folder)).app()) as url:
        deadline = time.monotonic() + 60
        while httpx.get(f"{url}/health/ready").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for line in map(json.loads, path.read_text().splitlines()[:20]):
            for messages in ([{"role": "user", "content": line["text"]}], WORKLOAD.messages(line["text"])):
                body = {"model": WORKLOAD.id, "messages": messages}
                answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()
                assert answer["choices"][0]["message"]["content"] == line["answer"]
                assert answer["flywheel"]["probability"] == pytest.approx(
                    line["probabilities"][line["student"]], abs=2e-3
                )
        body = {"model": f"tfidf@{report.scored[0].size}", "messages": [{"role": "user", "content": "x"}]}
        assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).status_code == 200
