"""Shots -> features: as many workers as torch has threads, each of which decodes a batch, prepares it and shows it to the network.

While one worker decodes, another computes, and no core waits for the slowest part of a layer, as it does when one network runs on several
threads. A batch's rows are the same on any number of cores. Frames are held by their worker only, so memory does not grow with the number
of shots. A shot that cannot be read is named and passed over. This file does not know protocols or distances.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm import tqdm

from drivesim.errors import DrivesimError, UsageError

from .cache import Drawer, FeatureCache
from .codec import Preparation
from .features import FeatureNetwork
from .footage import Shot

__all__ = ["Features", "features_of"]

BATCH_FRAMES = 32
"""Frames a network sees at once; whole shots, at least one."""
KEEP_EVERY = 512
"""Rows computed before they are put into the cache: what an interrupted run loses at most."""


@dataclass(frozen=True)
class Features:
    """values: float32 (n, d).   drives, keys, shots: of its rows.   skipped: clip id -> why a shot of it could not be read."""

    values: np.ndarray
    drives: list[str]
    keys: list[str]
    skipped: dict[str, str] = field(default_factory=dict)
    shots: list[Shot] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)


def features_of(
    shots: Sequence[Shot], network: FeatureNetwork, *, size: tuple[int, int] | None, codec: str, fps: float = 7.5,
    cache: FeatureCache | None = None, progress: str | None = None,
) -> Features:  # fmt: skip
    """One row of features for every shot that can be read, in their order.

    Args:
        shots: all of equally many frames. size: (height, width) before the codec, None = as they come. codec: a name of ``codec.CODECS``.
        fps: what the codec is told. cache: where rows are looked for and kept. progress: title of a progress bar, None = no bar.

    Raises:
        UsageError: shots of fewer frames than the network needs.   DrivesimError: none of the shots could be read, or a row is not finite.
    """
    prepare = Preparation(size, codec, fps)
    drawer = None if cache is None else cache.drawer(network.hash, f"{network.preprocessing}\n{prepare.text}", network.num_features)
    rows = {} if drawer is None else drawer.rows(shot.key for shot in shots)
    skipped: dict[str, str] = {}
    missing = [shot for shot in {shot.key: shot for shot in shots}.values() if shot.key not in rows]
    with tqdm(total=len(shots), initial=len(shots) - len(missing), desc=progress, unit="shot", disable=None if progress else True) as bar:
        for batch in _kept(_computed(missing, network, prepare, skipped, bar), drawer):
            rows.update(batch)
    kept = [shot for shot in shots if shot.key in rows]
    if not kept:
        clip_id, reason = next(iter(skipped.items()), ("", "there are none"))
        raise DrivesimError(f"none of {len(shots)} shots could be read; {clip_id}: {reason}")
    values = np.stack([rows[shot.key] for shot in kept]).astype(np.float32)
    return Features(_finite(values, kept, network), [shot.drive for shot in kept], [shot.key for shot in kept], skipped, kept)


def _computed(
    shots: Sequence[Shot], network: FeatureNetwork, prepare: Preparation, skipped: dict[str, str], bar: tqdm
) -> Iterator[dict[str, np.ndarray]]:
    """Rows by key, a batch at a time and in order; shots that cannot be read go into ``skipped``."""
    waiting: deque[Future[tuple[dict[str, np.ndarray], dict[str, str]]]] = deque()
    with _workers() as (pool, number):
        share = max(1, BATCH_FRAMES // max((shot.frames for shot in shots), default=1))
        todo = iter([shots[start : start + share] for start in range(0, len(shots), share)])
        while True:
            while len(waiting) <= number and (part := next(todo, None)):
                waiting.append(pool.submit(_task, part, network, prepare))
            if not waiting:
                return
            rows, unreadable = waiting.popleft().result()
            bar.update(len(rows) + len(unreadable))
            skipped.update((clip_id, reason) for clip_id, reason in unreadable.items() if clip_id not in skipped)
            yield rows


@contextmanager
def _workers() -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads and how many; torch's own work is on one thread each meanwhile."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(number)
    try:
        yield pool, number
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(number)


def _task(shots: Sequence[Shot], network: FeatureNetwork, prepare: Preparation) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Rows by key, and clip id -> why a shot could not be read."""
    rows: dict[str, np.ndarray] = {}
    skipped: dict[str, str] = {}
    for batch in _batches(_prepared(shots, prepare, skipped)):
        frames = torch.from_numpy(np.stack([frames for _, frames in batch])).permute(0, 1, 4, 2, 3).contiguous()
        if frames.shape[1] < network.min_frames:
            raise UsageError(f"{network.name} needs {network.min_frames} frames at once, the shots have {frames.shape[1]}")
        with torch.inference_mode():
            values = network(frames).float().cpu().numpy()
        rows.update((shot.key, row) for (shot, _), row in zip(batch, values, strict=True))
    return rows, skipped


def _prepared(shots: Iterable[Shot], prepare: Preparation, skipped: dict[str, str]) -> Iterator[tuple[Shot, np.ndarray]]:
    for shot in shots:
        try:
            frames = prepare(shot.read())
        except DrivesimError as error:
            skipped.setdefault(shot.clip_id, str(error))
            continue
        yield shot, frames


def _batches(prepared: Iterable[tuple[Shot, np.ndarray]]) -> Iterator[list[tuple[Shot, np.ndarray]]]:
    """Consecutive shots of one shape, at most BATCH_FRAMES frames."""
    batch: list[tuple[Shot, np.ndarray]] = []
    for shot, frames in prepared:
        if batch and (frames.shape != batch[0][1].shape or (len(batch) + 1) * len(frames) > BATCH_FRAMES):
            yield batch
            batch = []
        batch.append((shot, frames))
    if batch:
        yield batch


def _kept(batches: Iterable[dict[str, np.ndarray]], drawer: Drawer | None) -> Iterator[dict[str, np.ndarray]]:
    """The same, put into the drawer from time to time and at the end, however it ends."""
    fresh: dict[str, np.ndarray] = {}
    try:
        for rows in batches:
            if drawer is not None:
                fresh.update((key, row) for key, row in rows.items() if np.isfinite(row).all())
                if len(fresh) >= KEEP_EVERY:
                    drawer.add(fresh)
                    fresh = {}
            yield rows
    finally:
        if drawer is not None:
            drawer.add(fresh)


def _finite(values: np.ndarray, shots: Sequence[Shot], network: FeatureNetwork) -> np.ndarray:
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        clip_id = shots[int(np.argmax(bad))].clip_id
        raise DrivesimError(f"{network.name} gives numbers that are not finite for {int(bad.sum())} shots, the first of clip {clip_id}")
    return values
