"""A folder anywhere that fsspec reaches: on this disk, in memory, in an object store through the user's own plug-in.

Files appear whole or not at all: on a disk by renaming, elsewhere because a store shows an object when all of it is there. This file does
not know what is in the files.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from drivesim.errors import DrivesimError, UsageError

from .atomic import replacing
from .scratch import scratch_folder

__all__ = ["Place", "fetched"]


class Place:
    """The folder ``url``; a plain path is one on this disk. Names of files are relative, with "/" between folders.

    Raises:
        UsageError: a kind of place that fsspec does not know, or whose plug-in is not installed.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        try:
            self.files, self.root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise UsageError(f"{self.url}: {error}; give a folder, or install the fsspec plug-in for it") from error
        self.local = Path(self.root) if isinstance(self.files, LocalFileSystem) else None
        """The folder's path where it is on this disk, else None."""

    def __str__(self) -> str:
        return self.url

    def at(self, name: str) -> str:
        """How a file here is told to people and to fsspec."""
        return f"{self.url.rstrip('/')}/{name}"

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        return bool(self.files.exists(self._path(name)))

    def names(self, folder: str = "") -> list[str]:
        """Names of what lies directly in ``folder``, sorted; nothing where there is no such folder."""
        try:
            found = self.files.ls(self._path(folder).rstrip("/"), detail=False, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def listing(self) -> dict[str, dict[str, Any]]:
        """Every file below here by its name, with what the place tells of it (size, times, tags); nothing where there is no such folder.

        Raises:
            DrivesimError: the place cannot be reached or read.
        """
        with self._reading(""):
            try:
                self.files.invalidate_cache()
                found = self.files.find(self.root, detail=True)
            except FileNotFoundError:
                return {}
        root = self.root.rstrip("/") + "/"
        return {str(path).removeprefix(root): dict(told) for path, told in found.items() if str(path).startswith(root)}

    def get(self, names: Mapping[str, Path]) -> None:
        """Copy files to paths of this disk.

        Raises:
            DrivesimError: one of them is not there, or cannot be read.
        """
        with self._reading(next(iter(names), "")):
            self.files.get([self._path(name) for name in names], [str(path) for path in names.values()])

    def read(self, name: str) -> bytes | None:
        """What a file holds; None where there is none.

        Raises:
            DrivesimError: it is there and cannot be read.
        """
        try:
            content = self.files.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DrivesimError(f"cannot read {self.at(name)}: {error.strerror or error}") from error
        return bytes(content)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON object; None where there is none, or what is there is no JSON object."""
        content = self.read(name)
        if content is None:
            return None
        try:
            told = json.loads(content)
        except ValueError:
            return None
        return told if isinstance(told, dict) else None

    def write(self, name: str, content: bytes) -> None:
        """Write a file.

        Raises:
            DrivesimError: the disk is full, or the place cannot be written.
        """
        with self._writing(name):
            if self.local is None:
                self.files.pipe_file(self._path(name), content)
            else:
                with replacing(self.local / name) as part:
                    part.write_bytes(content)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON object, indented, in the given order; raises as ``write``."""
        self.write(name, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    def put(self, path: Path, name: str) -> None:
        """Move a finished file of this disk here; raises as ``write``."""
        with self._writing(name):
            if self.local is None:
                self.files.put_file(str(path), self._path(name))
                path.unlink()
            else:
                target = self.local / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.replace(path, target)
                except OSError:  # another disk
                    with replacing(target) as part:
                        shutil.copyfile(path, part)
                    path.unlink()

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        with suppress(FileNotFoundError), self._writing(name):
            self.files.rm_file(self._path(name))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder of this disk for files on their way here, beside their place where that is on this disk; it goes with the block.

        What processes that were killed have left there goes first.
        """
        beside = None
        if self.local is not None:
            with self._writing(""):
                self.local.mkdir(parents=True, exist_ok=True)
            beside = self.local
        with scratch_folder(beside) as folder:
            yield folder

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # plug-ins raise what their libraries raise: no credentials, no route, no such bucket
            where, told = self.at(name) if name else self.url, str(error) or type(error).__name__
            raise DrivesimError(f"cannot read {where}: {told}; see that it is there and that you may read it") from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DrivesimError(f"cannot write {self.at(name)}: {error.strerror or error}; free space or choose another place") from error


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """A file as a path of this disk: itself where it is on it, else a copy that goes with the block.

    Raises:
        UsageError: there is none, or a kind of place that fsspec does not know.
    """
    folder, _, name = str(url).rpartition("/")
    if "://" not in str(url):
        yield Path(url)
        return
    content = Place(folder).read(name)
    if content is None:
        raise UsageError(f"{url}: no such file")
    with tempfile.TemporaryDirectory(prefix="drivesim-") as scratch:
        path = Path(scratch) / name
        path.write_bytes(content)
        yield path
