"""NeMo Datastore: data sets in repositories that are named by what is in them, so none is uploaded twice.

    NAMESPACE/flywheel-train-KEY     training/train.jsonl, validation/val.jsonl
    NAMESPACE/flywheel-eval-KEY      eval/eval.jsonl

A line is {"messages": […]}, the chat format that Customizer and Evaluator read. The entity store learns of a
set when all of its files are there; one that it does not know is completed by the next who needs it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import httpx
import httpx2  # huggingface_hub's
import orjson
from filelock import FileLock
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from nemo_microservices import APIError, ConflictError, NeMoMicroservices, NotFoundError

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import JobError, NotEnoughRecordsError
from flywheel.config.loading import resolve_path
from flywheel.config.nemo import NemoConfig, NmpConfig
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.runtimes.base import RefusedJobError
from flywheel.runtimes.nemo.holds import RUN_SECONDS, Holds
from flywheel.runtimes.nemo.job import OWNER
from flywheel.runtimes.nemo.services import (
    Say,
    address,
    auth_headers,
    explain,
    is_transient,
    patience_with,
)
from flywheel.stages.customize import read_records, short_prompt_for, watched_records
from flywheel.stages.evaluate import read_eval_records

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

# Each request a line, and a warning that an upload goes the way that it is meant to go.
for _chatty in ("httpx", "httpx2"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)
logging.getLogger("huggingface_hub._commit_api").setLevel(logging.ERROR)

TRAINING, VALIDATION, EVAL = "training/train.jsonl", "validation/val.jsonl", "eval/eval.jsonl"


class Datastore:
    """Uploads and removes data sets; used in tasks, where waiting is allowed.

    Args:
        nmp: where the services are.
        nemo: how long to be patient.
        say: gets what is worth a line in the task's log.
    """

    def __init__(self, nmp: NmpConfig, nemo: NemoConfig, say: Say) -> None:
        self._nmp = nmp
        self._config = nemo
        self._say = say
        self._headers = auth_headers(nmp)
        self._url = address(nmp, "datastore_base_url")
        # A Datastore without users takes any token; the client insists on having one.
        token = os.environ.get("HF_TOKEN", "") or self._headers.get("Authorization", "Bearer none")[7:]
        self._hub = HfApi(endpoint=f"{self._url}/v1/hf", token=token)
        self._entities = NeMoMicroservices(
            base_url=address(nmp, "nemo_base_url"),
            max_retries=0,
            timeout=nemo.timeout_seconds,
            default_headers=self._headers,
        )

    def upload_training_set(self, spec: CustomizeSpec, owner: str, run_holder: str = "") -> str:
        """Upload what a customization learns from, unless it is there; return the name of the set.

        Args:
            run_holder: who holds it until the run's jobs have ended; "" for nobody.

        Raises:
            NotEnoughRecordsError: the dataset has fewer training records than the size asks for.
            JobError: the Datastore refuses it or does not answer.
        """
        folder = ArtifactRoot(spec.artifact_root).fetch("datasets", spec.dataset)
        train = read_records(folder / "train.jsonl", spec.size)
        if len(train) < spec.size:
            raise NotEnoughRecordsError(
                f"dataset {spec.dataset} has {len(train)} training records, fewer than the {spec.size} of "
                f"size {spec.size}; lower `sizes` or wait for more records"
            )
        val = read_records(folder / "val.jsonl", watched_records(spec.size))
        short = short_prompt_for(spec, folder)
        if short is not None:
            train, val = ([short.shortened(record) for record in part] for part in (train, val))
        files = {TRAINING: b"".join(_lines(train))}
        if val:
            files[VALIDATION] = b"".join(_lines(val))
        description = f"{len(train)} training records of dataset {spec.dataset}, {len(val)} to validate"
        return self._keep("train", files, description, owner, spec.artifact_root, run_holder)

    def upload_eval_set(self, spec: EvaluateSpec, owner: str, run_holder: str = "") -> str:
        """Upload what every student is measured on, unless it is there; return the name of the set."""
        records = read_eval_records(ArtifactRoot(spec.artifact_root), spec)
        description = f"{len(records)} held-out records of dataset {spec.dataset}"
        files = {EVAL: b"".join(_lines(records))}
        return self._keep("eval", files, description, owner, spec.artifact_root, run_holder)

    def remove(self, name: str, owner: str, holds: Holds) -> bool:
        """Remove a data set, from the entity store first: what that does not know counts as not there.

        One that another flywheel has made, or another run of ours holds, stays.

        Returns:
            Whether it is gone.
        """
        namespace = self._nmp.nmp_namespace
        with self._lock(name):
            if holds.are_there(f"dataset-{name}"):
                return False
            try:
                found = self._ask(
                    "entity store", lambda: self._entities.datasets.retrieve(name, namespace=namespace)
                )
                if (found.custom_fields or {}).get(OWNER) != owner:
                    return False
                self._ask("entity store", lambda: self._entities.datasets.delete(name, namespace=namespace))
            except NotFoundError:
                log.debug("dataset %s is not registered", name)
            self.remove_repository(f"{namespace}/{name}", "dataset")
        return True

    def remove_repository(self, name: str, kind: str) -> None:
        """Remove a repository with all its files; one that is not there is no error."""
        self._ask("Datastore", lambda: self._hub.delete_repo(name, repo_type=kind, missing_ok=True))

    # -- steps ---------------------------------------------------------------------------------------

    def _keep(
        self, kind: str, files: dict[str, bytes], description: str, owner: str, root: str, run_holder: str
    ) -> str:
        """Upload and register files under a name made from them, unless that is done; return the name."""
        digest = hashlib.sha256()
        for path, data in files.items():
            digest.update(f"{path}\0{len(data)}\0".encode() + data)
        name = f"flywheel-{kind}-{digest.hexdigest()[:20]}"
        with self._lock(name):
            if run_holder:
                Holds(ArtifactRoot(root)).add(f"dataset-{name}", run_holder, RUN_SECONDS)
            if self._is_registered(name):
                self._say(f"dataset {self._nmp.nmp_namespace}/{name} is in the Datastore already")
                return name
            self._upload(name, files)
            self._register(name, description, owner)
        self._say(f"dataset {self._nmp.nmp_namespace}/{name} uploaded: {description}")
        return name

    def _is_registered(self, name: str) -> bool:
        try:
            self._ask(
                "entity store",
                lambda: self._entities.datasets.retrieve(name, namespace=self._nmp.nmp_namespace),
            )
        except NotFoundError:
            return False
        return True

    def _upload(self, name: str, files: dict[str, bytes]) -> None:
        self._make_namespaces()
        repository = f"{self._nmp.nmp_namespace}/{name}"
        self._ask("Datastore", lambda: self._hub.create_repo(repository, repo_type="dataset", exist_ok=True))
        with TemporaryDirectory(prefix="flywheel-nemo-") as folder:
            for number, (path, data) in enumerate(files.items()):
                file = Path(folder) / str(number)
                file.write_bytes(data)
                self._ask("Datastore", lambda file=file, path=path: self._commit(repository, file, path))  # type: ignore[misc]

    def _commit(self, repository: str, file: Path, path: str) -> None:
        # As an open file: by its path, huggingface_hub uploads to Xet storage where hf_xet is installed, and
        # the Datastore has none.
        with file.open("rb") as opened:
            self._hub.create_commit(
                repository,
                [CommitOperationAdd(path_in_repo=path, path_or_fileobj=opened)],
                commit_message=f"{path}, by flywheel",
                repo_type="dataset",
            )

    def _make_namespaces(self) -> None:
        namespace = self._nmp.nmp_namespace
        try:
            self._ask("entity store", lambda: self._entities.namespaces.create(id=namespace))
        except ConflictError:
            log.debug("namespace %s is there", namespace)

        def make() -> None:
            answer = httpx.post(
                f"{self._url}/v1/datastore/namespaces",
                data={"namespace": namespace},
                headers=self._headers,
                timeout=self._config.timeout_seconds,
            )
            if answer.status_code not in (409, 422):  # 409, and 422 of some versions: it is there
                answer.raise_for_status()

        self._ask("Datastore", make)

    def _register(self, name: str, description: str, owner: str) -> None:
        namespace = self._nmp.nmp_namespace
        try:
            self._ask(
                "entity store",
                lambda: self._entities.datasets.create(
                    name=name,
                    namespace=namespace,
                    description=description,
                    files_url=f"hf://datasets/{namespace}/{name}",
                    custom_fields={OWNER: owner},
                ),
            )
        except ConflictError:  # an earlier try, whose answer was lost
            log.debug("dataset %s is registered", name)

    # -- small things --------------------------------------------------------------------------------

    def _lock(self, name: str) -> FileLock:
        """Return the lock of a data set: several candidates of one size want the same at the same time."""
        folder = Path(resolve_path("state/nemo"))
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{name}.lock")

    def _ask(self, service: str, call: Callable[[], Answer]) -> Answer:
        """Make a call, again and again while the service is down or busy."""
        patience = patience_with(service, self._config, self._say)
        while True:
            try:
                return call()
            except (NotFoundError, ConflictError):
                raise
            except (APIError, HfHubHTTPError, httpx.HTTPError, httpx2.HTTPError, RuntimeError) as caught:
                error: Exception = caught
                if isinstance(caught, RuntimeError):  # huggingface_hub's, around what an upload met
                    if not isinstance(caught.__cause__, httpx2.HTTPError):
                        raise
                    error = caught.__cause__
                if not _is_transient(error):
                    raise _explain(service, error) from None
                patience.wait(error)


def _lines(records: list[dict[str, Any]]) -> Iterator[bytes]:
    for record in records:
        line = {"messages": record["messages"]}
        if record.get("tools"):
            line["tools"] = record["tools"]
        yield orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _is_transient(error: Exception) -> bool:
    if isinstance(error, APIError):
        return is_transient(error)
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status is None or status in (408, 425, 429) or status >= 500


def _explain(service: str, error: Exception) -> JobError:
    if isinstance(error, APIError):
        return explain(service, error)
    return RefusedJobError(f"NeMo {service} refuses the request: {str(error).strip()[:500]}")
