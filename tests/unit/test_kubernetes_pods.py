"""Pods without a cluster: how they look, what their endings are called, each line of a log once."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flywheel.common.errors import ConfigError
from flywheel.config import load_config
from flywheel.config.loading import validate_config
from flywheel.runtimes.kubernetes import explain
from flywheel.runtimes.kubernetes.job import PodJob
from flywheel.runtimes.kubernetes.logs import new_lines
from flywheel.runtimes.kubernetes.operator import PodOperator
from flywheel.runtimes.kubernetes.pods import run_label


def config(root: str = "artifacts", **kubernetes: Any) -> Any:
    data = {
        "nims": [{"model_name": f"meta/llama-{size}-instruct", "gpus": 1} for size in ("1b", "3b", "8b")],
        "artifacts": {"root": root},
        "runtime": {"type": "kubernetes", "kubernetes": {"volume_claim": "disk", **kubernetes}},
    }
    return validate_config(data, "test")


def manifest(made: Any, student: str = "1b", root: str = "/home/me/artifacts") -> dict[str, Any]:
    spec = f"{root}/runs/r/jobs/{student}@5000/customize.spec.json"
    job = PodJob("customize", "customize", made.student(student), 5000, "r", "runs/r", spec, root)
    operator = PodOperator(stage="customize", student=student, size=5000, task_id="customize")
    return operator.describe(job, made)


def test_a_pod_meets_pod_security_restricted() -> None:
    pod = manifest(config())["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/tmp", "/home/flywheel"}


def test_a_pod_s_spec_holds_no_secret_of_airflow_s_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "FLYWHEEL_TEACHER_API_KEY": "teacher+key/0123",
        "AIRFLOW_CONN_FLYWHEEL_TEACHER": json.dumps({"conn_type": "http", "password": "conn+key/4567"}),
        "JUDGE_API_KEY": "judge+key/8901",
        "MLFLOW_TRACKING_PASSWORD": "mlflow+pass/2345",
        "MLFLOW_TRACKING_URI": "http://u:uri+pass-6789@mlflow.test",
        "AWS_SECRET_ACCESS_KEY": "aws+secret/0123",
        "HF_TOKEN": "hub+token/4567",
        "HTTPS_PROXY": "http://u:proxy+pass-8901@proxy.test",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    made = config(secrets=["flywheel-s3"], root="s3://bucket/flywheel")
    pod = json.dumps(manifest(made, root="s3://bucket/flywheel"))
    (container,) = json.loads(pod)["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "flywheel-s3"}}]
    assert not {entry["name"] for entry in container["env"]} & set(secrets)
    for secret in ("teacher+key", "conn+key", "judge+key", "+pass", "aws+secret", "hub+token"):
        assert secret not in pod and base64.b64encode(secret.encode()).decode()[:8] not in pod


def test_a_pod_template_with_a_secret_in_plain_text_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "pod.yaml"
    variable = {"name": "HF_TOKEN", "value": "hub+token/4567"}
    template.write_text(json.dumps({"spec": {"containers": [{"name": "base", "env": [variable]}]}}))
    with pytest.raises(ConfigError, match="HF_TOKEN holds a secret") as caught:
        manifest(config(pod_template=str(template)))
    assert "hub+token" not in str(caught.value)
    reference = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    template.write_text(json.dumps({"spec": {"containers": [{"name": "base", "env": [reference]}]}}))
    assert manifest(config(pod_template=str(template)))


def test_a_pod_sees_the_artifact_root_where_its_spec_says_it_is() -> None:
    container = manifest(config())["spec"]["containers"][0]
    assert container["args"] == [
        "customize",
        "/opt/flywheel/artifacts/runs/r/jobs/1b@5000/customize.spec.json",
    ]
    assert {"name": "artifacts", "mountPath": "/opt/flywheel/artifacts"} in container["volumeMounts"]
    absolute = manifest(config("/mnt/wheel"), root="/mnt/wheel")["spec"]["containers"][0]
    assert absolute["args"][1].startswith("/mnt/wheel/runs/")
    remote = manifest(config("s3://b/wheel", volume_claim=None), root="s3://b/wheel")["spec"]["containers"][0]
    assert remote["args"][1].startswith("s3://b/wheel/runs/")


def test_a_student_has_its_gpus_and_its_own_settings() -> None:
    made = config(
        limits={"cpu": 4, "memory": "8Gi"},
        priority_classes=["first", "then"],
        students={"8b": {"limits": {"memory": "96Gi"}, "node_selector": {"gpu": "h100"}}},
    )
    large, small = manifest(made, "8b")["spec"], manifest(made, "1b")["spec"]
    assert large["containers"][0]["resources"]["limits"] == {
        "cpu": "4",
        "memory": "96Gi",
        "nvidia.com/gpu": "1",
    }
    assert small["containers"][0]["resources"]["limits"]["memory"] == "8Gi"
    assert large["nodeSelector"] == {"gpu": "h100"}
    assert [manifest(made, name)["spec"]["priorityClassName"] for name in ("8b", "3b", "1b")] == [
        "first",
        "then",
        "then",
    ]


def test_the_same_job_has_the_same_readable_name_and_other_runs_have_others() -> None:
    made = config()
    one, again, other = manifest(made), manifest(made), manifest(made, root="/home/you/artifacts")
    assert one["metadata"]["name"] == again["metadata"]["name"]
    assert one["metadata"]["name"].startswith("fw-customize-1b-5000-")
    assert one["metadata"]["name"] != other["metadata"]["name"]
    assert run_label("/a", "runs/x") != run_label("/b", "runs/x")
    assert one["metadata"]["labels"]["flywheel/student"] == "1b"


def test_a_template_adds_what_flywheel_does_not_know(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {annotations: {team: desk}}\n"
        "spec:\n  dnsPolicy: None\n  containers: [{name: base, image: other, stdin: true}]\n"
    )
    pod = manifest(config(pod_template=str(file)))
    assert pod["metadata"]["annotations"]["team"] == "desk"
    assert pod["spec"]["dnsPolicy"] == "None"
    assert pod["spec"]["containers"][0]["image"] == "flywheel-student:0.2.0"


def test_a_template_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    made = config(pod_template="include/pod.yaml")
    with pytest.raises(ConfigError, match="there is no file"):
        manifest(made)
    (tmp_path / "include").mkdir()
    (tmp_path / "include/pod.yaml").write_text(
        "spec: {dnsPolicy: None, containers: [{name: base, image: x}]}"
    )
    assert manifest(made)["spec"]["dnsPolicy"] == "None"


def test_a_task_on_another_runtime_imports_no_client_of_the_cluster() -> None:
    program = (
        "import sys, flywheel.orchestration, flywheel.runtimes.local.operator\n"
        "import flywheel.runtimes.kubernetes.runtime, flywheel.curation.result\n"
        "assert not {'kubernetes', 'kubernetes_asyncio', 'numpy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("kubernetes: {limits: {memory: 8Gb}, volume_claim: d}", "a quantity as Kubernetes writes it"),
        ("kubernetes: {namespace: Flywheel, volume_claim: d}", "a name of small letters"),
        ("kubernetes: {students: {2b: {image: x}}, volume_claim: d}", "a short name of one of `nims`"),
        ("kubernetes: {students: {1b: {imag: x}}, volume_claim: d}", "the nearest valid key is 'image'"),
        ("kubernetes: {}", "volume_claim"),
        ("kubernetes: {volume_claim: d, priority_class: a, priority_classes: [b]}", "not both"),
    ],
)
def test_wrong_settings_are_told_before_any_pod(settings: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"nims: [{{model_name: a/x-1b}}]\nruntime:\n  type: kubernetes\n  {settings}\n")
    with pytest.raises(ConfigError, match=said):
        load_config(file)


def pod(**status: Any) -> dict[str, Any]:
    resources = {"limits": {"memory": "8Gi"}}
    return {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "base", "image": "i", "resources": resources}]},
        "status": status,
    }


def ended(code: int, *, phase: str = "Failed", **more: Any) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, **more}}
    return pod(phase=phase, containerStatuses=[{"name": "base", "state": state}])


@pytest.mark.parametrize(
    ("state", "said", "refused"),
    [
        (ended(137, reason="OOMKilled"), "more memory than its limit of 8Gi", False),
        (ended(137), "killed by signal 9", False),
        (ended(1, message="x\nerror: no such dataset\n"), "p: no such dataset", True),
        (ended(3, message="Traceback\nerror: boom"), "exit code 3: error: boom", False),
        (ended(1, message="Traceback\nboom"), "exit code 1: boom", False),
        (ended(128, reason="StartError", message="exec: flywheel: not found"), "cannot be started", False),
        (pod(phase="Failed", reason="Evicted", message="low on resource: memory."), "requests.memory", False),
        (pod(phase="Failed", reason="DeadlineExceeded"), "job_timeout_hours", False),
        (pod(phase="Failed", reason="OutOfcpu", message="node is full"), "its node refused it", False),
        (pod(phase="Failed", reason="NodeShutdown", message="bye"), "its node could not keep it", False),
    ],
)
def test_each_ending_is_one_sentence(state: dict[str, Any], said: str, refused: bool) -> None:
    ending = explain.ending(state)
    assert ending is not None
    assert said in ending.sentence
    assert ending.refused is refused
    assert "\n" not in ending.sentence


def with_init(state: dict[str, Any], *, phase: str = "Pending", last: Any = None, restarts: int = 0) -> Any:
    """Return a pod whose job's container waits for its init container `istio-init`."""
    init = {"name": "istio-init", "state": state, "lastState": last or {}, "restartCount": restarts}
    waits = {"name": "base", "state": {"waiting": {"reason": "PodInitializing"}}}
    made = pod(
        phase=phase,
        conditions=[{"type": "PodScheduled", "status": "True"}],
        initContainerStatuses=[{"name": "first", "state": {"terminated": {"exitCode": 0}}}, init],
        containerStatuses=[waits],
    )
    made["spec"]["initContainers"] = [{"name": "first"}, {"name": "istio-init", "image": "istio/proxyv2"}]
    made["spec"]["nodeName"] = "node-1"
    return made


IPTABLES = {"exitCode": 1, "reason": "Error", "message": "loading\niptables: no such table\n"}


@pytest.mark.parametrize(
    ("terminated", "how"),
    [
        (IPTABLES, "exit code 1: iptables: no such table"),
        (
            {"exitCode": 255, "reason": "Error"},
            "exit code 255, and said nothing (kubectl logs -c istio-init)",
        ),
        ({"exitCode": 137, "reason": "OOMKilled"}, "exit code 137, as it needed more memory than its limit"),
        ({"exitCode": 128, "reason": "StartError"}, "exit code 128: StartError"),
    ],
)
def test_an_init_container_that_failed_is_named_with_its_code_and_words(
    terminated: dict[str, Any], how: str
) -> None:
    ending = explain.ending(with_init({"terminated": terminated}, phase="Failed"))
    assert ending is not None
    assert ending.sentence == (
        f"p: its init container 'istio-init' failed with {how}; see who adds it, "
        "runtime.kubernetes.pod_template or a webhook of the cluster"
    )


def test_an_init_container_that_fails_again_and_again_is_told_and_given_up() -> None:
    backs_off = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}
    looping = with_init(backs_off, last={"terminated": IPTABLES}, restarts=3)
    said = explain.waiting_for(looping)
    assert said.startswith(
        "node-1 to start it again: its init container 'istio-init' failed (3 times) with exit"
    )
    assert explain.hopeless(looping, 0) == ""
    hopeless = explain.hopeless(with_init(backs_off, last={"terminated": IPTABLES}, restarts=5), 0)
    assert hopeless.startswith(
        "p: its init container 'istio-init' failed (5 times) with exit code 1: iptables"
    )


def test_an_init_container_that_runs_or_cannot_be_made_is_what_is_waited_for() -> None:
    assert explain.waiting_for(with_init({"running": {}})) == "its init container 'istio-init' to end"
    stuck = with_init({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})
    assert (
        explain.waiting_for(stuck) == "node-1: its init container 'istio-init': ImagePullBackOff: not found"
    )
    assert "image 'istio/proxyv2' cannot be pulled (not found); its init container" in explain.hopeless(
        stuck, 0
    )
    secret = with_init(
        {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "x" not found'}}
    )
    assert 'secret "x" not found' in explain.hopeless(secret, 0)
    begun = with_init({"running": {}})
    begun["spec"]["initContainers"][1]["restartPolicy"] = "Always"  # a sidecar, which is to run on
    assert explain.waiting_for(begun) == "node-1 to fetch its image and mount its volumes"


def test_a_sidecar_that_failed_beside_the_job_is_told_with_it() -> None:
    failed = ended(3, message="error: connection refused")
    sidecar = {"name": "istio-proxy", "state": {"terminated": {"exitCode": 2, "message": "no xds"}}}
    failed["status"]["containerStatuses"].append(sidecar)
    ending = explain.ending(failed)
    assert ending is not None
    assert ending.sentence.startswith(
        "p: ended with exit code 3: error: connection refused; beside it, its container 'istio-proxy' failed "
        "with exit code 2: no xds"
    )


def test_a_pod_that_ended_before_its_job_began_is_told_so() -> None:
    ending = explain.ending(pod(phase="Failed", message="Pod was rejected: no topology"))
    assert ending is not None
    assert "it ended before its container had started (Pod was rejected: no topology)" in ending.sentence
    assert "None" not in ending.sentence


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("Pod was rejected: The node had condition: [DiskPressure]. ", "its node was short of that before"),
        ("Pod was rejected: The node had condition: [MemoryPressure]. ", "its node was short of that before"),
        (
            "The node was low on resource: ephemeral-storage. Container base was using 9Gi",
            "its node ran short",
        ),
        ('Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". ', "raise runtime.kubernetes.scratch"),
        ("Pod ephemeral local storage usage exceeds the total limit of containers 2Gi. ", "scratch"),
    ],
)
def test_only_what_the_job_wrote_itself_is_reason_for_more_scratch(message: str, advice: str) -> None:
    ending = explain.ending(pod(phase="Failed", reason="Evicted", message=message))
    assert ending is not None
    assert advice in ending.sentence
    assert ("scratch where" in ending.sentence) is ("scratch" in advice)


def test_a_running_pod_has_no_ending_and_a_good_one_no_complaint() -> None:
    assert explain.ending(pod(phase="Running")) is None
    good = explain.ending(ended(0, phase="Succeeded"))
    assert good is not None
    assert good.good
    # Its container ended well; a sidecar of somebody's webhook goes on.
    assert explain.ending(ended(0, phase="Running")) == good


def test_a_pod_says_what_it_waits_for() -> None:
    waits = pod(
        phase="Pending",
        conditions=[{"type": "PodScheduled", "status": "False", "message": "1 Insufficient nvidia.com/gpu."}],
    )
    waits["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "1"
    assert explain.waiting_for(waits).startswith("a place for 1 nvidia.com/gpu, 8Gi memory: 1 Insufficient")
    assert explain.hopeless(waits, 3600) == ""
    assert explain.waiting_for(pod(phase="Running")) == ""


def test_an_image_that_comes_later_is_waited_for() -> None:
    def waiting(message: str) -> dict[str, Any]:
        state = {"waiting": {"reason": "ImagePullBackOff", "message": message}}
        return pod(phase="Pending", containerStatuses=[{"name": "base", "state": state}])

    assert "cannot be pulled" in explain.hopeless(waiting("not found"), 0)
    assert explain.hopeless(waiting("429 Too Many Requests"), 0) == ""


@pytest.mark.parametrize(
    ("asked", "limit", "waits"),
    [("1", "2", True), ("3", "2", False), ("500m", "1", True), ("3Gi", "2Gi", False)],
)
def test_a_quota_that_is_used_up_is_waited_for_and_one_too_small_is_not(
    asked: str, limit: str, waits: bool
) -> None:
    message = f"pods is forbidden: exceeded quota: q, requested: requests.x={asked}, used: requests.x=1, limited: requests.x={limit}"
    sentence, may_fit = explain.refusal(403, message, "n", "p")
    assert may_fit is waits
    assert "quota q of namespace n" in sentence


def test_each_line_of_a_log_comes_once_also_within_one_second() -> None:
    text = "2025-01-01T00:00:01.1Z one\n2025-01-01T00:00:01.25Z two\n2025-01-01T00:00:01.3Z  50%\r100%\n"
    lines, last = new_lines(text, "")
    assert lines == ["one", "two", "100%"]
    more, _ = new_lines(text + "2025-01-01T00:00:01.300000001Z three\nrubbish\n", last)
    assert more == ["three"]
