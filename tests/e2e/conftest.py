"""Fixtures of the tests that need a cluster: the cluster, images on it, namespaces, and an Airflow beside it."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.cluster import Cluster, ClusterUnavailableError, NoRoomError, OwnCluster, open_cluster
from tests.e2e.cluster.images import PROJECT, ensure_image
from tests.e2e.cluster.objects import ObjectStore
from tests.e2e.experiment import FirstRun, Ground, open_airflow, run_first
from tests.e2e.installation import Airflow
from tests.e2e.pods import CONNECTION

# Of the scale drill. 300 take about four minutes more.
CANDIDATES = int(os.environ.get("SCALE_CANDIDATES", "60"))


def pytest_configure() -> None:
    """Take everything down also when the tests are ended by SIGTERM, such as by `timeout`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Give the cluster; skip, or fail in CI, where there is none and none can be built."""
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    images = [name for name in ("drill", "student") if f"{name}_image" in wanted]
    with _skipped_where_the_machine_cannot():
        found = open_cluster(images)
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": found.kubeconfig}}
    os.environ[f"AIRFLOW_CONN_{CONNECTION.upper()}"] = json.dumps(connection)
    yield found
    if isinstance(found, OwnCluster) and not os.environ.get("CLUSTER_KEEP"):
        found.down()


@pytest.fixture(scope="session")
def own_cluster(cluster: Cluster) -> OwnCluster:
    """Give our own cluster: tests that disturb its parts are not for somebody else's."""
    if not isinstance(cluster, OwnCluster):
        pytest.skip("disturbs the cluster itself; runs on one of our own only")
    return cluster


@pytest.fixture(scope="session")
def drill_image(cluster: Cluster) -> str:
    """Give the image of a job that does what it is told (tests/e2e/drill)."""
    return _image(cluster, "drill")


@pytest.fixture(scope="session")
def student_image(cluster: Cluster) -> str:
    """Give the image of docker/student.Dockerfile."""
    return _image(cluster, "student")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """Give a namespace that enforces pod security 'restricted', with the service account of jobs."""
    name = f"flywheel-test-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    enforce = "pod-security.kubernetes.io/enforce=restricted"
    cluster.kubectl("label", "namespace", name, enforce)
    cluster.kubectl("-n", name, "create", "serviceaccount", "flywheel-student")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def ground(own_cluster: OwnCluster) -> Iterator[Ground]:
    """Give a maker of namespaces from docker/kubernetes."""
    made = Ground(own_cluster)
    yield made
    made.remove()


@pytest.fixture(scope="session")
def policies(own_cluster: OwnCluster) -> None:
    """See that the cluster enforces NetworkPolicies; skip where the kernel cannot, which no set-up mends."""
    try:
        own_cluster.enforce_policies()
    except ClusterUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def airflow(own_cluster: OwnCluster, ground: Ground, drill_image: str) -> Iterator[Airflow]:
    """Give an Airflow whose jobs run in pods; DAGs are flywheel's and those of tests/e2e/dags."""
    with open_airflow(own_cluster, ground, drill_image, CANDIDATES) as started:
        yield started


@pytest.fixture(scope="session")
def first(own_cluster: OwnCluster, airflow: Airflow, student_image: str) -> FirstRun:
    """Give how the whole DAG ran for the first time."""
    return run_first(own_cluster, airflow, student_image)


@pytest.fixture(scope="session")
def object_store(own_cluster: OwnCluster, airflow: Airflow) -> Iterator[ObjectStore]:
    """Give an S3 server with a bucket, whose keys Airflow and a secret of its namespace have."""
    store = ObjectStore(own_cluster, airflow.home / "objects")
    store.start("bucket")
    policy = PROJECT / "docker/kubernetes/overlays/s3/s3.yaml"
    own_cluster.kubectl("-n", airflow.namespace, "apply", "-f", str(policy))
    literals = [f"--from-literal={name}={value}" for name, value in store.environment.items()]
    own_cluster.kubectl("-n", airflow.namespace, "create", "secret", "generic", "flywheel-s3", *literals)
    yield store
    store.stop()


@contextmanager
def _skipped_where_the_machine_cannot() -> Iterator[None]:
    """Skip where this machine cannot have a cluster, or an image on it; in CI fail, but where disk is missing."""
    try:
        yield
    except NoRoomError as error:
        pytest.skip(str(error))
    except ClusterUnavailableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Kubernetes cluster: {error}")


def _image(cluster: Cluster, name: str) -> str:
    given = os.environ.get(f"{name.upper()}_IMAGE")
    if not given and isinstance(cluster, OwnCluster):
        with _skipped_where_the_machine_cannot():
            return ensure_image(cluster, name)
    if not given:
        pytest.skip(f"on a cluster of yours, push the image and name it by {name.upper()}_IMAGE")
    return given
