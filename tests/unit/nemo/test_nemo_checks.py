"""The stand-in's checks against the official client's types: they let right things pass, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi
from nemo_microservices import ConflictError, NotFoundError, UnprocessableEntityError
from nemo_microservices.types import CustomizationTarget
from nemo_microservices.types.customization import config_create_params, job_create_params

from flywheel_stand_ins.nemo.checks import BadAnswerError, BadRequestError, check_answer, check_request
from tests.unit.nemo.nemo_server import SMALL, Server, running

JOB: dict[str, Any] = {
    "config": "mdfd/c",
    "dataset": {"namespace": "mdfd", "name": "d"},
    "hyperparameters": {"finetuning_type": "lora", "lora": {"adapter_dim": 8}},
}
CONFIG: dict[str, Any] = {
    "max_seq_length": 2048,
    "training_options": [
        {"training_type": "sft", "finetuning_type": "lora", "num_gpus": 1, "micro_batch_size": 1}
    ],
    "target": f"{SMALL}@2.0",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running(tmp_path_factory.mktemp("nemo")) as server:
        yield server


def test_a_request_as_the_client_sends_it_passes() -> None:
    assert check_request(job_create_params.JobCreateParams, JOB) == JOB
    assert check_request(config_create_params.ConfigCreateParams, CONFIG) == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": 3}, "config"),
        ({"epochs": 3}, "epochs: the client knows no such field"),
        ({"hyperparameters": {"epochs": 1}}, "hyperparameters.finetuning_type"),
        ({"hyperparameters": {"finetuning_type": "lora", "lora": {"rank": 8}}}, "hyperparameters.lora.rank"),
        ({"hyperparameters": {"finetuning_type": "full"}}, "hyperparameters.finetuning_type"),
    ],
)
def test_a_request_that_the_client_could_not_send_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        check_request(job_create_params.JobCreateParams, {**JOB, **change})


def test_what_is_in_a_list_is_checked_too() -> None:
    with pytest.raises(BadRequestError, match="micro_batch_size"):
        check_request(
            config_create_params.ConfigCreateParams,
            {**CONFIG, "training_options": [{**CONFIG["training_options"][0], "micro_batch_size": "some"}]},
        )


def test_an_answer_with_a_field_of_its_own_is_refused() -> None:
    target = {"model_path": "x", "num_parameters": 1, "precision": "fp32"}
    assert check_answer(CustomizationTarget, target) == target
    with pytest.raises(BadAnswerError, match="secret"):
        check_answer(CustomizationTarget, {**target, "secret": 1})
    with pytest.raises(BadAnswerError, match="precision"):
        check_answer(CustomizationTarget, {**target, "precision": "fp1"})


# -- the stand-in's services ---------------------------------------------------------------------------


def test_it_has_a_target_for_each_of_its_models(server: Server) -> None:
    targets = server.client().customization.targets.list().data
    assert [target.base_model for target in targets] == [
        SMALL,
        "meta/llama-3.2-3b-instruct",
        "meta/llama-3.1-8b-instruct",
    ]
    sizes = [target.num_parameters for target in targets]
    assert sizes == sorted(sizes) and sizes[0] > 10_000


def test_entities_are_made_once_listed_by_pages_and_removed(server: Server) -> None:
    datasets = server.client().datasets
    for number in range(5):
        datasets.create(name=f"d{number}", namespace="pages", files_url=f"hf://datasets/pages/d{number}")
    with pytest.raises(ConflictError):
        datasets.create(name="d1", namespace="pages", files_url="hf://datasets/pages/d1")
    page = datasets.list(page=2, page_size=2)
    assert [dataset.name for dataset in page.data] == ["d2", "d3"]
    datasets.delete("d1", namespace="pages")
    with pytest.raises(NotFoundError):
        datasets.retrieve("d1", namespace="pages")


def test_a_config_of_an_unknown_target_is_refused(server: Server) -> None:
    with pytest.raises(UnprocessableEntityError, match="target: meta/other@1 not found"):
        server.client().customization.configs.create(**{**CONFIG, "target": "meta/other@1"})
    server.stand_in.wrong.clear()


def test_the_hubs_client_uploads_and_downloads(server: Server, tmp_path: Path) -> None:
    httpx.post(
        f"{server.url}/datastore/v1/datastore/namespaces", data={"namespace": "hub"}
    ).raise_for_status()
    hub = HfApi(endpoint=f"{server.url}/datastore/v1/hf", token="none")
    hub.create_repo("hub/files", repo_type="dataset")
    for name, data in (("small.txt", b"few"), ("large.txt", b"many" * 5000)):
        (tmp_path / name).write_bytes(data)
        with (tmp_path / name).open("rb") as file:
            hub.upload_file(path_or_fileobj=file, path_in_repo=name, repo_id="hub/files", repo_type="dataset")
    assert sorted(hub.list_repo_files("hub/files", repo_type="dataset")) == ["large.txt", "small.txt"]
    found = hub.hf_hub_download("hub/files", "large.txt", repo_type="dataset", local_dir=tmp_path / "down")
    assert Path(found).read_bytes() == b"many" * 5000
    assert server.counts["files uploaded"] == 1  # the small one was in the commit itself
    hub.delete_repo("hub/files", repo_type="dataset")
    assert not hub.repo_exists("hub/files", repo_type="dataset")


def test_an_evaluation_scores_rows_by_string_checks(server: Server) -> None:
    jobs = server.client().evaluation.jobs
    check = {"type": "string-check", "params": {"check": ["{{a}}", "equals", "{{ b }}"]}}
    job = jobs.create(
        target={"type": "rows", "rows": [{"a": "x", "b": "x"}, {"a": "x", "b": "y"}]},
        config={"type": "custom", "tasks": {"t": {"type": "data", "metrics": {"m": check}}}},
    )
    assert job.id is not None
    while jobs.retrieve(job.id).status not in ("completed", "failed"):
        pass
    result = jobs.results(job.id)
    assert result.tasks is not None and result.tasks["t"].metrics is not None
    assert next(iter((result.tasks["t"].metrics["m"].scores or {}).values())).value == 0.5


def test_a_model_that_is_not_deployed_is_not_answered_for(server: Server) -> None:
    answer = httpx.post(
        f"{server.url}/nim/v1/chat/completions",
        json={"model": SMALL, "messages": [{"role": "user", "content": "?"}]},
    )
    assert answer.status_code == 404
