"""Runtime nemo on the stand-in: jobs over real HTTP through the official client, and what goes wrong on the way."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from nemo_microservices import NeMoMicroservices

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ConfigError, JobError, NotEnoughRecordsError
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.jobs.spec import CustomizeSpec
from flywheel.runtimes import RefusedJobError, open_runtime
from flywheel.runtimes.nemo.holds import Holds
from flywheel.runtimes.nemo.job import hyperparameters
from flywheel.stages.customize import customize
from flywheel.stages.evaluate import evaluate
from flywheel_stand_ins.nemo.state import Fault, NemoBehaviour
from tests.unit.nemo.nemo_jobs import Flywheel, Start, changed, wait_until
from tests.unit.nemo.nemo_server import NAMESPACE, SMALL

# -- the work ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["full", "text"])
def test_a_candidate_gets_the_scores_that_runtime_local_gives_it(
    start: Start, tmp_path: Path, material: Path, prompt: str
) -> None:
    flywheel = start()
    made = flywheel.run(flywheel.customize_spec(student_prompt=prompt))
    found = flywheel.run(flywheel.evaluate_spec(made.adapter))
    local = flywheel.config.students[0].model_copy(update={"weights": str(material / "student")})
    here = customize(changed(flywheel.customize_spec(student_prompt=prompt), student=local.model_dump()))
    there = evaluate(changed(flywheel.evaluate_spec(here.adapter), student=local.model_dump()))
    assert [point.loss for point in made.losses] == pytest.approx(
        [point.loss for point in here.losses], rel=1e-4
    )
    assert made.val_loss == pytest.approx(here.val_loss, rel=1e-4)
    assert made.short_prompt == here.short_prompt and (made.short_prompt is None) == (prompt == "full")
    assert found.scores == there.scores
    assert found.injections is not None and found.injections == there.injections
    in_flight = min(flywheel.config.runtime.nemo.parallel_requests, found.records)
    assert (found.batch_size, found.warmup_seconds, found.single_ms) == (in_flight, None, None)
    assert (made.steps, made.train_records) == (here.steps, here.train_records)
    assert flywheel.server.deployed == []
    assert any("undeployed" in line for line in flywheel.lines)
    assert any(line.startswith("customization completed: 100 %, step 3") for line in flywheel.lines)
    assert any(line.startswith("WARNING 3 optimizer steps are few") for line in flywheel.lines)
    assert "3 optimizer steps are few" in made.notes[0]


def test_what_was_made_is_found_and_nothing_is_asked_of_nemo(start: Start) -> None:
    flywheel = start()
    made = flywheel.run(flywheel.customize_spec())
    flywheel.run(flywheel.evaluate_spec(made.adapter))
    before = dict(flywheel.server.counts)
    again = flywheel.run(flywheel.customize_spec(), run="next")
    assert again.found and again.steps_run == 0 and again.adapter == made.adapter
    assert flywheel.run(flywheel.evaluate_spec(made.adapter), run="next").found
    assert dict(flywheel.server.counts) == before


def test_the_student_itself_is_evaluated_without_an_adapter(start: Start) -> None:
    flywheel = start(nemo={"evaluator": False})
    result = flywheel.run(flywheel.evaluate_spec())
    assert result.adapter is None and result.records == 24 and result.parameters
    assert "evaluations made" not in flywheel.server.counts


def test_the_evaluator_counts_as_we_do(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    flywheel = start()
    caplog.set_level("INFO")
    made = flywheel.run(flywheel.customize_spec())
    result = flywheel.run(flywheel.evaluate_spec(made.adapter))
    right = f"{result.scores['accuracy']:.4f}"
    assert f"NeMo Evaluator's accuracy {right}, ours {right}" in caplog.text


def test_a_training_is_described_as_the_customizer_wants_it(start: Start) -> None:
    flywheel = start()
    training = TrainingConfig(epochs=2, batch_size=16, min_steps=9, warmup_ratio=0.2, validations=3)
    spec = flywheel.customize_spec(training=training, lora=LoraConfig(adapter_dim=8, adapter_dropout=0.2))
    described = hyperparameters(spec)
    assert described == {
        "training_type": "sft",
        "finetuning_type": "lora",
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 1e-4,
        "warmup_steps": 2,
        "weight_decay": 0.0,
        "seed": 42,
        "sequence_packing_enabled": True,
        "lora": {"adapter_dim": 8, "adapter_dropout": 0.2, "alpha": 16},
        "val_check_interval": 1.0,
        "max_steps": 9,
    }


# -- once, whatever happens ----------------------------------------------------------------------------


def test_a_job_whose_id_was_lost_is_gone_on_with(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    flywheel = start()
    # Ended between the making of the job and the note of its id.
    from flywheel.runtimes.nemo import runtime

    real = runtime.write_state

    def die(job: Any, state: Any) -> None:
        if state.customization:
            raise OSError("no space left")
        real(job, state)

    monkeypatch.setattr(runtime, "write_state", die)
    with pytest.raises(OSError):
        flywheel.run(flywheel.customize_spec())
    monkeypatch.setattr(runtime, "write_state", real)
    assert flywheel.run(flywheel.customize_spec()).steps == 3
    assert flywheel.server.counts["customizations made"] == 1
    assert flywheel.server.counts["files uploaded"] == 2
    assert any("going on with customization job" in line for line in flywheel.lines)


def test_the_same_dataset_is_uploaded_once_by_many_at_a_time(start: Start) -> None:
    flywheel = start(nemo={"parallel_jobs": 8})
    specs = [changed(flywheel.customize_spec(), lora={"adapter_dim": rank}) for rank in (2, 4, 8)]
    threads = [
        threading.Thread(target=flywheel.run, args=(spec, f"r{number}")) for number, spec in enumerate(specs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert flywheel.server.counts["customizations made"] == 3
    assert flywheel.server.counts["files uploaded"] == 2
    assert flywheel.server.counts["datasets made"] == 1


def test_two_runs_that_want_the_same_adapter_share_a_job(start: Start) -> None:
    flywheel = start(NemoBehaviour(pending_seconds=0.5))
    threads = [
        threading.Thread(target=flywheel.run, args=(flywheel.customize_spec(), run)) for run in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert flywheel.server.counts["customizations made"] == 1
    assert ArtifactRoot(flywheel.root.url).exists("runs/a/jobs/1b@48/customize.json")
    assert ArtifactRoot(flywheel.root.url).exists("runs/b/jobs/1b@48/customize.json")


# -- faults --------------------------------------------------------------------------------------------

TRAINING = ["customizer", "entities", "datastore"]
SERVICES = [*TRAINING, "evaluator", "deployment", "nim"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_fails_is_busy_and_hangs_up_changes_nothing(start: Start, service: str) -> None:
    faults = [
        Fault(service, status=500, times=2),
        Fault(service, status=429, times=1, retry_after=0.2),
        Fault(service, status=0, times=1),  # the connection is closed
        Fault(service, status=503, share=0.3, times=4),
    ]
    flywheel = start(NemoBehaviour(faults=faults, seed=3))
    counts = flywheel.server.counts
    if service in TRAINING:
        assert flywheel.run(flywheel.customize_spec()).steps == 3
        assert counts["customizations made"] == counts["datasets made"] == 1
        assert all(counts[name] == 1 for name in list(counts) if name.startswith("uploads of"))
    else:
        assert flywheel.run(flywheel.evaluate_spec()).records == 24
        assert counts["evaluations made"] == counts["deployment/model-deployments made"] == 1
    assert counts[f"faults of {service}"] >= 3 and flywheel.server.deployed == []


@pytest.mark.parametrize("service", ["customizer", "evaluator", "deployment", "entities"])
def test_what_was_made_though_its_answer_was_lost_is_not_made_twice(start: Start, service: str) -> None:
    flywheel = start(NemoBehaviour(faults=[Fault(service, method="POST", status=500, after=True, times=2)]))
    made = flywheel.run(flywheel.customize_spec())
    flywheel.run(flywheel.evaluate_spec(made.adapter))
    counts = flywheel.server.counts
    assert counts[f"faults of {service}"] >= 1
    assert counts["customizations made"] == counts["evaluations made"] == 1
    assert counts["datasets made"] == 2  # to train and to measure
    assert counts["deployment/model-deployments made"] == 1 and flywheel.server.deployed == []


def test_a_service_that_stays_down_is_a_clear_sentence(start: Start) -> None:
    flywheel = start(NemoBehaviour(faults=[Fault("customizer", status=503)]), nemo={"lost_minutes": 0.01})
    with pytest.raises(JobError, match=r"NeMo Customizer: no good answer for 0.01 min .*status 503"):
        flywheel.run(flywheel.customize_spec())


@pytest.mark.parametrize("service", [*TRAINING, "evaluator", "deployment", "nim"])
def test_a_call_without_an_answer_in_time_is_made_again(start: Start, service: str) -> None:
    method = "POST" if service in ("datastore", "nim") else "GET"
    faults = [Fault(service, method=method, status=500, times=1, seconds=12)]
    flywheel = start(NemoBehaviour(faults=faults), nemo={"timeout_seconds": 10})
    if service in TRAINING:
        assert flywheel.run(flywheel.customize_spec()).steps == 3
        assert flywheel.server.counts["customizations made"] == flywheel.server.counts["datasets made"] == 1
    else:
        assert flywheel.run(flywheel.evaluate_spec()).records == 24
    assert flywheel.server.counts[f"faults of {service}"] == 1
    # The Hub's client tells nobody of a call that it makes again.
    assert service == "datastore" or any("no answer in time" in line for line in flywheel.lines)


def test_the_services_restart_in_the_middle_of_a_job(start: Start) -> None:
    flywheel = start(NemoBehaviour(pending_seconds=1.0))
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(flywheel.run(flywheel.customize_spec())))
    thread.start()
    wait_until(lambda: flywheel.server.jobs())
    flywheel.server.stop()
    flywheel.server.start()
    thread.join(300)
    assert results[0].steps == 3
    assert len(flywheel.server.jobs()) == 1


def test_a_failed_job_says_why_and_its_retry_makes_another(start: Start) -> None:
    flywheel = start(NemoBehaviour(failing={"1b-": 1}))
    with pytest.raises(JobError, match=r"customization job cust-\w+ failed: the training pod was evicted"):
        flywheel.run(flywheel.customize_spec())
    assert flywheel.run(flywheel.customize_spec()).steps == 3
    assert flywheel.server.counts["customizations made"] == 2
    assert flywheel.server.counts["files uploaded"] == 2


def test_a_nim_that_never_gets_ready_is_taken_away(start: Start) -> None:
    flywheel = start(NemoBehaviour(never_ready="1b"), nemo={"deploy_minutes": 0.02})
    with pytest.raises(
        JobError, match=r"NIM flywheel-\S+ of 1b: not ready within 0.02 min .*Insufficient nvidia.com/gpu"
    ):
        flywheel.run(flywheel.evaluate_spec())
    assert flywheel.server.deployed == []


def test_a_nim_that_fails_is_taken_away_and_the_retry_deploys_it_anew(start: Start) -> None:
    flywheel = start(NemoBehaviour(failing={"1b": 1}))
    with pytest.raises(JobError, match="of 1b: failed: the NIM's pod is in CrashLoopBackOff"):
        flywheel.run(flywheel.evaluate_spec())
    assert flywheel.server.deployed == []
    assert flywheel.run(flywheel.evaluate_spec()).records == 24


def test_a_killed_job_is_cancelled_on_nemo(start: Start) -> None:
    flywheel = start(NemoBehaviour(pending_seconds=600))
    runtime = open_runtime(flywheel.config)
    errors: list[Exception] = []

    def run() -> None:
        try:
            flywheel.run(flywheel.customize_spec(), runtime=runtime)
        except JobError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: any("made:" in line for line in flywheel.lines))
    runtime.kill()
    thread.join(300)
    assert "ended with its task" in str(errors[0])
    assert [job["status"] for job in flywheel.server.jobs()] == ["cancelled"]


def test_a_killed_evaluation_leaves_no_nim(start: Start) -> None:
    flywheel = start(NemoBehaviour(never_ready="1b"), nemo={"deploy_minutes": 10})
    runtime = open_runtime(flywheel.config)

    def run() -> None:
        with pytest.raises(JobError, match="ended with its task"):
            flywheel.run(flywheel.evaluate_spec(), runtime=runtime)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: flywheel.server.deployed)
    runtime.kill()
    thread.join(300)
    assert flywheel.server.deployed == []


def test_a_wrong_key_and_a_wrong_target_are_refused_with_what_to_do(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    flywheel = start(NemoBehaviour(api_key="right"))
    with pytest.raises(RefusedJobError, match=r"refuses us \(401\).*nmp_config.key_variable"):
        flywheel.run(flywheel.evaluate_spec())
    nmp = flywheel.config.nmp_config.model_copy(update={"key_variable": "NEMO_KEY"})
    flywheel.config = flywheel.config.model_copy(update={"nmp_config": nmp})
    with pytest.raises(ConfigError, match="NEMO_KEY is not set"):
        flywheel.run(flywheel.evaluate_spec())
    monkeypatch.setenv("NEMO_KEY", "right")
    assert flywheel.run(flywheel.evaluate_spec()).records == 24
    spec = flywheel.customize_spec().model_dump()
    spec["student"]["customizer_configs"]["target"] = "meta/llama-3.2-1b-instruct@9"
    with pytest.raises(RefusedJobError, match=r"no such target; it has meta/llama-3.2-1b-instruct@2.0"):
        flywheel.run(CustomizeSpec.model_validate(spec))


def test_too_few_records_are_an_error_before_anything_is_uploaded(start: Start) -> None:
    flywheel = start()
    with pytest.raises(NotEnoughRecordsError, match="dataset d1 has 80 training records"):
        flywheel.run(flywheel.customize_spec(81))
    assert flywheel.server.counts == {}


# -- several at once, and what is not ours -------------------------------------------------------------


def test_the_limits_hold_over_all_flywheels(start: Start, material: Path, tmp_path: Path) -> None:
    flywheel = start(
        NemoBehaviour(pending_seconds=0.3, running_jobs=9), nemo={"parallel_jobs": 2, "parallel_nims": 1}
    )
    limits = {"nemo": {"parallel_jobs": 2, "parallel_nims": 1}}
    others = [Flywheel(flywheel.server, material, tmp_path / name, **limits) for name in ("second", "third")]
    errors: list[BaseException] = []

    def turn(one: Flywheel, size: int) -> None:
        try:
            made = one.run(one.customize_spec(size), run=f"run{size}")
            one.run(one.evaluate_spec(made.adapter), run=f"run{size}")
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=turn, args=(one, size)) for one in (flywheel, *others) for size in (16, 32)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(400)
    counts = flywheel.server.counts
    assert errors == []
    assert counts["most customizations at once"] <= 2
    assert counts["most deployments at once"] == 1
    assert flywheel.server.deployed == []
    assert any("runtime.nemo.parallel_jobs: 2" in line for one in (flywheel, *others) for line in one.lines)


def test_a_nim_of_somebody_else_is_used_and_left_alone(start: Start) -> None:
    flywheel = start()
    client: NeMoMicroservices = flywheel.server.client()
    client.deployment.model_deployments.create(
        name="production",
        namespace="default",
        models=[SMALL],
        config={"model": SMALL, "nim_deployment": {"image_name": "x", "image_tag": "1", "gpu": 1}},
    )
    assert flywheel.run(flywheel.evaluate_spec()).records == 24
    assert flywheel.server.deployed == ["default/production"]
    assert any("which is there already" in line for line in flywheel.lines)


def test_a_nim_that_nobody_holds_any_more_makes_room(start: Start, material: Path, tmp_path: Path) -> None:
    flywheel = start(nemo={"parallel_nims": 1})
    job = flywheel.job(flywheel.evaluate_spec())
    flywheel.server.client().deployment.model_deployments.create(
        name="flywheel-left-behind",
        namespace=NAMESPACE,
        custom_fields={"flywheel": job.owner},
        config={"model": SMALL, "nim_deployment": {"image_name": "x", "image_tag": "1", "gpu": 1}},
    )
    Holds(flywheel.root).add("flywheel-left-behind", "killed")
    path = flywheel.root.list("nemo/holds/flywheel-left-behind")[0]
    flywheel.root.write_json(f"nemo/holds/flywheel-left-behind/{path}", {"until": time.time() - 1})
    assert flywheel.run(flywheel.evaluate_spec()).records == 24
    assert flywheel.server.deployed == []


def test_an_adapter_of_another_runtime_is_refused_with_what_to_do(start: Start) -> None:
    flywheel = start()
    with flywheel.root.build("adapters", "made-here") as folder:
        (folder / "result.json").write_text(json.dumps({}))
    with pytest.raises(RefusedJobError, match="adapter made-here was not made on NeMo"):
        flywheel.run(flywheel.evaluate_spec("made-here"))
    assert flywheel.server.deployed == []
