"""How fast windows are read: drivesim's reader (labels, crop, resize and all) beside a bare PyAV loop over the same windows.

Both read each window in turn, in this one process; the best of several rounds counts for each window, so that the ratio holds on a busy
machine.

    python benchmarks/loader.py [DATASET] [--windows 48] [--rounds 5]

Without a dataset a toy road world is drawn. Target: at least 0.9 of the bare loop. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch

from drivesim.datasets.clips import ClipDataset, FrameReader, RandomWindows, table_of
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.datasets.windows import Window, WindowSpec

STAGES = {"image": (1, ()), "prediction": (10, (1.875,)), "interpolation": (5, (7.5,))}


def bare(path: Path, indices: np.ndarray, fps: float) -> np.ndarray:
    """Seek to the keyframe before the window, decode on, keep the wanted frames as RGB: what anybody would write first."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base
        tick = float(1 / (fps * stream.time_base))
        container.seek(int((indices[0] + 0.25) * tick), stream=stream)
        wanted, frames = {int(index) for index in indices}, []
        for frame in container.decode(stream):
            number = round((frame.pts or 0) / tick)
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if number >= indices[-1]:
                return np.stack(frames)
    raise EOFError(path)


def measure(clips: ClipDataset, frames: int, rates: tuple[float, ...], windows: int, rounds: int) -> dict[str, float]:
    """Windows per second of both, and their ratio."""
    height, width = clips.size(0)
    spec = WindowSpec(frames, height, width, rates)
    reader, table = FrameReader([clips], spec), table_of([clips], spec)
    drawn = [table.draw(np.random.default_rng([7, number])) for number in range(windows)]
    training = RandomWindows(reader, table, windows)

    def ours(window: Window) -> np.ndarray:
        return reader.read(window, None)["frames"].permute(0, 2, 3, 1).numpy()

    def plain(window: Window) -> np.ndarray:
        return bare(clips.video(window.clip), window.indices(frames), clips.frame_rates[window.clip])

    assert all(np.array_equal(ours(window), plain(window)) for window in drawn[:4]), "not the same frames"
    assert training[0]["frames"].shape == (frames, 3, height, width)
    seconds = np.array([[(_time(ours, window), _time(plain, window)) for window in drawn] for _ in range(rounds)])
    best = seconds.min(axis=0).sum(axis=0)
    return {"windows_per_s": windows / best[0], "bare_windows_per_s": windows / best[1], "ratio": best[1] / best[0]}


def _time(read: Callable[[Window], np.ndarray], window: Window) -> float:
    start = time.perf_counter()
    read(window)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", type=Path)
    parser.add_argument("--windows", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = given.dataset or Path(make_road_world(Path(folder) / "clips", clips=8, height=128, width=256)["out"])
        clips = ClipDataset(root)
        served = {name: stage for name, stage in STAGES.items() if table_of([clips], WindowSpec(stage[0], 128, 256, stage[1])).windows}
        result = {name: measure(clips, frames, rates, given.windows, given.rounds) for name, (frames, rates) in served.items()}
    print(json.dumps({"dataset": str(root), **result}, indent=1))


if __name__ == "__main__":
    main()
