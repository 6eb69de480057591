"""A run whose pods are killed for want of memory: API and notification name the job, the kill and its mend."""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Any

from flywheel.runs.failures import SILENT
from tests.e2e.cluster import OwnCluster
from tests.e2e.cluster.images import PROJECT
from tests.e2e.cluster.processes import wait_until
from tests.e2e.experiment import experiment, pods
from tests.e2e.installation import Airflow


def test_a_killed_pod_is_in_sight_with_its_mend(
    own_cluster: OwnCluster, airflow: Airflow, drill_image: str
) -> None:
    notes = airflow.home / "artifacts" / "killed.notes"
    (airflow.home / "dags" / "noting.py").symlink_to(PROJECT / "tests/integration/noting.py")
    noting = {"notifier": "noting.NotingNotifier", "arguments": {"path": str(notes)}}
    small = {"cpu": "50m", "memory": "32Mi"}
    pod = {"environment": {"DRILL": "eat:300"}, "requests": small, "limits": {"cpu": "1", "memory": "64Mi"}}
    changes: dict[str, Any] = {"notifications": {"on_failure": [noting]}, "runtime": {"kubernetes": pod}}
    # Other runs of this Airflow have made no adapter of two epochs, which would be found.
    changes |= {"sizes": [100], "training_config": {"epochs": 2}}
    airflow.configure(experiment(airflow.namespace, drill_image, **changes))
    airflow.trigger("killed", students=["small"])
    told: list[tuple[float, dict[str, Any]]] = []

    def is_lost() -> bool:
        failure = airflow.run_page("killed").get("failure")
        if failure and (not told or told[-1][1] != failure):
            told.append((time.time(), failure))
        return bool(failure and not failure["tries_again"] and failure["stage"] == "customize")

    wait_until("the failure of run killed", is_lost, 300)
    assert airflow.wait("killed", 120) == "failed"
    killed = [failure for _, failure in told if failure["sentence"] != SILENT]
    assert told[-1][1] in killed
    for failure in killed:
        assert "killed as it needed more memory than its limit of 64Mi" in failure["sentence"]
        assert failure["mend"].startswith("Raise runtime.kubernetes.limits.memory")
        assert "raise" not in failure["sentence"]
    (said,) = notes.read_text().splitlines()
    note, (seen_at, failure) = json.loads(said), told[-1]
    assert (note["job"], note["sentence"]) == ("customize small @ 100", failure["sentence"])
    failed_at = datetime.fromisoformat(failure["at"]).timestamp()
    print(f"told {note['noted_at'] - failed_at:.1f} s, in the API {seen_at - failed_at:.1f} s after the kill")
    assert pods(own_cluster, airflow.namespace) == []
