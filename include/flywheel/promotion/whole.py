"""A champion whole: all that is needed to ask it as on the day it was promoted, in one place of its own.

    champions/<workload>/<client>/whole/<key>/      an artifact (flywheel.artifacts.root), kept by its digest
        whole.json      the prompt and classes of its day, their aliases and version, how a student is asked,
                        and the base weights by name, revision and hash
        adapter/        the adapter's files, a copy

So neither the removal of its run nor of `adapters/` takes the only copy, and an edited workload file changes
nothing that is in production. The decision that puts a champion into force has the digest, which a manifest
that was changed with its files does not match. The copy of an adapter names its base model by name: as it was
made it may name a folder, which is there on one machine only.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from flywheel.artifacts.root import MANIFEST, ArtifactRoot, key_of
from flywheel.common.errors import ArtifactError
from flywheel.jobs.spec import RESULT
from flywheel.jobs.weights import hub_name, known_revision
from flywheel.promotion.champion import Champion, Whole, champion_folder, read_champion
from flywheel.runs.plan import Plan
from flywheel.workloads.workload import Workload

log = logging.getLogger(__name__)

_CONTENT = "whole.json"
_ADAPTER = "adapter"
_PEFT_CONFIG = "adapter_config.json"
_WORKLOAD = TypeAdapter(Workload)
_VERSION = 1


@dataclass(frozen=True)
class LoadedChampion:
    """A champion with what it is asked with.

    Attributes:
        workload: the prompt, classes and aliases of the day it was promoted.
        adapter: a local folder with its adapter, verified; not to be written to.
    """

    champion: Champion
    whole: Whole
    workload: Workload
    adapter: Path


def load_champion(root: ArtifactRoot, workload_id: str, client_id: str) -> LoadedChampion | None:
    """Return the champion in force with all that it is asked with; None where there is none yet.

    Raises:
        ArtifactError: it is damaged, or an older flywheel promoted it; the message says what to do.
    """
    champion = read_champion(root, workload_id, client_id)
    return load_whole(root, champion) if champion else None


def load_whole(root: ArtifactRoot, champion: Champion) -> LoadedChampion:
    """Return a champion that is or was in force with all that it is asked with.

    Raises:
        ArtifactError: it is damaged, or an older flywheel promoted it; the message says what to do.
    """
    if champion.whole is None:
        raise ArtifactError(
            f"{champion.name} of run {champion.run_id} was promoted by an older flywheel, without its prompt "
            "and base weights: `flywheel champion restore` completes it from its run, else promote a "
            "candidate anew"
        )
    folder = _fetch(root, champion, champion.whole)
    content = orjson.loads((folder / _CONTENT).read_bytes())
    workload = _WORKLOAD.validate_python(content["workload"])
    return LoadedChampion(champion, champion.whole, workload, folder / _ADAPTER)


def keep_whole(
    root: ArtifactRoot, plan: Plan, champion: Champion, base_revision: str | None = None
) -> Champion:
    """Copy what a champion of a run consists of into its own place; return it with where that is.

    Args:
        base_revision: of the base weights where the adapter's own result does not say it; None: as this
            machine knows it.

    Raises:
        ArtifactError: its adapter is gone or damaged, or the root cannot be written.
    """
    adapter = root.fetch("adapters", champion.adapter)
    content: dict[str, Any] = {
        "workload": asdict(plan.workload),
        "workload_version": plan.workload.sha256,
        "base": hub_name(champion.model_name),
        **_said_by(adapter, champion, base_revision),
        "adapter": champion.adapter,
        "adapter_digest": root.digest("adapters", champion.adapter),
    }
    kind, key = _place(champion.workload_id, champion.client_id), key_of("whole", _VERSION, content)
    if not root.find(kind, key):
        with root.build(kind, key) as folder:
            (folder / _CONTENT).write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
            shutil.copytree(adapter, folder / _ADAPTER, ignore=shutil.ignore_patterns(MANIFEST))
            _name_base(folder / _ADAPTER / _PEFT_CONFIG, content["base"])
    whole = Whole(
        path=f"{kind}/{key}",
        digest=root.digest(kind, key),
        workload_version=content["workload_version"],
        classes=plan.workload.classes,
        student_prompt=content["student_prompt"],
        base=content["base"],
        base_revision=content["base_revision"],
        base_sha256=content["base_sha256"],
    )
    return champion.model_copy(update={"whole": whole})


def bring_adapter_back(root: ArtifactRoot, champion: Champion) -> bool:
    """Have a champion's adapter under `adapters/`, from its own copy if need be; return whether it is there.

    Raises:
        ArtifactError: the copy is damaged.
    """
    if root.find("adapters", champion.adapter):
        return True
    if champion.whole is None:
        return False
    source = _fetch(root, champion, champion.whole) / _ADAPTER
    with root.build("adapters", champion.adapter) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    log.info("adapter %s was gone and is back from the copy of its champion", champion.adapter)
    return True


def make_whole_again(root: ArtifactRoot, champion: Champion, plan: Plan) -> Champion | None:
    """Make a champion's copy anew where it is damaged or was never made; None: it is whole.

    Raises:
        ArtifactError: its adapter is gone, too, or is another than was promoted; the message says what to do.
    """
    there = champion.whole
    if there is not None:
        try:
            _fetch(root, champion, there)
        except ArtifactError:
            root.fetch("adapters", champion.adapter)  # before what is left of the copy goes
            root.remove(*there.path.rsplit("/", 1))
        else:
            return None
    made = keep_whole(root, plan, champion, there.base_revision if there else None)
    if there is not None and made.whole != there:
        raise ArtifactError(
            f"{champion.name} of run {champion.run_id}: its copy is damaged, and adapters/{champion.adapter} "
            "or its run's plan is not what was promoted; put the copy back from a backup of the artifact "
            "root, or promote another candidate"
        )
    return made


def _said_by(adapter: Path, champion: Champion, otherwise: str | None) -> dict[str, str]:
    """Return how an adapter is asked, and on which base weights it was trained, as its result says."""
    said: dict[str, Any] = {}
    if (adapter / RESULT).exists():
        said = orjson.loads((adapter / RESULT).read_bytes())
    revision = said.get("base_revision") or said.get("base_sha256") or otherwise
    return {
        "student_prompt": "text" if said.get("short_prompt") else "full",
        "base_revision": known_revision(champion.weights) if revision is None else revision,
        "base_sha256": said.get("base_sha256") or "",
    }


def _fetch(root: ArtifactRoot, champion: Champion, whole: Whole) -> Path:
    kind, _, key = whole.path.rpartition("/")
    try:
        return root.fetch(kind, key, digest=whole.digest)
    except ArtifactError as error:
        reason = str(error).partition("; ")[0]
        raise ArtifactError(
            f"{reason}; {champion.name} of run {champion.run_id} is damaged: `flywheel champion restore` "
            "makes it whole again from its run, else promote a candidate anew"
        ) from None


def _place(workload_id: str, client_id: str) -> str:
    return f"{champion_folder(workload_id, client_id)}/whole"


def _name_base(path: Path, base: str) -> None:
    """Have an adapter name its base model by name."""
    if path.exists():
        config = {**json.loads(path.read_text()), "base_model_name_or_path": base}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
