"""Clips as latents on disk: each clip is encoded once in each variant (as it is, mirrored, shifted), and windows are read from that.

Layout: ``<root>/<encoder hash>-<height>x<width>/<dataset>/<variant>/<clip_id>-<frames>-<bytes>.npy``, float16 (frames, c, h, w), written
whole or not at all, so that an interrupted run goes on where it stopped; frames and bytes are the video's, so that a changed one is
encoded again. This file is handed an encode function; it does not know networks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from drivesim.errors import UsageError
from drivesim.io.atomic import replacing
from drivesim.io.records import DatasetError
from drivesim.io.video import VideoError, iterate_frames
from drivesim.shapes import as_floats

from .augment import PLAIN, Augment, View
from .clips import ClipDataset, window_labels
from .windows import Window, WindowSpec

__all__ = ["Encode", "LatentCache", "LatentReader"]

Encode = Callable[[Tensor], Tensor]
"""float frames (f, 3, H, W) in [-1, 1] -> latents (f, c, h, w)."""


class LatentCache:
    """Latents of clips below ``root``, for one encoder and one picture size.

    variants: "plain", "mirror", or "shift1", "shift2", ...: crop, colour and perhaps mirror, drawn from ``augment`` by clip and number.
    ``encoder_hash`` must change whenever the same frames would give other latents.

    Raises:
        UsageError: an unknown variant.
    """

    def __init__(
        self,
        root: str | Path,
        encoder_hash: str,
        height: int,
        width: int,
        variants: Sequence[str] = ("plain",),
        augment: Augment | None = None,
    ) -> None:
        self.root = Path(root) / f"{encoder_hash[:16]}-{height}x{width}"
        self.height, self.width, self.variants = height, width, tuple(variants)
        self.augment = augment or Augment(mirror=0.5, crop=0.1, colour=0.1)
        wrong = [name for name in self.variants if name not in ("plain", "mirror") and not _shift_number(name)]
        if wrong or not self.variants:
            raise UsageError(f"latent variants must be plain, mirror, shift1, shift2, ..., not {wrong or 'none at all'}")

    def view(self, variant: str, clip_id: str) -> View:
        """How a variant looks at a clip: always the same."""
        if variant == "plain":
            return PLAIN
        if variant == "mirror":
            return View(mirrored=True)
        return self.augment.draw(np.random.default_rng([_shift_number(variant), zlib.crc32(clip_id.encode())]))

    def path(self, dataset: ClipDataset, clip: int, variant: str) -> Path:
        name = variant
        if _shift_number(variant):
            name += f"-{self.augment.mirror:g}-{self.augment.crop:g}-{self.augment.colour:g}"
        file = f"{quote(dataset.clip_ids[clip], safe='')}-{dataset.lengths[clip]}-{dataset.video_bytes[clip]}.npy"
        return self.root / dataset.name / name / file

    def fill(self, datasets: Sequence[ClipDataset], encode: Encode, batch: int = 32, progress: bool = True) -> dict[str, int]:
        """Encode what is not there yet, ``batch`` frames at a time. Clips that cannot be read are marked broken and passed over.

        Returns:
            Clip variants {"encoded", "found"} and clips {"broken"}.
        """
        counts = {"encoded": 0, "found": 0, "broken": 0}
        clips = [(dataset, clip) for dataset in datasets for clip in np.flatnonzero(dataset.usable).tolist()]
        for dataset, clip in tqdm(clips, desc="latents", unit="clip", disable=not progress or not clips):
            missing = [name for name in self.variants if not self.path(dataset, clip, name).exists()]
            counts["found"] += len(self.variants) - len(missing)
            if not missing:
                continue
            try:
                self._encode_clip(dataset, clip, missing, encode, batch)
                counts["encoded"] += len(missing)
            except (VideoError, DatasetError):
                dataset.mark_broken(clip)
                counts["broken"] += 1
        return counts

    def read(self, dataset: ClipDataset, clip: int, variant: str, indices: np.ndarray) -> np.ndarray:
        """float16 (n, c, h, w).

        Raises:
            DatasetError: not in the cache, or not readable.
        """
        path = self.path(dataset, clip, variant)
        try:
            return np.asarray(_mapped(path)[indices])
        except (OSError, ValueError, IndexError) as error:
            raise DatasetError(f"{path}: no usable latents ({error}); remove the file and start training again") from error

    def _encode_clip(self, dataset: ClipDataset, clip: int, variants: Sequence[str], encode: Encode, batch: int) -> None:
        views = {name: self.view(name, dataset.clip_ids[clip]) for name in variants}
        made: dict[str, list[np.ndarray]] = {name: [] for name in variants}
        for frames in _batches(iterate_frames(dataset.video(clip)), batch):
            for name, view in views.items():
                made[name].append(_encoded(encode, view.picture(frames, self.height, self.width)))
        held = sum(map(len, made[variants[0]]))
        if held < dataset.lengths[clip]:
            raise VideoError(f"{dataset.video(clip)}: holds {held} frames, its row says {dataset.lengths[clip]}")
        for name, parts in made.items():
            with replacing(self.path(dataset, clip, name)) as part, open(part, "wb") as file:
                np.save(file, np.concatenate(parts))


class LatentReader:
    """Windows as latents (t, c, h, w) float32: the reader to give to ``RandomWindows`` and ``EveryWindow`` once the cache is filled."""

    def __init__(self, datasets: Sequence[ClipDataset], spec: WindowSpec, cache: LatentCache, max_boxes: int = 32) -> None:
        self.datasets, self.spec, self.cache, self.max_boxes = datasets, spec, cache, max_boxes

    def read(self, window: Window, rng: np.random.Generator | None) -> dict[str, Any]:
        variants = self.cache.variants
        variant = variants[int(rng.integers(len(variants)))] if rng is not None else "plain" if "plain" in variants else variants[0]
        dataset, clip = self.datasets[window.dataset], window.clip
        latents = self.cache.read(dataset, clip, variant, window.indices(self.spec.frames)).astype(np.float32)
        view = self.cache.view(variant, dataset.clip_ids[clip])
        labels = window_labels(dataset, window, self.spec, view, self.max_boxes, dataset.size(clip))
        return {"latents": torch.from_numpy(latents), "labels": labels}


def _shift_number(variant: str) -> int:
    """3 for "shift3", 0 for anything else."""
    number = variant.removeprefix("shift")
    return int(number) if variant.startswith("shift") and number.isdecimal() else 0


@lru_cache(maxsize=256)
def _mapped(path: Path) -> np.ndarray:
    """One process keeps this many files mapped; more would run into the limit on open files."""
    return np.load(path, mmap_mode="r")


def _batches(frames: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    for first in frames:
        rest = (frame for _, frame in zip(range(size - 1), frames, strict=False))
        yield np.stack(list(chain([first], rest)))


def _encoded(encode: Encode, pictures: np.ndarray) -> np.ndarray:
    frames = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        return encode(as_floats(frames)).float().cpu().numpy().astype(np.float16)
