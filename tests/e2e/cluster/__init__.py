"""A real Kubernetes for the tests: the cluster that KUBECONFIG names, else one of our own on this machine.

Our own is one node made of Debian's containerd and etcd and of Kubernetes built from its Go module, with
images built by buildah. It is cached in $XDG_CACHE_HOME/flywheel/cluster (CLUSTER_HOME names another place): the
first start builds it in about five minutes, later ones take half a minute. Whoever starts it ends it, with all
its pods; CLUSTER_KEEP=1 lets the tests use one that runs, and leave it running. By hand: `python -m tests.e2e.cluster --help`.
"""

from tests.e2e.cluster.node import Cluster, OwnCluster, open_cluster
from tests.e2e.cluster.programs import ClusterUnavailableError, NoRoomError

__all__ = ["Cluster", "ClusterUnavailableError", "NoRoomError", "OwnCluster", "open_cluster"]
