"""Reading windows of clips: one dataset as a facade over its tables and videos, and the two ways through them.

``RandomWindows`` (training) draws from (seed, number); ``EveryWindow`` (evaluation) walks over disjoint windows. Both take any reader of
windows, so pixels and cached latents (``latents``) are served alike. A clip that cannot be read is marked, counted and passed over. This
file does not know what a network or a batch is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from drivesim.io.records import DatasetError, Fault, labels_of, read_records, row_faults
from drivesim.io.video import VideoError, read_frames
from drivesim.labels import LABELS, LabelTrack

from .augment import PLAIN, Augment, View
from .windows import Served, Window, WindowSpec, WindowTable

__all__ = ["ClipDataset", "EveryWindow", "FrameReader", "RandomWindows", "Reader", "one_thread", "served", "table_of", "window_labels"]

ATTEMPTS = 1000
"""Draws before a training set is given up as unreadable."""


class ClipDataset:
    """A clip dataset, or one split of it (clips without a split belong to "train"). Clips are known by position.

    Tables are read once; videos are opened for each read, so an instance may be copied into any number of worker processes, which
    share its marks of broken clips.

    Raises:
        DatasetError: not a clip dataset (see ``read_records``).
    """

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        records = read_records(root)
        self.root, self.split = records.root, split
        faults = row_faults(records)
        if split is not None:
            chosen = records.clips["split"].fillna("train") == split
            records = replace(records, clips=records.clips[chosen])
        self.records = records
        self.clip_ids = records.clip_ids
        self.frame_rates = records.clips["fps"].to_numpy(np.float64)
        self.lengths = records.clips["frames"].to_numpy(np.int64, na_value=0)
        self._videos: dict[int, Path] = {}
        self.video_bytes: dict[int, int] = {}
        self.faults = self._known_faults(faults)
        """Clip position -> why the clip is left out from the start: a fault of its rows, or no video."""
        self._broken = torch.zeros(len(self.clip_ids), dtype=torch.bool).share_memory_()
        self._labels: dict[int, LabelTrack] = {}

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def name(self) -> str:
        return self.root.resolve().name

    @property
    def usable(self) -> np.ndarray:
        """Lengths in frames, int64 (clips,), with 0 for clips left out from the start."""
        lengths = self.lengths.copy()
        lengths[list(self.faults)] = 0
        return lengths

    @property
    def broken(self) -> list[str]:
        """Clips that turned out to be unreadable, in any worker so far."""
        return [self.clip_ids[clip] for clip in torch.nonzero(self._broken).flatten().tolist()]

    def is_broken(self, clip: int) -> bool:
        return bool(self._broken[clip])

    def mark_broken(self, clip: int) -> None:
        self._broken[clip] = True

    def size(self, clip: int) -> tuple[int, int]:
        """(height, width) of the clip's pictures."""
        row = self.records.clips.iloc[clip]
        return int(row["height"]), int(row["width"])

    def video(self, clip: int) -> Path:
        if clip not in self._videos:
            self._videos[clip] = self.records.video_path(self.clip_ids[clip])
        return self._videos[clip]

    def labels(self, clip: int) -> LabelTrack:
        """Labels of the whole clip at its own rate; kept after the first call."""
        if clip not in self._labels:
            self._labels[clip] = labels_of(self.records, self.clip_ids[clip])
        return self._labels[clip]

    def frames(self, clip: int, indices: np.ndarray) -> np.ndarray:
        """Source frames, uint8 (n, h, w, 3) RGB, asked for by their times.

        Raises:
            VideoError: unreadable, or shorter than its row says.
        """
        return read_frames(self.video(clip), np.asarray(indices) / self.frame_rates[clip])

    def _known_faults(self, found: Sequence[Fault]) -> dict[int, str]:
        position = {clip_id: clip for clip, clip_id in enumerate(self.clip_ids)}
        faults: dict[int, str] = {}
        for fault in found:
            if fault.clip_id in position:
                faults.setdefault(position[fault.clip_id], f"{fault.file}: {fault.reason}")
        for clip in set(position.values()) - set(faults):
            path = self.video(clip)
            self.video_bytes[clip] = path.stat().st_size if path.is_file() else 0
            if not self.video_bytes[clip]:
                faults[clip] = "the video is missing or empty"
        return faults


class Reader(Protocol):
    """Turns windows into samples {"frames" | "latents": (t, c, h, w), "labels": {name: tensor}}."""

    datasets: Sequence[ClipDataset]

    def read(self, window: Window, rng: np.random.Generator | None) -> dict[str, Any]:
        """``rng`` None: as it is; else with an augmentation drawn from it."""
        ...


class FrameReader:
    """Windows as uint8 frames (t, 3, height, width)."""

    def __init__(self, datasets: Sequence[ClipDataset], spec: WindowSpec, augment: Augment | None = None, max_boxes: int = 32) -> None:
        self.datasets, self.spec, self.augment, self.max_boxes = datasets, spec, augment or Augment(), max_boxes

    def read(self, window: Window, rng: np.random.Generator | None) -> dict[str, Any]:
        view = PLAIN if rng is None else self.augment.draw(rng)
        dataset, spec = self.datasets[window.dataset], self.spec
        frames = dataset.frames(window.clip, window.indices(spec.frames))
        picture = view.picture(frames, spec.height, spec.width).transpose(0, 3, 1, 2)
        labels = window_labels(dataset, window, spec, view, self.max_boxes, frames.shape[1:3])
        return {"frames": torch.from_numpy(np.ascontiguousarray(picture)), "labels": labels}


def window_labels(
    dataset: ClipDataset, window: Window, spec: WindowSpec, view: View, max_boxes: int, size: tuple[int, ...]
) -> dict[str, Tensor]:
    """A window's labels as ``LabelTrack.arrays`` gives them; ``size``: (height, width) of the source pictures."""
    track = dataset.labels(window.clip).take(window.indices(spec.frames), window.fps)
    if window.speed != 1:
        faster = {name: track.values[name] * np.float32(window.speed) for name, label in LABELS.items() if label.temporal}
        track = replace(track, values={**track.values, **faster})
    track = view.labels(track, size[0], size[1], spec.height, spec.width)
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in track.arrays(max_boxes).items()}


class RandomWindows(Dataset):
    """``samples`` random windows an epoch. Sample ``number`` follows from (seed, number) alone; epochs go on counting where the last ended.

    speed: see ``Augment``.

    Raises:
        DatasetError: reading, when no clip at all can be read.
    """

    def __init__(self, reader: Reader, table: WindowTable, samples: int, seed: int = 0, speed: float = 0.0) -> None:
        self.reader, self.table, self.samples, self.seed, self.speed = reader, table, samples, seed, speed

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, number])
        for _ in range(ATTEMPTS):
            sample = _try_to_read(self.reader, self.table.draw(rng, self.speed), rng)
            if sample is not None:
                return sample
        raise _nothing(self.reader)


class EveryWindow(Dataset):
    """Disjoint windows of every clip in a fixed order, as they are; at most ``limit``, evenly spread.

    The place of a window that cannot be read is taken by the next one that can.
    """

    def __init__(self, reader: Reader, table: WindowTable, limit: int | None = None) -> None:
        self.reader, self.windows = reader, table.every(limit)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        for step in range(len(self.windows)):
            sample = _try_to_read(self.reader, self.windows[(number + step) % len(self.windows)], None)
            if sample is not None:
                return sample
        raise _nothing(self.reader)


def _try_to_read(reader: Reader, window: Window, rng: np.random.Generator | None) -> dict[str, Any] | None:
    """None, and the clip marked, if it is broken."""
    dataset = reader.datasets[window.dataset]
    if dataset.is_broken(window.clip):
        return None
    try:
        return reader.read(window, rng)
    except (VideoError, DatasetError):
        dataset.mark_broken(window.clip)
        return None


def _nothing(reader: Reader) -> DatasetError:
    roots = ", ".join(str(dataset.root) for dataset in reader.datasets)
    return DatasetError(f"no clip of {roots} can be read; see what is wrong with: drivesim data check")


def table_of(datasets: Sequence[ClipDataset], spec: WindowSpec, weights: Sequence[float] | None = None) -> WindowTable:
    """The windows of the datasets' sound clips."""
    return WindowTable(spec, [dataset.frame_rates for dataset in datasets], [dataset.usable for dataset in datasets], weights)


def one_thread(worker: int) -> None:
    """For DataLoader's ``worker_init_fn``: a worker is one of several, so OpenCV must not start threads of its own there."""
    cv2.setNumThreads(0)


def served(datasets: Sequence[ClipDataset], table: WindowTable) -> list[Served]:
    """What each dataset gives at each rate, and which clips it leaves out and why."""
    report = []
    for number, listing in table.listings:
        dataset, left_out = datasets[number], dict[str, list[str]]()
        for clip, clip_id in enumerate(dataset.clip_ids):
            reason = dataset.faults.get(clip) or listing.why_not(clip)
            if reason:
                left_out.setdefault(reason, []).append(clip_id)
        report.append(Served(dataset.name, listing.fps, int((listing.starts > 0).sum()), listing.windows, left_out))
    return report
