"""Features on disk, so that the same shot is never shown to the same network twice.

One drawer for each network and preparation, holding files of keys and rows. A file is named by the hash of its bytes: it appears whole,
and one that was damaged is noticed, removed and computed again. The folder may be deleted at any time. This file does not know what a
shot or a network is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from drivesim.io.atomic import replacing

__all__ = ["Drawer", "FeatureCache", "default_folder"]

MAX_FILES = 64
"""A drawer with more files is packed into one."""


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/drivesim/features``, or the same under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drivesim" / "features"


class FeatureCache:
    """A folder of drawers. ``failure``: why features could not be kept, None while all goes well (nothing else depends on it)."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder)
        self.failure: str | None = None

    def drawer(self, network: str, preparation: str, width: int) -> Drawer:
        """The drawer for features of ``width`` numbers by the network of that hash after that preparation."""
        name = hashlib.sha256(f"{network}\n{preparation}".encode()).hexdigest()
        return Drawer(self, self.folder / name[:32], width)


class Drawer:
    """Rows float32 (width,) by key (a SHA-256 in hex)."""

    def __init__(self, cache: FeatureCache, folder: Path, width: int) -> None:
        self.cache, self.folder, self.width = cache, folder, width

    def rows(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
        """Those of the rows asked for that are there."""
        wanted, found = set(keys), dict[str, np.ndarray]()
        for path in sorted(self.folder.glob("*.safetensors")):
            found.update((key, row) for key, row in self._read(path).items() if key in wanted)
        return found

    def add(self, rows: Mapping[str, np.ndarray]) -> None:
        """Keep rows. A disk that refuses is noted in the cache's ``failure``."""
        if not rows:
            return
        try:
            self._write(rows)
            files = sorted(self.folder.glob("*.safetensors"))
            if len(files) > MAX_FILES:
                packed = self._write({key: row for path in files for key, row in self._read(path).items()})
                for path in files:
                    if path != packed:
                        path.unlink(missing_ok=True)
        except OSError as error:
            self.cache.failure = f"{self.folder}: {error.strerror or error}"

    def _write(self, rows: Mapping[str, np.ndarray]) -> Path:
        names = np.frombuffer(bytes.fromhex("".join(rows)), np.uint8).reshape(-1, 32)
        data = save({"keys": names, "rows": np.stack(list(rows.values())).astype(np.float32)})
        path = self.folder / f"{hashlib.sha256(data).hexdigest()}.safetensors"
        with replacing(path) as part:
            part.write_bytes(data)
        return path

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        """A file's rows; a damaged file is removed and holds none."""
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == path.stem:
                held = load(data)
                if held["rows"].shape == (len(held["keys"]), self.width):
                    return {key.tobytes().hex(): row for key, row in zip(held["keys"], held["rows"], strict=True)}
            path.unlink(missing_ok=True)
        except (OSError, SafetensorError, KeyError):
            return {}
        return {}
