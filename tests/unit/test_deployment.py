"""What is deployed: no open service, no secret, no image or package that is not told by version and hash."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flywheel.common.redaction import is_secret_name
from flywheel.config.kubernetes import KubernetesConfig
from flywheel.config.loading import validate_config
from flywheel.config.secrets import has_userinfo

PROJECT = Path(__file__).parents[2]
DOCKER = PROJECT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
VALUES = yaml.safe_load((DOCKER / "kubernetes/airflow-values.yaml").read_text())
MANIFESTS = sorted((DOCKER / "kubernetes").glob("*/**/*.yaml"))
LOCKS = sorted(PROJECT.glob("requirements*.txt"))


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            if "kind" not in document:  # a config of flywheel's own
                continue
            yield str(path.relative_to(DOCKER)), document


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Give each key of nested data with its value, keys before what is in them."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{path}.{name}", inner
            yield from walk(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner, path)


# -- one host ------------------------------------------------------------------------------------------


def test_every_image_of_compose_is_by_digest_or_our_own() -> None:
    for name, service in SERVICES.items():
        image = service["image"]
        assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:\?make pin-images\}|flywheel-airflow:single-host", image), name
    base = COMPOSE["x-airflow"]["build"]["args"]["BASE"]
    assert base == "${PYTHON_IMAGE:?make pin-images}"


def test_nothing_listens_outside_but_airflow_s_api_which_asks_for_a_login() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if service.get("ports")}
    assert published == {"api-server": ["127.0.0.1:8080:8080"]}
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "elasticsearch", "mlflow"):
        assert SERVICES[name]["networks"] == ["inside"], name
    command = SERVICES["mlflow"]["command"]
    assert command[command.index("--allowed-hosts") + 1] == "mlflow:5000"
    tracking = yaml.safe_load((DOCKER / "compose.config.yaml").read_text())["mlflow_config"]["tracking_uri"]
    assert tracking == "http://mlflow:5000"


def test_no_service_of_compose_has_rights_that_it_does_not_need() -> None:
    for name, service in SERVICES.items():
        assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if "flywheel-airflow" in service["image"]:
            assert service["cap_drop"] == ["ALL"] and service["read_only"] is True, name
        assert not any("docker.sock" in volume for volume in service.get("volumes", ())), name


def test_no_secret_is_written_in_compose() -> None:
    for path, value in walk(COMPOSE):
        name = path.rpartition(".")[2]
        if is_secret_name(name) and isinstance(value, str):
            assert re.fullmatch(r"\$\{[A-Z_]+:[?-].*\}", value), path
        if isinstance(value, str) and has_userinfo(value):
            assert re.search(r"//airflow:\$\{POSTGRES_PASSWORD:\?[^}]*\}@", value), path
    for line in (DOCKER / "compose.env.example").read_text().splitlines():
        assert line.startswith("#") or line.endswith("="), line


# -- images --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["student", "airflow"])
def test_an_image_of_ours_begins_with_the_digest_it_is_given_and_ends_with_a_user(name: str) -> None:
    text = (DOCKER / f"{name}.Dockerfile").read_text()
    assert re.search(r"^ARG BASE$", text, re.MULTILINE)  # no default: a tag would change its meaning
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", text, re.MULTILINE))
    for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert image in {"${BASE}", "${STUDENT_IMAGE}"} | stages
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1].startswith("10001:")
    for line in re.findall(r"(?:uv )?pip install[^;\\]*", text):
        assert "--require-hashes" in line, line


def test_nothing_is_deployed_as_latest() -> None:
    files = [*DOCKER.rglob("*"), PROJECT / "include/config.yaml", PROJECT / "scripts/images.sh"]
    for path in files:
        if path.is_file() and path.name != ".env":
            assert not re.search(r":latest\b|[Tt]ag: latest", path.read_text()), path
    version = re.search(r'^version = "(.*)"', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert KubernetesConfig().image == f"flywheel-student:{version[1]}"
    assert VALUES["defaultAirflowTag"] == version[1]


def run_script(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of a copy of scripts/, with programs of the folder's own before others."""
    variables = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", **environment}
    return subprocess.run(
        ["sh", *command], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(PROJECT / "scripts", tmp_path / "scripts")
    for path in (*LOCKS, PROJECT / "pyproject.toml"):
        shutil.copy(path, tmp_path)
    (tmp_path / "docker").mkdir()
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(folder: Path, name: str, text: str) -> None:
    file = folder / "bin" / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_pinning_writes_what_the_registry_says_beside_the_secrets_that_are_there(checkout: Path) -> None:
    (checkout / "docker/.env").write_text("POSTGRES_PASSWORD=x\nPYTHON_IMAGE=old\n")
    program(checkout, "skopeo", f"echo sha256:{'a' * 64}")
    done = run_script(checkout, "scripts/images.sh", "pin")
    assert done.returncode == 0, done.stderr
    lines = (checkout / "docker/.env").read_text().splitlines()
    assert "POSTGRES_PASSWORD=x" in lines and "PYTHON_IMAGE=old" not in lines
    assert f"PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:{'a' * 64}" in lines
    assert {line.split("=")[0] for line in lines} >= {"POSTGRES_IMAGE", "ELASTICSEARCH_IMAGE"}
    assert (checkout / "docker/.env").stat().st_mode & 0o077 == 0


def test_pinning_takes_no_other_answer_for_a_digest(checkout: Path) -> None:
    program(checkout, "skopeo", "echo unauthorized")
    done = run_script(checkout, "scripts/images.sh", "pin")
    assert done.returncode == 1 and "no digest" in done.stderr


def test_images_are_built_on_a_digest_alone_and_tagged_with_the_version(checkout: Path) -> None:
    program(checkout, "docker", 'echo "$@"')
    assert "make pin-images" in run_script(checkout, "scripts/images.sh", "build").stderr
    (checkout / "docker/.env").write_text(f"PYTHON_IMAGE=python@sha256:{'b' * 64}\n")
    done = run_script(checkout, "scripts/images.sh", "build", "registry.example.com/")
    assert done.returncode == 0, done.stderr
    assert f"BASE=python@sha256:{'b' * 64}" in done.stdout
    assert "-t registry.example.com/flywheel-student:0.2.0" in done.stdout
    assert "-t registry.example.com/flywheel-airflow:0.2.0" in done.stdout


def test_another_index_s_torch_is_installed_by_hash_or_not_at_all(checkout: Path) -> None:
    url = "http://127.0.0.1:1/cpu"
    done = run_script(
        checkout, "scripts/install.sh", "requirements-students.txt", TORCH_INDEX=url, PYTHON="false"
    )
    assert done.returncode == 1
    assert f"make lock-torch TORCH_INDEX={url}" in done.stderr
    for line in re.findall(r"^\s*install .*", (PROJECT / "scripts/install.sh").read_text(), re.MULTILINE):
        assert "--require-hashes" in line or "--editable ." in line, line


# -- a cluster -----------------------------------------------------------------------------------------


def test_the_namespace_takes_restricted_pods_alone() -> None:
    (namespace,) = [document for _, document in documents() if document["kind"] == "Namespace"]
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_overlay_opens_a_service_or_grants_more() -> None:
    for path, document in documents():
        if document["kind"] == "Service":  # the endpoint's, inside the cluster: it asks for a key
            assert "overlays/serving/" in path and "type" not in document["spec"], path
        assert document["kind"] not in {
            "Ingress",
            "Secret",
            "ClusterRole",
            "ClusterRoleBinding",
        }, path
        for key, value in walk(document):
            name = key.rpartition(".")[2]
            assert name not in {"hostNetwork", "hostPID", "hostIPC", "hostPath", "hostPort", "privileged"}, (
                path
            )
            assert not (is_secret_name(name) and isinstance(value, str)), f"{path}{key}"
        if document["kind"] == "Role":
            assert all("*" not in [*rule["verbs"], *rule["resources"]] for rule in document["rules"])


def serving(kind: str) -> list[dict[str, Any]]:
    found = [each for path, each in documents() if "overlays/serving/" in path]
    return [each for each in found if each["kind"] == kind]


def test_the_endpoint_s_pods_are_restricted_and_tell_warm_from_alive() -> None:
    (deployment,) = serving("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    version = re.search(r'^version = "(.*)"', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None and container["image"] == f"flywheel-student:{version[1]}"
    assert pod["securityContext"]["runAsNonRoot"] is True and not pod["automountServiceAccountToken"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    paths = {name: container[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")}
    assert paths == {"livenessProbe": "/health/live", "readinessProbe": "/health/ready"}
    # Requests on their way end before the pod does: uvicorn waits 30 seconds for them.
    assert pod["terminationGracePeriodSeconds"] > container["lifecycle"]["preStop"]["sleep"]["seconds"] + 30
    artifacts = [each for each in container["volumeMounts"] if each["name"] == "artifacts"]
    assert all(each["readOnly"] for each in artifacts)
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_endpoint_s_replicas_are_kept_and_scaled_by_a_metric_that_it_has() -> None:
    from flywheel.serving.metrics import Metrics

    (scaler,), (budget,) = serving("HorizontalPodAutoscaler"), serving("PodDisruptionBudget")
    name = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert f"\n{name} 0.0" in Metrics().exposition({}).decode()
    assert scaler["spec"]["minReplicas"] > budget["spec"]["minAvailable"] >= 1
    labels = serving("Deployment")[0]["spec"]["template"]["metadata"]["labels"]
    assert {tuple(each["spec"]["selector"].items()) for each in serving("Service")} == {tuple(labels.items())}
    assert any(each["spec"].get("clusterIP") == "None" for each in serving("Service"))


def test_the_endpoint_s_config_is_one_and_asks_for_a_key() -> None:
    text = (DOCKER / "kubernetes/overlays/serving/config.yaml").read_text()
    config = validate_config(yaml.safe_load(text), "config.yaml")
    assert config.serving.keys and all(key.connection for key in config.serving.keys)
    (policy,) = serving("NetworkPolicy")
    assert [port["port"] for port in policy["spec"]["ingress"][0]["ports"]] == [config.serving.port]


def test_the_log_s_volume_is_where_the_endpoint_s_config_has_the_log(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl, which applies the overlay")
    shutil.copytree(DOCKER / "kubernetes", tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes/overlays/serving"
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("components: [../../components/traffic-log]\n")
    made = subprocess.run(["kubectl", "kustomize", overlay], capture_output=True, text=True, check=True)
    kinds = {each["kind"]: each for each in yaml.safe_load_all(made.stdout)}
    claim = kinds["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    (volume,) = [
        each["name"]
        for each in pod["volumes"]
        if "persistentVolumeClaim" in each
        and each["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    ]
    mounted = {each["name"]: each for each in pod["containers"][0]["volumeMounts"]}
    config = validate_config(yaml.safe_load((overlay / "config.yaml").read_text()), "config.yaml")
    # The image's home is /opt/flywheel, to which paths of the config are relative.
    assert mounted[volume] == {"name": volume, "mountPath": f"/opt/flywheel/{config.serving.log_folder}"}


def test_no_policy_lets_others_in_but_to_the_port_that_asks_for_a_login() -> None:
    policies = [(path, each["spec"]) for path, each in documents() if each["kind"] == "NetworkPolicy"]
    denied = [spec for _, spec in policies if spec["podSelector"] == {} and "ingress" not in spec]
    assert any(set(spec["policyTypes"]) == {"Ingress", "Egress"} for spec in denied)
    for path, spec in policies:
        for rule in spec.get("ingress", ()):
            ports = [entry["port"] for entry in rule.get("ports", ())]
            assert rule.get("from") or ports == [8080], path


def test_airflow_s_pods_in_a_cluster_are_no_root() -> None:
    pod, containers = VALUES["securityContexts"]["pod"], VALUES["securityContexts"]["containers"]
    assert pod["runAsNonRoot"] is True and pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert containers["allowPrivilegeEscalation"] is False and containers["capabilities"] == {"drop": ["ALL"]}
    assert VALUES["postgresql"]["enabled"] is False  # the chart's own has a password that all know
    for key, value in walk(VALUES):
        assert not (is_secret_name(key.rpartition(".")[2]) and isinstance(value, str)), key
        assert not (isinstance(value, str) and has_userinfo(value)), key


# -- what it consists of -------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_package_of_a_lock_has_a_version_and_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[A-Za-z0-9._-]+(\[[^]]*\])?==\S+", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]
    assert "://" not in text


def test_the_licence_is_whole_and_the_notice_names_every_package() -> None:
    licence = (PROJECT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in licence and "END OF TERMS AND CONDITIONS" in licence
    assert 'license = "Apache-2.0"' in (PROJECT / "pyproject.toml").read_text()
    done = subprocess.run(
        [sys.executable, PROJECT / "scripts/notice.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_sbom_of_a_lock_names_each_package_with_its_hashes(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    entries = (PROJECT / "requirements-s3.txt").read_text().split("\n")
    lock.write_text("\n".join(entries[: entries.index(next(e for e in entries[1:] if e[:1].isalpha()))]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", str(lock), "--of", "JSON"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    made = json.loads(done.stdout)
    assert made["bomFormat"] == "CycloneDX" and len(made["components"]) == 1
    hashes = made["components"][0]["externalReferences"][0]["hashes"]
    assert {entry["alg"] for entry in hashes} == {"SHA-256"} and len(hashes) == lock.read_text().count(
        "sha256:"
    )


def test_who_finds_a_hole_is_told_where_to_say_it() -> None:
    text = (PROJECT / "SECURITY.md").read_text()
    for part in ("## Report", "## Supported versions", "## What is defended", "docs/"):
        assert part in text
    for page in re.findall(r"\]\(([^)#]+\.md)[^)]*\)", text):
        assert (PROJECT / page).exists(), page
