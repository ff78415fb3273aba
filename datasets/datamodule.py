"""Batches for every training stage: which clips, which windows, pixels or cached latents, how many workers.

Batches are {"frames": uint8 (b, t, 3, H, W) | "latents": float32 (b, t, c, h, w), "labels": {name: (b, t, ...)}}. This file knows
Lightning's data interface; it does not know losses or what the labels are for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from drivesim.errors import UsageError
from drivesim.io.checkpoints import load_network
from drivesim.io.fetching import local_folder
from drivesim.io.records import DatasetError

from .augment import Augment
from .clips import ClipDataset, EveryWindow, FrameReader, RandomWindows, Reader, one_thread, served, table_of
from .latents import LatentCache, LatentReader
from .windows import Served, WindowSpec, WindowTable

__all__ = ["ClipDataModule", "EpochSampler", "encoder_hash"]

log = logging.getLogger(__name__)


class EpochSampler(DistributedSampler):
    """Sample numbers that go on counting: no number comes twice in a training, whatever workers, ranks or restarts.

    Ranks take whole batches in turn, 0, 1, ..., so that they see together, batch for batch, what one process sees that takes ``ranks``
    times as many batches a step.

    batch: samples that a rank takes at a time.   taken: how many samples were taken before, over all ranks and restarts; None =
    epoch * samples.
    """

    def __init__(self, samples: int, batch: int = 1, ranks: int = 1, rank: int = 0, taken: Callable[[], int] | None = None) -> None:
        super().__init__(range(samples), num_replicas=ranks, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.samples, self.batch, self.taken = samples, batch, taken

    def __iter__(self) -> Iterator[int]:
        first = self.taken() if self.taken is not None else self.epoch * self.samples
        turns = (divmod(number, self.batch) for number in range(len(self)))
        return (first + (turn * self.num_replicas + self.rank) * self.batch + place for turn, place in turns)


class ClipDataModule(L.LightningDataModule):
    """Training and validation windows of one or more clip datasets.

    Args:
        data: root folder or fsspec URL of a dataset, or several.   weights: share of each in training draws (None = by number of windows).
        frames, height, width: what a window is.   fps: its rate, or several that share equally (None = any rate, consecutive frames).
        batch_size, workers: as in DataLoader; 0 workers = in this process.
        samples_per_epoch: windows an epoch (None = as many as there are disjoint ones).
        val_windows: at most so many validation windows, evenly spread (None = every disjoint one).
        train_split, val_split: values of the split column; clips without a split train. None = all clips.
        half: 0 or 1 = train on that half of the drives only (by a checksum of the drive's name), so that two networks that must not
            share training clips can be told apart; None = on all.
        mirror, crop, colour, speed: see ``Augment``; training only.
        latents: folder of the latent cache; with ``autoencoder``, an exported network's path without suffix (or ``encoder``, a network),
            batches hold "latents" and the cache is filled before training. Then mirror, crop and colour act through ``variants``, of which
            each draw takes one; ``variants`` None = plain, mirror if ``mirror`` > 0, and two shifted ones if ``crop`` or ``colour`` > 0.
        encode_batch: frames encoded at a time.   max_boxes: rows of the boxes label.   tolerance: on the rate, see ``windows``.

    Raises:
        DatasetError: a root that is not a dataset, or no clip that can serve the stage.
        UsageError: contradictory or impossible arguments.
    """

    def __init__(
        self,
        data: str | Path | Sequence[str | Path],
        frames: int,
        height: int,
        width: int,
        fps: float | Sequence[float] | None = None,
        batch_size: int = 8,
        workers: int = 0,
        *,
        weights: Sequence[float] | None = None,
        samples_per_epoch: int | None = None,
        val_windows: int | None = 64,
        train_split: str | None = "train",
        val_split: str | None = "val",
        half: int | None = None,
        mirror: float = 0.0,
        crop: float = 0.0,
        colour: float = 0.0,
        speed: float = 0.0,
        latents: str | Path | None = None,
        autoencoder: str | Path | None = None,
        encoder: nn.Module | None = None,
        variants: Sequence[str] | None = None,
        encode_batch: int = 32,
        max_boxes: int = 32,
        tolerance: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.roots = [local_folder(root) for root in ([data] if isinstance(data, str | Path) else data)]
        rates = () if fps is None else (float(fps),) if isinstance(fps, int | float) else tuple(map(float, fps))
        self.spec = WindowSpec(frames, height, width, rates, tolerance)
        self.augment = Augment(mirror, crop, colour, speed)
        self.batch_size, self.workers, self.seed, self.max_boxes = batch_size, workers, seed, max_boxes
        self.weights, self.samples_per_epoch, self.val_windows = weights, samples_per_epoch, val_windows
        self.splits, self.half = {"train": train_split, "val": val_split}, half
        self.latents, self.autoencoder, self.encoder = latents, autoencoder, encoder
        self.variants, self.encode_batch = tuple(variants or self._variants()), encode_batch
        self._opened: dict[str, list[ClipDataset]] = {}
        self.served: list[Served] = []
        """After ``setup``: what each dataset gives to this stage's training, and which clips it leaves out and why."""
        self._check()

    def prepare_data(self) -> None:
        """Fill the latent cache; one process a machine does this, before ``setup``."""
        if self.latents is None:
            return
        encoder = self._encoder().to("cuda" if torch.cuda.is_available() else "cpu").eval()
        for part in ("train", "val"):
            datasets = [dataset for dataset in self._open(part) if len(dataset)]
            counts = self._cache(part).fill(datasets, partial(_encode, encoder), self.encode_batch)
            log.info("latents of %s clips: %s", part, ", ".join(f"{count} {name}" for name, count in counts.items()))
        encoder.cpu()

    def setup(self, stage: str | None = None) -> None:
        if self.served:
            return
        self.train_clips, self.val_clips = self._open("train"), self._open("val")
        table = table_of(self.train_clips, self.spec, self.weights)
        self.served = served(self.train_clips, table)
        for line in map(str, self.served):
            log.info(line)
        if not table.windows:
            raise DatasetError(f"no clip can serve this stage. {'. '.join(map(str, self.served))}")
        samples = self.samples_per_epoch or max(self.batch_size, table.disjoint)
        self.train_windows = RandomWindows(self._reader("train", self.train_clips), table, samples, self.seed, self.augment.speed)
        self.every_val_window = self._validation()

    def train_dataloader(self) -> DataLoader:
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler = EpochSampler(len(self.train_windows), self.batch_size, ranks, rank, self._taken if self.trainer else None)
        return self._loader(self.train_windows, sampler=sampler, drop_last=len(sampler) >= self.batch_size)

    def val_dataloader(self) -> DataLoader | list:
        """An empty list (Lightning then skips validation) when no validation clip can serve."""
        return self._loader(self.every_val_window) if len(self.every_val_window) else []

    @property
    def skipped(self) -> list[str]:
        """Clips that were found broken while reading, so far."""
        return sorted({clip_id for dataset in (*self.train_clips, *self.val_clips) for clip_id in dataset.broken})

    def teardown(self, stage: str | None = None) -> None:
        if self.skipped:
            log.warning("%d broken clips were passed over: %s", len(self.skipped), ", ".join(self.skipped))

    def _taken(self) -> int:
        """Samples that training has taken so far: a run resumed in the middle of an epoch goes on with the next one."""
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.ready * self.batch_size * self.trainer.world_size

    def _validation(self) -> EveryWindow:
        table: WindowTable = table_of(self.val_clips, self.spec)
        if not table.windows:
            log.warning('no clip with split "%s" can serve this stage: there will be no validation', self.splits["val"])
        return EveryWindow(self._reader("val", self.val_clips), table, self.val_windows)

    def _reader(self, part: str, datasets: Sequence[ClipDataset]) -> Reader:
        if self.latents is not None:
            return LatentReader(datasets, self.spec, self._cache(part), self.max_boxes)
        return FrameReader(datasets, self.spec, self.augment, self.max_boxes)

    def _cache(self, part: str) -> LatentCache:
        variants = self.variants if part == "train" else ("plain",)
        assert self.latents is not None
        return LatentCache(self.latents, encoder_hash(self._encoder()), self.spec.height, self.spec.width, variants, self.augment)

    def _encoder(self) -> nn.Module:
        if self.encoder is None:
            assert self.autoencoder is not None
            self.encoder = load_network(self.autoencoder)
        return self.encoder

    def _open(self, part: str) -> list[ClipDataset]:
        """The datasets of one split, read once a process."""
        if part not in self._opened:
            self._opened[part] = [ClipDataset(root, self.splits[part]) for root in self.roots]
            if part == "train" and self.half is not None:
                for dataset in self._opened[part]:
                    dataset.faults.update(dict.fromkeys(_of_half(dataset, 1 - self.half), "its drive belongs to the other half"))
        return self._opened[part]

    def _variants(self) -> list[str]:
        shifted = ["shift1", "shift2"] if self.augment.crop or self.augment.colour else []
        return ["plain", *(["mirror"] if self.augment.mirror else []), *shifted]

    def _loader(self, windows: Dataset, **more: Any) -> DataLoader:
        workers = {"num_workers": self.workers, "persistent_workers": self.workers > 0, "worker_init_fn": one_thread}
        return DataLoader(windows, self.batch_size, pin_memory=torch.cuda.is_available(), **workers, **more)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.latents is not None and self.autoencoder is None and self.encoder is None:
            raise UsageError("a latent cache needs an autoencoder to fill it: set data.autoencoder, or data.latents=null")
        if not self.roots:
            raise UsageError("no dataset to train on: set data=[FOLDER]")
        if self.half not in (None, 0, 1):
            raise UsageError(f"half must be 0, 1 or null, not {self.half!r}")
        for name, low in (("batch_size", 1), ("workers", 0), ("encode_batch", 1)):
            if getattr(self, name) < low:
                raise UsageError(f"{name} must be at least {low}, not {getattr(self, name)}")


def encoder_hash(network: nn.Module) -> str:
    """SHA-256 of everything that decides an autoencoder's latents: its recipe and weights without those of the decoder.

    So a decoder that is trained further keeps the cache.
    """
    known = getattr(network, "recipe", {"_target_": type(network).__qualname__})
    digest = hashlib.sha256(json.dumps({name: value for name, value in known.items() if not name.startswith("temporal_")}).encode())
    for name, value in sorted(network.state_dict().items()):
        if not name.startswith("decoder"):
            digest.update(name.encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _of_half(dataset: ClipDataset, half: int) -> list[int]:
    """Positions of the clips whose drive falls into a half."""
    rows = zip(dataset.clip_ids, dataset.records.clips["provenance"], strict=True)
    return [clip for clip, (clip_id, origin) in enumerate(rows) if zlib.crc32(_drive(clip_id, origin).encode()) % 2 == half]


def _drive(clip_id: str, provenance: object) -> str:
    """The drive that a clip was cut from: what its provenance says, or the clip itself."""
    try:
        origin = json.loads(provenance) if isinstance(provenance, str) else {}
    except ValueError:
        origin = {}
    return str(origin.get("drive", clip_id)) if isinstance(origin, dict) else clip_id


def _encode(network: nn.Module, frames: Tensor) -> Tensor:
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    return network.encode(frames.to(device))  # type: ignore[operator]
