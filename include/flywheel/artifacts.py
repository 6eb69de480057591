"""The artifact root: datasets, adapters, evaluations and runs, in a folder or behind any fsspec URL.

An artifact is a folder named by its kind and its key, the key made from all that it was made from. It is
built aside and appears whole: by a rename where the root is a folder, else by a manifest written last. So
the same work again is found, and a killed job leaves nothing that looks finished.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import orjson
from filelock import FileLock

from flywheel.config.loading import resolve_path
from flywheel.errors import ArtifactError

# Present in a finished artifact only: lists its files and their sizes in bytes.
MANIFEST = "manifest.json"

# An unfinished build that nothing was added to for so long is no longer being made.
LEFTOVER_SECONDS = 2 * 24 * 3600


def key_of(*parts: Any) -> str:
    """Return the key of something made from these parts (any JSON values): 20 hex digits of a SHA-256."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:20]


class ArtifactRoot:
    """The place where artifacts are kept.

    Args:
        url: a folder (relative to the project) or an fsspec URL such as `s3://bucket/flywheel`.
    """

    def __init__(self, url: str) -> None:
        self.url = resolve_path(url).rstrip("/")
        try:
            self.fs, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ArtifactError(f"artifacts.root {url!r}: {error}") from None
        self.is_folder = "file" in (
            self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)
        )

    # -- artifacts -----------------------------------------------------------------------------------

    def find(self, kind: str, key: str) -> bool:
        """Return whether the artifact is there, finished."""
        return bool(self.fs.exists(f"{self._root}/{kind}/{key}/{MANIFEST}"))

    @contextmanager
    def build(self, kind: str, key: str) -> Iterator[Path]:
        """Give a fresh local folder and publish what is in it under (kind, key) at the end.

        On an error nothing is published. Where another process published the same key meanwhile, that one
        stays: both hold the same.
        """
        parent = Path(self._root) / kind if self.is_folder else Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        if self.is_folder:
            _sweep(parent)
        aside = parent / f".{key}.{uuid.uuid4().hex[:8]}"
        aside.mkdir()
        try:
            yield aside
            self._publish(kind, key, aside)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def fetch(self, kind: str, key: str) -> Path:
        """Return a local folder with the artifact: itself where the root is a folder, else a copy.

        Raises:
            ArtifactError: there is no such artifact, or a file of it is missing or has another size.
        """
        if not self.find(kind, key):
            raise ArtifactError(f"{self.url}/{kind}/{key}: no such artifact; run the stage that makes it")
        if self.is_folder:
            folder = Path(self._root) / kind / key
            self._check_complete(folder)
            return folder
        cache = self._cache() / kind / key
        cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cache}.lock"):
            if not (cache / MANIFEST).exists():
                aside = cache.with_name(f".{key}.{uuid.uuid4().hex[:8]}")
                self.fs.get(f"{self._root}/{kind}/{key}/", f"{aside}/", recursive=True)
                os.replace(aside, cache)
        self._check_complete(cache)
        return cache

    def remove(self, kind: str, key: str) -> None:
        """Remove an artifact; one that is not there is no error."""
        folder = f"{self._root}/{kind}/{key}"
        if self.fs.exists(f"{folder}/{MANIFEST}"):
            self.fs.rm(f"{folder}/{MANIFEST}")  # first, so that what is left never looks finished
        if self.fs.exists(folder):
            self.fs.rm(folder, recursive=True)

    def _publish(self, kind: str, key: str, aside: Path) -> None:
        files = {
            str(path.relative_to(aside)): path.stat().st_size
            for path in sorted(aside.rglob("*"))
            if path.is_file()
        }
        (aside / MANIFEST).write_bytes(orjson.dumps({"files": files}, option=orjson.OPT_INDENT_2))
        target = f"{self._root}/{kind}/{key}"
        if self.is_folder:
            try:
                os.rename(aside, target)
            except OSError:
                if self.find(kind, key):
                    return
                # What stands there is unfinished: an artifact whose removal was cut short.
                shutil.rmtree(target, ignore_errors=True)
                os.rename(aside, target)
            return
        for name in files:
            self.fs.put_file(str(aside / name), f"{target}/{name}")
        self.fs.put_file(str(aside / MANIFEST), f"{target}/{MANIFEST}")

    def _check_complete(self, folder: Path) -> None:
        files = orjson.loads((folder / MANIFEST).read_bytes())["files"]
        for name, size in files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size:
                raise ArtifactError(f"{path}: missing or damaged; remove {folder} and run again")

    # -- checkpoints ---------------------------------------------------------------------------------

    @contextmanager
    def scratch(self, kind: str, key: str) -> Iterator[Path]:
        """Give a local folder that outlives a kill, for checkpoints of the artifact that is being made.

        It is locked: two jobs that make the same artifact wait for each other. Behind a remote root it is
        synchronised by `save_scratch`.
        """
        folder = self._scratch_folder(kind, key)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            remote = f"{self._root}/scratch/{kind}/{key}"
            if not self.is_folder and self.fs.exists(remote) and not any(folder.iterdir()):
                self.fs.get(f"{remote}/", f"{folder}/", recursive=True)
            yield folder

    def save_scratch(self, kind: str, key: str) -> None:
        """Copy the scratch folder to a remote root; with a folder as root there is nothing to do."""
        if not self.is_folder:
            folder = self._scratch_folder(kind, key)
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    name = path.relative_to(folder)
                    self.fs.put_file(str(path), f"{self._root}/scratch/{kind}/{key}/{name}")

    def discard_scratch(self, kind: str, key: str) -> None:
        """Remove the scratch folder: its artifact is finished."""
        shutil.rmtree(self._scratch_folder(kind, key), ignore_errors=True)
        remote = f"{self._root}/scratch/{kind}/{key}"
        if not self.is_folder and self.fs.exists(remote):
            self.fs.rm(remote, recursive=True)

    def _scratch_folder(self, kind: str, key: str) -> Path:
        base = Path(self._root) if self.is_folder else _cache_folder()
        return base / "scratch" / kind / key

    # -- single files --------------------------------------------------------------------------------

    def exists(self, path: str) -> bool:
        """Return whether the file `path`, relative to the root, is there."""
        return bool(self.fs.exists(f"{self._root}/{path}"))

    def read_json(self, path: str) -> Any:
        """Return the JSON value of a file, by its path relative to the root.

        Raises:
            ArtifactError: the file is not there or not JSON.
        """
        try:
            return orjson.loads(self.fs.cat_file(f"{self._root}/{path}"))
        except FileNotFoundError:
            raise ArtifactError(f"{self.url}/{path}: no such file") from None
        except orjson.JSONDecodeError as error:
            raise ArtifactError(f"{self.url}/{path}: not valid JSON: {error}") from None

    def write_json(self, path: str, value: Any) -> None:
        """Write a JSON file, whole or not at all."""
        self.write_bytes(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        target = f"{self._root}/{path}"
        if not self.is_folder:
            self.fs.pipe_file(target, data)  # one object is put whole
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        aside = f"{target}.{uuid.uuid4().hex[:8]}"
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)

    def local_folder(self, path: str) -> Path:
        """Return the folder `path` of the root; behind a URL, a folder on this machine that stands for it."""
        base = Path(self._root) if self.is_folder else self._cache()
        return base / path

    def get_file(self, path: str, target: Path) -> None:
        """Copy a file of the root, by its path relative to it, to a local one."""
        self.fs.get_file(f"{self._root}/{path}", str(target))

    def put_file(self, source: Path, path: str) -> None:
        """Copy a local file to `path`, relative to the root, whole or not at all."""
        if self.is_folder:
            self.write_bytes(path, source.read_bytes())
        else:
            self.fs.put_file(str(source), f"{self._root}/{path}")

    def _cache(self) -> Path:
        return _cache_folder() / hashlib.sha256(self.url.encode()).hexdigest()[:12]

    def discard(self, path: str) -> None:
        """Remove a file, by its path relative to the root; one that is not there is no error."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(f"{self._root}/{path}")

    def list(self, path: str) -> list[str]:
        """Return the names in a folder of the root, sorted; none where there is no such folder."""
        try:
            entries = self.fs.ls(f"{self._root}/{path}", detail=False)
        except FileNotFoundError:
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)


def _sweep(parent: Path) -> None:
    """Remove what builds left behind that were killed long ago: a dataset of millions takes gigabytes."""
    for leftover in parent.glob(".*.*"):
        if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "flywheel"
