"""The artifact root: datasets, adapters, evaluations and runs, in a folder or behind any fsspec URL.

An artifact is a folder named by its kind and its key, the key made from all that it was made from. It is
built aside and appears whole and durable: by a rename where the root is a folder, else by a manifest written
last. So the same work again is found, and a killed job leaves nothing that looks finished. Its files are
verified by their hashes when it is read (`flywheel.artifacts.manifests`); one that is damaged counts as
missing, and is made again. No path leaves the root, whatever links are in it (`flywheel.common.inside`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import orjson
from filelock import FileLock

from flywheel.artifacts import manifests
from flywheel.artifacts.manifests import MANIFEST, Manifest
from flywheel.artifacts.root_files import RootFiles, cache_folder
from flywheel.common import inside
from flywheel.common.durable import sync_tree
from flywheel.common.errors import ArtifactError
from flywheel.common.full_disk import told_when_full

log = logging.getLogger(__name__)

__all__ = ["MANIFEST", "ArtifactRoot", "key_of"]

# Who makes the artifacts of a kind.
_MAKERS = {"datasets": "curate", "adapters": "customize", "evaluations": "evaluate"}

# An unfinished build that nothing was added to for so long is no longer being made.
LEFTOVER_SECONDS = 2 * 24 * 3600


def key_of(*parts: Any) -> str:
    """Return the key of something made from these parts (any JSON values): 20 hex digits of a SHA-256."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:20]


class ArtifactRoot(RootFiles):
    """The place where artifacts are kept, and all other files of the flywheel's beside them.

    Args:
        url: a folder (relative to the project) or an fsspec URL such as `s3://bucket/flywheel`.
    """

    # -- artifacts -----------------------------------------------------------------------------------

    def find(self, kind: str, key: str) -> bool:
        """Return whether the artifact is there, finished and whole; the log names the file that is damaged.

        Behind a URL the sizes of its files are looked at; `lookup` reads their bytes, too.
        """
        try:
            if self.is_folder:
                manifests.verify(self._root, f"{kind}/{key}", cache_folder())
            else:
                self._check_sizes(kind, key)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except ArtifactError as error:
            log.warning("%s; it counts as missing, and is made again", error)
            return False
        return True

    def lookup(self, kind: str, key: str) -> Path | None:
        """Return a local folder with the artifact, as `fetch` does; None where it is to be made (again).

        It is not there then, or damaged: the log names the file.
        """
        try:
            return self._take(kind, key)[0]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ArtifactError as error:
            log.warning("%s; it counts as missing, and is made again", error)
            return None

    @contextmanager
    def build(self, kind: str, key: str) -> Iterator[Path]:
        """Give a fresh local folder and publish what is in it under (kind, key) at the end.

        On an error nothing is published. Where another process published the same key meanwhile, that one
        stays: both hold the same.

        Raises:
            DiskFullError: it names the folder and what to free.
        """
        parent = Path(self._root) / kind if self.is_folder else Path(tempfile.gettempdir())
        if self.is_folder:
            with inside.opened_folder(self._root, kind, create=True):
                _sweep(parent)
        aside = parent / f".{key}.{uuid.uuid4().hex[:8]}"
        aside.mkdir()
        try:
            with told_when_full(parent, f"{kind}/{key}"):
                yield aside
                self._publish(kind, key, aside)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def fetch(self, kind: str, key: str, digest: str = "") -> Path:
        """Return a local folder with the artifact: itself where the root is a folder, else a copy.

        Its bytes are as its manifest says; they are read for that once a machine. Whoever may write to the
        folder may still change them afterwards.

        Args:
            digest: that it must have; empty: any.

        Raises:
            ArtifactError: there is no such artifact, a file of it is missing or damaged, or it has another
                digest.
        """
        try:
            folder, manifest = self._take(kind, key)
        except (FileNotFoundError, NotADirectoryError):
            raise ArtifactError(
                f"{self.url}/{kind}/{key}: no such artifact; run the stage that makes it"
            ) from None
        except ArtifactError as error:
            raise ArtifactError(
                f"{error}; it counts as missing: run {_MAKERS.get(kind, 'the stage that makes it')} again, "
                "which makes it anew; nothing has to be removed"
            ) from None
        if digest and (found := manifest.hashed(folder).digest) != digest:
            raise ArtifactError(
                f"{self.url}/{kind}/{key}: not the artifact that was meant: its digest is {found[:12]}..., "
                f"expected {digest[:12]}...; it was made again, or changed, since"
            )
        return folder

    def open_in(self, kind: str, key: str, name: str) -> IO[bytes]:
        """Open a file of an artifact, which is verified before.

        Raises:
            ArtifactError: as `fetch` does.
            FileNotFoundError: the artifact has no such file.
        """
        self.fetch(kind, key)
        return inside.open_file(self._root if self.is_folder else str(self.cache), f"{kind}/{key}/{name}")

    def digest(self, kind: str, key: str) -> str:
        """Return one hash for all files of an artifact, names and bytes: 64 hex digits of a SHA-256.

        Kept elsewhere, it tells later that not even the manifest was changed: see `fetch`.

        Raises:
            ArtifactError: there is no such artifact, or it is damaged.
        """
        folder = self.fetch(kind, key)
        data = (folder / MANIFEST).read_bytes()
        return Manifest.parse(data, f"{folder}/{MANIFEST}").hashed(folder).digest

    def remove(self, kind: str, key: str) -> None:
        """Remove an artifact; one that is not there is no error."""
        self.remove_tree(f"{kind}/{key}/{MANIFEST}")  # first, so that what is left never looks finished
        self.remove_tree(f"{kind}/{key}")
        if self.is_folder:
            manifests.forget(self._root, f"{kind}/{key}", cache_folder())

    def _publish(self, kind: str, key: str, aside: Path) -> None:
        manifest = Manifest.of(aside)
        (aside / MANIFEST).write_bytes(manifest.json())
        if self.is_folder:
            sync_tree(aside)
            with inside.opened_folder(self._root, kind) as parent:
                try:
                    os.rename(aside.name, key, src_dir_fd=parent, dst_dir_fd=parent)
                except OSError:
                    if self.find(kind, key):
                        return
                    # What stands there is damaged, or unfinished: one whose removal was cut short.
                    inside.remove(self._root, f"{kind}/{key}")
                    os.rename(aside.name, key, src_dir_fd=parent, dst_dir_fd=parent)
                os.fsync(parent)
            manifests.remember(self._root, f"{kind}/{key}", cache_folder())
            return
        if self.lookup(kind, key) is not None:
            return
        target = self._path(f"{kind}/{key}")
        if self.fs.exists(f"{target}/{MANIFEST}"):
            self.fs.rm_file(f"{target}/{MANIFEST}")  # a damaged one does not look finished meanwhile
        for name in manifest.files:
            self.fs.put_file(str(aside / name), f"{target}/{name}")
        self.fs.put_file(str(aside / MANIFEST), f"{target}/{MANIFEST}")

    def _take(self, kind: str, key: str) -> tuple[Path, Manifest]:
        """Return a verified artifact: its folder on this machine, and its manifest.

        Raises:
            FileNotFoundError, NotADirectoryError: there is none.
            ArtifactError: it is damaged.
        """
        path = f"{kind}/{key}"
        if self.is_folder:
            return Path(self._root) / path, manifests.verify(self._root, path, cache_folder())
        remote = self._path(path)
        data: bytes = self.fs.cat_file(f"{remote}/{MANIFEST}")
        manifest = Manifest.parse(data, f"{self.url}/{path}/{MANIFEST}")
        cache = self.cache / path
        cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cache}.lock"):
            if (cache / MANIFEST).exists() and (cache / MANIFEST).read_bytes() == data:
                with suppress(ArtifactError):  # a damaged copy is copied again
                    return cache, manifests.verify(str(self.cache), path, cache_folder())
            aside = cache.with_name(f".{cache.name}.{uuid.uuid4().hex[:8]}")
            try:
                for name in manifest.files:
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    try:
                        self.fs.get_file(f"{remote}/{name}", str(aside / name))
                    except FileNotFoundError:
                        raise ArtifactError(f"{self.url}/{path}/{name}: missing") from None
                aside.mkdir(parents=True, exist_ok=True)
                (aside / MANIFEST).write_bytes(data)
                shutil.rmtree(cache, ignore_errors=True)
                os.replace(aside, cache)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            try:
                return cache, manifests.verify(str(self.cache), path, cache_folder())
            except ArtifactError as error:
                raise ArtifactError(f"{self.url}/{path}: the copy of it here: {error}") from None

    def _check_sizes(self, kind: str, key: str) -> None:
        path = f"{kind}/{key}"
        remote = self._path(path)
        manifest = Manifest.parse(self.fs.cat_file(f"{remote}/{MANIFEST}"), f"{self.url}/{path}/{MANIFEST}")
        self.fs.invalidate_cache(remote)
        # Some file systems give the names with a leading slash.
        there = {
            file.rpartition(f"{remote.strip('/')}/")[2]: entry["size"]
            for file, entry in self.fs.find(remote, detail=True).items()
        }
        for name, size in manifest.files.items():
            if there.get(name) != size:
                found = "missing" if name not in there else f"damaged: {there[name]} bytes, expected {size}"
                raise ArtifactError(f"{self.url}/{path}/{name}: {found}")

    # -- checkpoints ---------------------------------------------------------------------------------

    @contextmanager
    def scratch(self, kind: str, key: str) -> Iterator[Path]:
        """Give a local folder that outlives a kill, for checkpoints of the artifact that is being made.

        It is locked: two jobs that make the same artifact wait for each other. Behind a remote root it is
        synchronised by `save_scratch`.
        """
        folder = self._scratch_folder(kind, key)
        path = f"scratch/{kind}/{key}"
        with inside.opened_folder(str(self._scratch_base()), path, create=True), FileLock(f"{folder}.lock"):
            folder.mkdir(exist_ok=True)  # the job before this one may have discarded it
            with told_when_full(folder):
                if not self.is_folder and not any(folder.iterdir()):
                    self.get_tree(path, folder)
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
        if not self.is_folder:
            self.remove_tree(f"scratch/{kind}/{key}")

    def _scratch_folder(self, kind: str, key: str) -> Path:
        return self._scratch_base() / "scratch" / kind / key

    def _scratch_base(self) -> Path:
        return Path(self._root) if self.is_folder else cache_folder()


def _sweep(parent: Path) -> None:
    """Remove what builds left behind that were killed long ago: a dataset of millions takes gigabytes."""
    for leftover in parent.glob(".*.*"):
        if time.time() - leftover.stat().st_mtime > LEFTOVER_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)
