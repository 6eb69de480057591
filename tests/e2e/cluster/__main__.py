"""The test cluster by hand:   python -m tests.e2e.cluster up|down|gpus N|image NAME|kubectl ARGUMENTS..."""

from __future__ import annotations

import subprocess
import sys

from tests.e2e.cluster.images import ensure_image
from tests.e2e.cluster.node import OwnCluster
from tests.e2e.cluster.programs import ClusterUnavailableError


def main(arguments: list[str]) -> int:
    """Do what the command line asks for."""
    cluster = OwnCluster()
    match arguments:
        case ["up"]:
            cluster.up()
            print(cluster.kubeconfig)
        case ["down"]:
            cluster.down()
        case ["gpus", count]:
            cluster.gpus(int(count))
        case ["image", name]:
            cluster.prepare()
            print(ensure_image(cluster, name))
        case ["kubectl", *rest]:
            command = [str(cluster.program), "kubectl", "--kubeconfig", cluster.kubeconfig, *rest]
            return subprocess.run(command).returncode
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ClusterUnavailableError as error:
        sys.exit(f"error: {error}")
