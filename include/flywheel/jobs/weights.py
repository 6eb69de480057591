"""Where a student's weights are, and a hash that names them. No torch here: specs use it for their keys.

A student without base weights (family linear) has the name "", whose hash is "", too.

Weights of the Hugging Face Hub may change under their name. A plan names the commit (`owner/model@COMMIT`):
that one is loaded by all jobs of the run, and later by whoever asks its champion.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from flywheel.common.digests import file_digest
from flywheel.common.errors import ArtifactError, StudentError
from flywheel.config.loading import find_path

# The NIM catalogue's names, which blueprint files use, and the same weights on the Hugging Face Hub.
HUB_NAMES = {
    "meta/llama-3.2-1b-instruct": "meta-llama/Llama-3.2-1B-Instruct",
    "meta/llama-3.2-3b-instruct": "meta-llama/Llama-3.2-3B-Instruct",
    "meta/llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
}
_COMMIT = re.compile("[0-9a-f]{40}")
_WITH_REVISION = re.compile(r"([\w.-]+(?:/[\w.-]+)?)@([\w.-]+)")
# Files of a model folder that decide what it computes or how its text is made into tokens.
_HASHED = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.model", "*.txt")


def local_folder(weights: str) -> Path | None:
    """Return the folder with the weights where `weights` is one, else None."""
    if not weights:
        return None
    folder = Path(find_path(weights))
    return folder if folder.is_dir() else None


def hub_name(weights: str) -> str:
    """Return the Hugging Face id of weights that are no folder, without a revision."""
    name, _ = _parts(weights)
    return HUB_NAMES.get(name, name)


def _parts(weights: str) -> tuple[str, str]:
    """Return name and revision of weights of the Hub; "" for none."""
    found = _WITH_REVISION.fullmatch(weights)
    return (found[1], found[2]) if found else (weights, "")


def base_name(weights: str) -> str:
    """Return what an adapter names as its base model, to be loaded from any folder: Hub id or absolute path.

    It has no part in the adapter's key: the same weights elsewhere are the same adapter.
    """
    folder = local_folder(weights)
    return str(folder.absolute()) if folder is not None else hub_name(weights)


def weights_hash(weights: str) -> str:
    """Return a hash of a student's base weights: of the files in a folder, or the revision of a Hub id.

    Files are read once: their hashes are kept by path, size and time of change.

    Raises:
        StudentError: the folder holds no weights, or the Hub id is not known here.
    """
    if not weights:
        return ""
    folder = local_folder(weights)
    if folder is None:
        name, revision = hub_name(weights), _parts(weights)[1]
        return f"{name}@{revision}" if _COMMIT.fullmatch(revision) else _hub_revision(name, revision or None)
    return _folder_hash(folder)


def pinned(weights: str) -> str:
    """Return weights of the Hub with the commit that they are at now, others as they are.

    Raises:
        StudentError: the Hub id is not known here.
    """
    if not weights or local_folder(weights) is not None:
        return weights
    return f"{_parts(weights)[0]}@{weights_hash(weights).rpartition('@')[2]}"


def files_hash(weights: str) -> str:
    """Return the hash of the files of weights that were loaded on this machine, those of the Hub too.

    Raises:
        StudentError: they are not there.
    """
    if not weights:
        return ""
    folder = local_folder(weights)
    if folder is None:
        from huggingface_hub import hf_hub_download

        name, _, revision = weights_hash(weights).rpartition("@")
        try:
            config = hf_hub_download(name, "config.json", revision=revision, local_files_only=True)
        except Exception as error:  # the library raises many kinds
            raise StudentError(explain_missing(weights, error)) from None
        folder = Path(config).parent
    return _folder_hash(folder)


def _folder_hash(folder: Path) -> str:
    names = sorted({path for pattern in _HASHED for path in folder.glob(pattern)})
    if not any(path.suffix in (".safetensors", ".bin") for path in names):
        raise StudentError(f"{folder}: holds no weights: expected *.safetensors beside config.json")
    total = hashlib.sha256()
    for path in names:
        status = path.stat()
        digest = _file_hash(str(path.resolve()), status.st_size, status.st_mtime_ns)
        total.update(f"{path.name}\0{digest}\0".encode())
    return total.hexdigest()[:32]


def known_revision(weights: str) -> str:
    """Return `weights_hash` as far as this machine knows it, without asking the Hub; empty: it does not."""
    if not weights:
        return ""
    if _COMMIT.fullmatch(_parts(weights)[1]):
        return weights_hash(weights)
    if local_folder(weights) is not None:
        with suppress(StudentError):
            return weights_hash(weights)
        return ""
    with suppress(Exception):  # no such library, not in its cache; it raises many kinds
        from huggingface_hub import hf_hub_download

        return _commit_of(Path(hf_hub_download(hub_name(weights), "config.json", local_files_only=True)))
    return ""


@lru_cache(maxsize=1024)
def _file_hash(path: str, size: int, changed: int) -> str:
    """Return the SHA-256 of a file; of large ones it is kept on disk, as hashing 16 GB takes a while."""
    if size < 64 << 20:
        return file_digest(path)
    name = hashlib.sha256(f"{path}\0{size}\0{changed}".encode()).hexdigest()[:32]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flywheel" / "weights" / name
    try:
        return cache.read_text()
    except OSError:
        digest = file_digest(path)
    with suppress(OSError):  # a read-only home: the next process reads the file again
        cache.parent.mkdir(parents=True, exist_ok=True)
        aside = cache.with_name(f"{name}.{uuid.uuid4().hex[:8]}")
        aside.write_text(digest)
        os.replace(aside, cache)
    return digest


def check_weights(weights: str, trained_on: str, name: str, mend: str) -> None:
    """Check that base weights are those that a student was trained on, as far as that is known.

    Args:
        trained_on: the hash or revision; empty: nobody noted it.
        name: the student's.
        mend: what to do where they are others.

    Raises:
        ArtifactError: they are others.
    """
    here = known_revision(weights)
    if here and trained_on and here != trained_on:
        raise ArtifactError(
            f"{weights}: not the base weights that {name} was trained on: they are {here[:16]}, it has "
            f"{trained_on[:16]}; {mend}"
        )


def _hub_revision(name: str, revision: str | None = None) -> str:
    """Return the commit of a model on the Hub: of the local copy when there is one, else of the Hub.

    Args:
        revision: a branch or tag; None: the main one.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download
    except ImportError:
        raise StudentError(
            f"{name}: no such folder, and huggingface_hub is not installed to look it up"
        ) from None
    with suppress(Exception):  # not in the local cache; the library raises many kinds
        return _commit_of(
            Path(hf_hub_download(name, "config.json", revision=revision, local_files_only=True))
        )
    try:
        commit = HfApi().model_info(name, revision=revision, timeout=20).sha
    except Exception as error:
        raise StudentError(explain_missing(name, error)) from None
    return f"{name}@{commit}"


def _commit_of(config: Path) -> str:
    # .../models--owner--name/snapshots/<commit>/config.json
    model = config.parents[2].name.removeprefix("models--").replace("--", "/")
    return f"{model}@{config.parent.name}"


def explain_missing(weights: str, error: Exception) -> str:
    """Return what to tell a user whose weights were not found."""
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return (
        f"{weights}: neither a folder with weights nor a model that the Hugging Face Hub gives us "
        f"({first[:200]}). Set the student's `weights` to a local folder (a relative one "
        "begins at FLYWHEEL_HOME; `flywheel.champion` takes weights=), or HF_TOKEN to a token that may "
        "read the model, or HF_HOME to a cache that holds it"
    )
