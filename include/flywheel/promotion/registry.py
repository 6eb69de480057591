"""The model registry of MLflow: a model for each workload and client, a version for each champion."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from flywheel.artifacts.root import ArtifactRoot, key_of
from flywheel.common.errors import ArtifactError
from flywheel.config.schema import MlflowConfig
from flywheel.promotion.champion import RegistryEntry
from flywheel.promotion.mlflow_client import TrackingError, open_client, tracking_uri
from flywheel.promotion.mlflow_runs import ADAPTER_TAG, ROOT_NODE, open_tree
from flywheel.promotion.model_folder import keep_model
from flywheel.report.model import CandidatePart
from flywheel.runs.plan import Plan

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALIAS = "champion"


def model_name(plan: Plan) -> str:
    """Return the registered model of a workload and client: `flywheel-news_classifier.default`.

    Each client has its own champion, and an alias names one version of a model; so each has its own model.
    """
    return registered_name(plan.config.mlflow_config.experiment_name_prefix, plan.workload_id, plan.client_id)


def registered_name(prefix: str, workload_id: str, client_id: str) -> str:
    """Return the registered model of a workload and client, where experiments have a prefix."""
    name = f"{prefix}-{workload_id}.{client_id}"
    plain = re.sub(r"[^\w.-]", "-", name)  # MLflow forbids '/' and ':', and its searches dislike quotes
    return name if plain == name else f"{plain}-{key_of(name)[:6]}"


def register(plan: Plan, row: CandidatePart, decided: str) -> RegistryEntry:
    """Register the champion and set the alias `champion` on its version; once for each adapter.

    The version's source is a model that MLflow loads by itself (`flywheel.promotion.model_folder`), in the
    artifact root; of one that writes free texts or calls its adapter. A tracking server does not take the
    path of a folder on another machine; there it is uploaded to the candidate's run first.

    Args:
        decided: the reason, kept as the version's description.

    Raises:
        TrackingError: MLflow cannot be reached or refuses, or the model cannot be written.
    """
    assert row.adapter is not None
    uri, name = tracking_uri(plan.config.mlflow_config), model_name(plan)
    try:
        made_of = keep_model(ArtifactRoot(plan.config.artifacts.root), plan, row) or ("adapters", row.adapter)
    except (ArtifactError, OSError) as error:
        raise TrackingError(f"the model for MLflow cannot be written: {error}") from None
    with open_client(uri) as client:
        tree = open_tree(client, plan)
        tree.node(ROOT_NODE, None, plan.run_id, {})
        tree.node(row.student, ROOT_NODE, row.student, {})
        run_id = tree.node(row.name, row.student, row.name, {ADAPTER_TAG: row.adapter})
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, tags={"flywheel.workload_id": plan.workload_id})
        versions = client.search_model_versions(f"name = '{name}'")
        version = next((v.version for v in versions if v.tags.get(ADAPTER_TAG) == row.adapter), None)
        if version is None:
            source = _source(client, plan, made_of, run_id, uri)
            tags = {ADAPTER_TAG: row.adapter, "flywheel.student": row.student, "flywheel.size": str(row.size)}
            made = client.create_model_version(
                name, source, run_id, tags=tags, description=decided[:5000], await_creation_for=None
            )
            version = made.version
        client.set_registered_model_alias(name, ALIAS, version)
        return RegistryEntry(model=name, version=str(version))


def point_alias(config: MlflowConfig, entry: RegistryEntry) -> None:
    """Have the alias `champion` name a version that is registered.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    with open_client(tracking_uri(config)) as client:
        client.set_registered_model_alias(entry.model, ALIAS, entry.version)


def registered_adapter(client: MlflowClient, name: str) -> str | None:
    """Return the key of the adapter that the alias `champion` names; None where there is no such alias."""
    if not client.search_registered_models(f"name = '{name}'"):
        return None
    version = client.get_registered_model(name).aliases.get(ALIAS)
    if version is None:
        return None
    adapter: str | None = client.get_model_version(name, version).tags.get(ADAPTER_TAG)
    return adapter


def _source(client: MlflowClient, plan: Plan, made_of: tuple[str, str], run_id: str, uri: str) -> str:
    kind, key = made_of
    root = ArtifactRoot(plan.config.artifacts.root)
    if not root.is_folder:
        return f"{root.url}/{kind}/{key}"
    folder = root.fetch(kind, key)
    if not uri.startswith("http"):
        return folder.as_uri()
    place = "adapter" if kind == "adapters" else "model"
    client.log_artifacts(run_id, str(folder), place)
    return f"{client.get_run(run_id).info.artifact_uri}/{place}"
