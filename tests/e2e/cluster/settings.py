"""What the parts of our own cluster are told: certificates, kubeconfigs and the files they read."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

NODE = "node1"
# The node needs an address that is not loopback; pods reach services of this host at it.
NODE_IP = "10.89.0.1"
# Not the usual ports: a machine may have an etcd of Debian's, or another cluster.
API_PORT = 16443
ETCD, ETCD_PEER = "http://127.0.0.1:12379", "http://127.0.0.1:12380"
API = f"https://127.0.0.1:{API_PORT}"
SERVICES = "10.96.0.0/16"
PODS = "10.88.0.0/16"

_NAMES = f"DNS:localhost,DNS:kubernetes,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:{NODE_IP},IP:10.96.0.1"


def write_settings(home: Path, pause: str) -> None:
    """Write all files into the cluster's folder; certificates only the first time."""
    _certificates(home / "pki")
    for name in ("admin", "kubelet"):
        (home / f"{name}.conf").write_text(json.dumps(_kubeconfig(home, name)))
    (home / "cni").mkdir(exist_ok=True)
    (home / "cni" / "10-pods.conflist").write_text(json.dumps(_pod_network(home)))
    (home / "containerd.toml").write_text(_containerd(home, pause))
    (home / "kubelet.json").write_text(json.dumps(_kubelet(home)))


def _certificates(folder: Path) -> None:
    if (folder / "complete").exists():
        return
    folder.mkdir(exist_ok=True)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca", "-days", "3650")
    (folder / "names").write_text(f"subjectAltName={_NAMES}")
    subjects = {
        "apiserver": "/CN=kube-apiserver",
        "admin": "/O=system:masters/CN=admin",
        "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
    }
    for name, subject in subjects.items():
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        signer = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3650")
        openssl("x509", "-req", "-in", f"{name}.csr", *signer, "-out", f"{name}.crt", "-extfile", "names")
    openssl("genrsa", "-out", "sa.key", "2048")
    openssl("rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub")
    (folder / "complete").touch()


def _kubeconfig(home: Path, user: str) -> dict[str, object]:
    pki = home / "pki"
    identity = {"client-certificate": f"{pki}/{user}.crt", "client-key": f"{pki}/{user}.key"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "own", "cluster": {"server": API, "certificate-authority": f"{pki}/ca.crt"}}],
        "users": [{"name": user, "user": identity}],
        "contexts": [{"name": "own", "context": {"cluster": "own", "user": user}}],
        "current-context": "own",
    }


def _pod_network(home: Path) -> dict[str, object]:
    ranges = {
        "type": "host-local",
        "dataDir": f"{home}/run/addresses",
        "ranges": [[{"subnet": PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "pods0", "isGateway": True, "hairpinMode": True, "ipam": ranges}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def _containerd(home: Path, pause: str) -> str:
    # restrict_oom_score_adj: where CAP_SYS_RESOURCE is missing, runc could not set the score.
    return f"""version = 2
root = "{home}/containerd"
state = "{home}/run/containerd"
[grpc]
address = "{home}/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{home}/cni"
"""


def _kubelet(home: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": f"{home}/pki/ca.crt"},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{home}/run/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "maxPods": 400,
        "imageGCHighThresholdPercent": 100,  # a machine's full disk is no reason to drop images built for hours
        "imageGCLowThresholdPercent": 99,
        "serializeImagePulls": False,
    }
