"""Fixtures of the tests that need a cluster: the cluster, images on it, and a namespace as ours should be."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster, ClusterUnavailableError, OwnCluster, open_cluster
from tests.e2e.cluster.images import ensure_image
from tests.e2e.pods import CONNECTION


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Give the cluster; skip, or fail in CI, where there is none and none can be built."""
    try:
        found = open_cluster()
    except ClusterUnavailableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Kubernetes cluster: {error}")
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


def _image(cluster: Cluster, name: str) -> str:
    given = os.environ.get(f"{name.upper()}_IMAGE")
    if not given and isinstance(cluster, OwnCluster):
        return ensure_image(cluster, name)
    if not given:
        pytest.skip(f"on a cluster of yours, push the image and name it by {name.upper()}_IMAGE")
    return given
