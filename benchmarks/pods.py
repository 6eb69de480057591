"""What a task costs more when its job is a pod than when it is a process of this machine, by part.

    python -m benchmarks.pods        needs what `make test-kubernetes` needs; about five minutes, images built

The same jobs (a demo student on three sizes: customized, evaluated) under the same Airflow with PostgreSQL,
first in pods of a cluster on this machine with the image on its node, then with runtime local. Seconds are
medians over the jobs, of the whole task as Airflow counts it. Waiting for a place is left out.
"""

from __future__ import annotations

import json
import os
import resource
import sys

from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.images import ensure_image
from tests.e2e.experiment import Ground, experiment, open_airflow, run_locally
from tests.e2e.overhead import overhead


def main() -> None:
    """Measure and print."""
    cluster = OwnCluster()
    cluster.up()
    ground = Ground(cluster)
    try:
        drill, student = (ensure_image(cluster, name) for name in ("drill", "student"))
        with open_airflow(cluster, ground, drill, candidates=1, slots=1) as airflow:
            cluster.gpus(1)  # one pod at a time, one task at a time: no task waits for another's place
            airflow.configure(experiment(airflow.namespace, student, gpus=1, runtime={"parallel": 1}))
            airflow.trigger("pods", students=["small"])
            if airflow.wait("pods", 600) != "success":
                sys.exit("run pods failed")
            if run_locally(airflow, "local", students=["small"]) != "success":
                sys.exit("run local failed")
            measured = overhead(airflow, "pods", "local")
    finally:
        cluster.down()
    print(
        json.dumps(
            {
                "name": "pods",
                "ours": measured["pod"],
                "peer": measured["process"],
                "ratio": round(measured["pod"] / measured["process"], 2),
                "unit": "s a task",
                **measured,
                "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
