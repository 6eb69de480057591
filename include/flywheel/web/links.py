"""Where else a run can be looked at: in Airflow's UI, in MLflow, and its artifacts here."""

from __future__ import annotations

import re
from urllib.parse import quote

from pydantic import BaseModel, Field

from flywheel.report.model import Report, TrackingPart
from flywheel.web.airflow_runs import AirflowRun, page_of


class MlflowLink(BaseModel):
    """Where MLflow has the run."""

    uri: str = Field(description="The tracking server or file.")
    experiment: str
    run_id: str
    url: str | None = Field(None, description="The run's page; null where MLflow is a file without a server.")


class Links(BaseModel):
    """Other views of a run; paths are of this server."""

    airflow: str
    artifacts: str
    report: str | None
    mlflow: MlflowLink | None


def links_of(run: AirflowRun, report: Report | None) -> Links:
    """Return the links of a run."""
    part = quote(run.run_id, safe="")
    artifacts = f"/flywheel/api/runs/{part}/artifacts"
    return Links(
        airflow=page_of(run.run_id),
        artifacts=artifacts,
        report=f"{artifacts}/report.html" if report else None,
        mlflow=mlflow_link(report.tracking) if report and report.tracking else None,
    )


def mlflow_link(tracking: TrackingPart) -> MlflowLink:
    """Return where MLflow has a run; a password in the server's address is left out."""
    uri = re.sub(r"//[^/@]*@", "//", tracking.uri)
    url = None
    if uri.startswith(("http://", "https://")):
        # …/<experiment id>/<run id>/artifacts is what MLflow calls the run's files.
        found = re.search(rf"/(\d+)/{re.escape(tracking.run_id)}(/|$)", tracking.artifact_uri)
        base = uri.rstrip("/")
        url = f"{base}/#/experiments/{found.group(1) if found else 0}/runs/{tracking.run_id}"
    return MlflowLink(uri=uri, experiment=tracking.experiment, run_id=tracking.run_id, url=url)
