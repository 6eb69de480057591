"""MLflow: the runs of a client's runs, with their files, and his registered models."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.artifacts.root import key_of
from flywheel.config import Config
from flywheel.config.schema import MlflowConfig
from flywheel.forgetting.base import Place, Removable, Whose, place
from flywheel.forgetting.house import RunFolder
from flywheel.promotion.mlflow_client import TrackingError, open_client, public, tracking_uri
from flywheel.promotion.mlflow_runs import KEY_TAG, RUN_TAG
from flywheel.promotion.registry import registered_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

_DAY_MS = 86_400_000
_PAGE = 1000
_SQLITE = "sqlite:///"


@place(60)
class Mlflow(Place):
    """The tracking server, or its database file."""

    name = "mlflow"
    keeps = "runs with params, metrics, tags and files (the report), and the registered model of a champion"

    def of_client(self, whose: Whose) -> list[Removable]:
        """Return the MLflow runs of the client's runs, deleted ones too, and his registered models."""
        if not self._is_there():
            return []
        with open_client(self._uri) as client:
            items = [self._item(run) for run in self._of(client, whose)]
            for name in sorted(self._models(whose)):
                for model in client.search_registered_models(f"name = '{name}'"):
                    versions = client.search_model_versions(f"name = '{model.name}'")
                    items.append(
                        Removable(self.name, f"model {model.name}", len(versions), 0, "registered model")
                    )
        return items

    def unneeded(self, going: Sequence[RunFolder]) -> list[Removable]:
        """Return the old runs, but for those of champions, and whatever a registered version names."""
        days = self.house.config.retention.mlflow_days
        if days is None or not self._is_there():
            return []
        before = time.time() * 1000 - days * _DAY_MS
        with open_client(self._uri) as client:
            runs = list(_all_runs(client))
            named = {version.run_id for version in client.search_model_versions(max_results=10_000)}
            kept = {run.data.tags[KEY_TAG] for run in runs if run.info.run_id in named}
            kept |= {key_of(*one) for one in self._champions_runs()}
            return [
                self._item(run)
                for run in runs
                if run.info.start_time < before and run.data.tags[KEY_TAG] not in kept
            ]

    def remove(self, ids: Iterable[str]) -> None:
        """Remove runs and models for good; behind a server, runs as far as its API does that.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        wanted = set(ids)
        if not wanted or not self._is_there():
            return
        models = {id.removeprefix("model ") for id in wanted if id.startswith("model ")}
        with open_client(self._uri) as client:
            for name in sorted(models):
                if client.search_registered_models(f"name = '{name}'"):
                    client.delete_registered_model(name)
            runs = [run for run in _all_runs(client) if run.info.run_id in wanted - models]
            for run in runs:
                if run.info.lifecycle_stage == "active":
                    client.delete_run(run.info.run_id)
            if self._uri.startswith("http"):
                if runs:
                    log.warning(
                        "MLflow at %s: its API deletes runs so that they can be restored; have its operator "
                        "run `mlflow gc --run-ids %s` beside its database",
                        public(self._uri),
                        ",".join(run.info.run_id for run in runs),
                    )
                return
            if runs:
                _delete_for_good(self._uri, [run.info.run_id for run in runs])
        if self._uri.startswith(_SQLITE):
            _compact(Path(self._uri.removeprefix(_SQLITE)))

    @property
    def _uri(self) -> str:
        return tracking_uri(self.house.config.mlflow_config)

    def _is_there(self) -> bool:
        return not self._uri.startswith(_SQLITE) or Path(self._uri.removeprefix(_SQLITE)).exists()

    def _item(self, run: Run) -> Removable:
        return Removable(self.name, run.info.run_id, 1, 0, run.info.run_name or "")

    def _of(self, client: MlflowClient, whose: Whose) -> list[Run]:
        """Return the client's runs: those whose root says so, and those of a run of his."""
        runs = list(_all_runs(client))
        keys = {key_of(run.workload_id, run.client_id, run.run_id) for run in self._runs(whose)}
        for run in runs:
            tags = run.data.tags
            if whose.has(tags.get("flywheel.workload_id"), tags.get("flywheel.client_id")):
                keys.add(tags[KEY_TAG])
            # A root that a promotion made, because the scoring could not reach MLflow, says less.
            for workload in self._workloads(whose):
                if key_of(workload, whose.client_id, tags.get(RUN_TAG)) == tags[KEY_TAG]:
                    keys.add(tags[KEY_TAG])
        return [run for run in runs if run.data.tags[KEY_TAG] in keys]

    def _runs(self, whose: Whose) -> list[RunFolder]:
        return [run for run in self.house.runs if whose.has(run.workload_id, run.client_id)]

    def _workloads(self, whose: Whose) -> set[str]:
        own = {run.workload_id for run in self._runs(whose)}
        return own | ({whose.workload_id} if whose.workload_id else set())

    def _models(self, whose: Whose) -> set[str]:
        """Return the names of the client's models: as they are made, and as his champions name them."""
        prefixes = {_prefix(self.house.config)} | {
            str(MlflowConfig.model_validate(run.plan["config"]["mlflow_config"]).experiment_name_prefix)
            for run in self._runs(whose)
            if isinstance(run.plan.get("config"), dict) and "mlflow_config" in run.plan["config"]
        }
        names = {
            registered_name(prefix, workload, whose.client_id)
            for prefix in prefixes
            for workload in self._workloads(whose)
        }
        for folder in self.house.champions_of(whose.client_id, whose.workload_id):
            for data in self.house.champions_in(folder):
                entry = data.get("registry")
                if isinstance(entry, dict) and entry.get("model"):
                    names.add(str(entry["model"]))
        return names

    def _champions_runs(self) -> Iterator[tuple[str, str, str]]:
        for folder in self.house.champions:
            for data in self.house.champions_in(folder):
                yield str(data.get("workload_id")), str(data.get("client_id")), str(data["run_id"])


def _prefix(config: Config) -> str:
    return config.mlflow_config.experiment_name_prefix


def _all_runs(client: MlflowClient) -> Iterator[Run]:
    """Yield all runs of flywheel's, deleted ones too."""
    from mlflow.entities import ViewType

    experiments = [found.experiment_id for found in client.search_experiments(view_type=ViewType.ALL)]
    token = None
    while experiments:
        page = client.search_runs(experiments, "", ViewType.ALL, _PAGE, page_token=token)
        yield from (run for run in page if KEY_TAG in run.data.tags)
        token = page.token
        if not token:
            return


def _delete_for_good(uri: str, run_ids: Sequence[str]) -> None:
    """Have MLflow remove deleted runs with their files from its database."""
    from mlflow.cli import gc

    os.environ.setdefault("MLFLOW_TRACKING_URI", uri)
    for start in range(0, len(run_ids), _PAGE):
        ids = ",".join(run_ids[start : start + _PAGE])
        gc.main(["--backend-store-uri", uri, "--tracking-uri", uri, "--run-ids", ids], standalone_mode=False)


def _compact(file: Path) -> None:
    """Write a database file anew, so that what was removed is not in its free pages."""
    try:
        with closing(sqlite3.connect(file, timeout=60)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise TrackingError(f"{file}: {error}: what was removed may still be in it; run this again") from None
