"""The files of a folder, or behind any fsspec URL, by their paths in it: none leads out of it.

Files are written whole or not at all. In a folder they are on the disk before they have their name
(`flywheel.common.durable`), and no link is followed (`flywheel.common.inside`).
"""

from __future__ import annotations

import builtins
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

import fsspec
import orjson

from flywheel.common import inside
from flywheel.common.errors import ArtifactError
from flywheel.config.loading import resolve_path


class RootFiles:
    """Files by their paths, relative to a root, with `/` between names.

    Args:
        url: a folder (relative to the project) or an fsspec URL such as `s3://bucket/flywheel`.
    """

    def __init__(self, url: str) -> None:
        self.url = resolve_path(url).rstrip("/")
        try:
            # Other processes and hosts write here: a listing that was kept would hide what they wrote.
            self.fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ArtifactError(f"artifacts.root {url!r}: {error}") from None
        self.is_folder = "file" in (
            self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)
        )

    def exists(self, path: str) -> bool:
        """Return whether the file or folder `path`, relative to the root, is there.

        Raises:
            OutsideError: it leaves the root, or a link in the root is on it; so do all that take a path.
        """
        if not self.is_folder:
            return bool(self.fs.exists(self._path(path)))
        try:
            inside.open_file(self._root, path).close()
        except IsADirectoryError:
            return True
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def open(self, path: str) -> IO[bytes]:
        """Open a file to read it.

        Raises:
            FileNotFoundError, NotADirectoryError, IsADirectoryError: there is no such file.
        """
        if self.is_folder:
            return inside.open_file(self._root, path)
        return cast(IO[bytes], self.fs.open(self._path(path), "rb"))

    def read_bytes(self, path: str) -> bytes:
        """Return a file.

        Raises:
            FileNotFoundError, NotADirectoryError, IsADirectoryError: there is no such file.
        """
        if not self.is_folder:
            return cast(bytes, self.fs.cat_file(self._path(path)))
        with inside.open_file(self._root, path) as file:
            return file.read()

    def read_json(self, path: str) -> Any:
        """Return the JSON value of a file, by its path relative to the root.

        Raises:
            ArtifactError: the file is not there or not JSON.
        """
        try:
            return orjson.loads(self.read_bytes(path))
        except (FileNotFoundError, NotADirectoryError):
            raise ArtifactError(f"{self.url}/{path}: no such file") from None
        except orjson.JSONDecodeError as error:
            raise ArtifactError(f"{self.url}/{path}: not valid JSON: {error}") from None

    def write_json(self, path: str, value: Any) -> None:
        """Write a JSON file, whole or not at all."""
        self.write_bytes(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file, whole or not at all, and have it on the disk."""
        if self.is_folder:
            inside.write_file(self._root, path, data)
        else:
            self.fs.pipe_file(self._path(path), data)  # one object is put whole

    def create(self, path: str, data: bytes) -> None:
        """Write a file that must not be there yet; two that do it at once cannot both have done it.

        Behind a URL both can: object stores have no exclusive creation that all of them share.

        Raises:
            FileExistsError: it is there.
        """
        if self.is_folder:
            inside.create_file(self._root, path, data)
        else:
            self.fs.pipe_file(self._path(path), data)

    def local_folder(self, path: str) -> Path:
        """Return the folder `path` of the root; behind a URL, a folder on this machine that stands for it."""
        inside.names_of(path)
        base = Path(self._root) if self.is_folder else self.cache
        return base / path

    @contextmanager
    def folder_of(self, path: str, *, without_links: bool = False) -> Iterator[Path]:
        """Give a folder of a root that is one, made if it is missing, as long as no link is on its way.

        Args:
            without_links: refuse it where there is a link in it, too.
        """
        with inside.opened_folder(self._root, path, create=True):
            if without_links:
                inside.refuse_links(self._root, path)
            yield Path(self._root) / path

    def get_file(self, path: str, target: Path) -> None:
        """Copy a file of the root, by its path relative to it, to a local one."""
        with self.open(path) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, io.DEFAULT_BUFFER_SIZE * 16)

    def get_tree(self, path: str, target: Path) -> None:
        """Copy all files of a folder of the root into a local one."""
        for file in self.files_below(path):
            local = target / file.removeprefix(f"{path}/")
            local.parent.mkdir(parents=True, exist_ok=True)
            self.get_file(file, local)

    def put_file(self, source: Path, path: str) -> None:
        """Copy a local file to `path`, relative to the root, whole or not at all."""
        if self.is_folder:
            with source.open("rb") as file:
                inside.write_file(self._root, path, file)
        else:
            self.fs.put_file(str(source), self._path(path))

    def discard(self, path: str) -> None:
        """Remove a file, by its path relative to the root; one that is not there is no error."""
        if self.is_folder:
            inside.remove(self._root, path)
            return
        with suppress(FileNotFoundError):
            self.fs.rm_file(self._path(path))

    def remove_tree(self, path: str) -> None:
        """Remove a folder with all that is in it, or a file; one that is not there is no error."""
        if self.is_folder:
            inside.remove(self._root, path)
        elif self.fs.exists(self._path(path)):
            self.fs.rm(self._path(path), recursive=True)

    def list(self, path: str) -> list[str]:
        """Return the names in a folder of the root, sorted; none where there is no such folder."""
        try:
            if self.is_folder:
                with inside.opened_folder(self._root, path) as folder:
                    return sorted(os.listdir(folder))
            entries = self.fs.ls(self._path(path), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def files_below(self, path: str) -> builtins.list[str]:
        """Return all files of a folder of the root and of those in it, by path relative to the root, sorted.

        Links are passed over, and so are the keys of objects that are no paths.
        """
        if self.is_folder:
            return inside.files_below(self._root, path)
        remote = self._path(path)
        names = [file.rpartition(f"{remote.strip('/')}/")[2] for file in self.fs.find(remote)]
        return sorted(f"{path}/{name}" for name in names if inside.is_inside(name))

    def _path(self, path: str) -> str:
        return "/".join([self._root, *inside.names_of(path)])

    @property
    def cache(self) -> Path:
        """Where copies of what is behind a URL are kept on this machine."""
        return cache_folder() / hashlib.sha256(self.url.encode()).hexdigest()[:12]


def cache_folder() -> Path:
    """Return the folder of this user's cache on this machine."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "flywheel"
