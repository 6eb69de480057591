"""A real Kubernetes for the tests: the cluster that KUBECONFIG names, else one of our own on this machine.

Our own is one node made of Debian's containerd and etcd and of Kubernetes built from its Go module, with
images built by buildah. It is cached in ~/.cache/flywheel-cluster: the first start builds it in about five
minutes, later ones take half a minute. By hand: `python -m tests.e2e.cluster --help`.
"""

from tests.e2e.cluster.node import Cluster, ClusterUnavailableError, OwnCluster, open_cluster

__all__ = ["Cluster", "ClusterUnavailableError", "OwnCluster", "open_cluster"]
