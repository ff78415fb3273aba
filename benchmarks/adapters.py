"""How fast datasets leave and come in: exports that keep videos beside a plain copy of them, imports beside bare decoding and encoding.

    python benchmarks/adapters.py [--clips 1000] [--rounds 3] [--frames 80] [--out benchmarks/results/adapters.json]

One process; in every round both sides run one after the other, so that the ratio holds on a busy machine; the median of the rounds' ratios
counts. Exports: ``--clips`` clips that are copies of a few drawn ones, small (128x256) and large (512x1024), 16 s each; ``shutil.copyfile``
of their videos is the plain copy. Imports: fixtures in the releases' layouts with drawn pictures of the releases' own sizes; bare is what
anybody would write first, OpenCV for pictures and PyAV for videos, into the same encoder settings, without labels, check or crop. A result
file that is there keeps the half that is not measured anew.

Targets: exports at least 0.5 of the copy's speed, imports at least 0.8 of the bare loop's. This file does not check labels; tests do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import adapters_fixtures as fixtures
import av
import cv2
import numpy as np
import pandas as pd
from held_out_windows import machine
from machine import processor

from drivesim.datasets.exports.lerobot import export_lerobot
from drivesim.datasets.sources.bdd100k import import_bdd100k
from drivesim.datasets.sources.comma2k19 import import_comma2k19
from drivesim.datasets.sources.kitti import import_kitti
from drivesim.datasets.sources.lerobot import import_lerobot
from drivesim.datasets.sources.nuscenes import import_nuscenes
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.io.atomic import write_json
from drivesim.io.records import DatasetRecords, read_records, write_records
from drivesim.io.video import count_frames, iterate_frames, write_video

EXPORTS = {"lerobot": export_lerobot}
SIZES = {"small, 128x256": (128, 256), "large, 512x1024": (512, 1024)}
IMPORTS = {
    "kitti": (fixtures.kitti, import_kitti), "nuscenes": (fixtures.nuscenes, import_nuscenes),
    "bdd100k": (fixtures.bdd100k, import_bdd100k), "comma2k19": (fixtures.comma2k19, import_comma2k19),
    "lerobot": (fixtures.lerobot, import_lerobot),
}  # fmt: skip
TARGETS = {"export over copy": 0.5, "import over bare": 0.8}


def enlarged(few: Path, root: Path, size: tuple[int, int]) -> Path:
    """The first clips of ``few`` at another picture size, with some grain: drawing them large would take minutes."""
    records = read_records(few)
    clips = records.clips.iloc[:4].assign(height=size[0], width=size[1])
    grain = np.random.default_rng(0).normal(0, 2, (*size, 1)).astype(np.float32)
    for row in clips.itertuples():
        frames = iterate_frames(few / str(row.video), size)
        write_video(root / str(row.video), (np.clip(frame + grain, 0, 255).astype(np.uint8) for frame in frames), float(row.fps))
    assert records.frames is not None
    boxes, rows = (table[table["clip_id"].isin(clips["clip_id"])] for table in (records.boxes, records.frames))
    write_records(root, DatasetRecords(root, clips, boxes, rows, records.header))
    return root


def blown_up(few: Path, root: Path, clips: int) -> Path:
    """A dataset of ``clips`` clips: those of ``few`` again and again, each with a video and rows of its own."""
    records = read_records(few)
    assert records.frames is not None
    parts: dict[str, list[pd.DataFrame]] = {"clips": [], "frames": [], "boxes": []}
    for number in range(clips):
        clip_id = records.clip_ids[number % len(records.clip_ids)]
        name = {"clip_id": f"clip{number:05d}"}
        (root / "videos").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(records.video_path(clip_id), root / "videos" / f"{name['clip_id']}.mp4")
        row = records.clips[records.clips["clip_id"] == clip_id]
        parts["clips"].append(row.assign(**name, video=f"videos/{name['clip_id']}.mp4"))
        parts["frames"].append(records.frames[records.frames["clip_id"] == clip_id].assign(**name))
        parts["boxes"].append(records.boxes[records.boxes["clip_id"] == clip_id].assign(**name))
    tables = {kind: pd.concat(part, ignore_index=True) for kind, part in parts.items()}
    write_records(root, DatasetRecords(root, tables["clips"], tables["boxes"], tables["frames"], records.header))
    return root


def plain_copy(root: Path, out: Path) -> None:
    out.mkdir()
    for path in sorted((root / "videos").iterdir()):
        shutil.copyfile(path, out / path.name)


def rounds_of(plain: Callable[[Path], Any], ours: Callable[[Path], Any], rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds of both, round by round, and the median of their ratios. One of each goes first, unmeasured."""
    seconds = np.zeros((rounds + 1, 2))
    for turn in range(rounds + 1):
        for side, run in enumerate((plain, ours)):
            out = folder / f"side{side}"
            os.sync()  # or one side pays for what the other left to be written
            start = time.perf_counter()
            run(out)
            seconds[turn, side] = time.perf_counter() - start
            shutil.rmtree(out) if out.is_dir() else out.unlink()
    measured = seconds[1:]
    ratios = measured[:, 0] / measured[:, 1]
    plain_s, ours_s = (np.round(measured[:, side], 3).tolist() for side in (0, 1))
    return {"plain_s": plain_s, "ours_s": ours_s, "ratios": np.round(ratios, 3).tolist(), "ratio": round(float(np.median(ratios)), 3)}


def exports(clips: int, rounds: int, folder: Path) -> dict[str, Any]:
    found = {}
    for name, (height, width) in SIZES.items():
        drawn = folder / "drawn"
        if not drawn.exists():
            make_road_world(drawn, clips=8, seconds=16, height=128, width=256)
        few = drawn if height == 128 else enlarged(drawn, folder / "few", (height, width))
        root = blown_up(few, folder / f"many{height}", clips)
        about = {"clips": clips, "video_mb": sum(path.stat().st_size for path in (root / "videos").iterdir()) / 1e6}
        about["boxes"] = len(read_records(root).boxes)
        for form, export in EXPORTS.items():
            found[f"{form}, {name}"] = about | rounds_of(partial(plain_copy, root), partial(export, root), rounds, folder)
        shutil.rmtree(root)
    return found


def bare(sources: list[list[Path]], fps: float, out: Path) -> None:
    """Every source (a video, or pictures in order) decoded and encoded as drivesim's own videos are."""
    out.mkdir()
    for number, paths in enumerate(sources):
        with av.open(str(out / f"{number}.mp4"), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = None
            for index, frame in enumerate(_decoded(paths)):
                if stream is None:
                    stream = _h264(container, Fraction(fps).limit_denominator(1000), frame.width // 2 * 2, frame.height // 2 * 2)
                frame.pts, frame.time_base = index, 1 / Fraction(fps).limit_denominator(1000)
                container.mux(stream.encode(frame))
            assert stream is not None
            container.mux(stream.encode(None))


def _decoded(paths: list[Path]) -> Any:
    if paths[0].suffix in (".png", ".jpg"):
        for path in paths:
            picture = cv2.imread(str(path))
            assert picture is not None
            even = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
            yield av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="bgr24")
        return
    with av.open(str(paths[0])) as container:
        container.streams.video[0].thread_type = "AUTO"
        yield from container.decode(video=0)


def _h264(container: Any, rate: Fraction, width: int, height: int) -> Any:
    threads = 1 if height * width <= 256 * 512 else 4
    options = {"preset": "veryfast", "crf": "18", "bf": "0", "sc_threshold": "0", "threads": str(threads)}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.gop_size, stream.codec_context.time_base = max(1, round(rate)), 1 / rate
    return stream


def imports(frames: int, rounds: int, folder: Path, names: list[str]) -> dict[str, Any]:
    found = {}
    for name in names:
        make, adapter = IMPORTS[name]
        made = make(folder / name, frames)
        run: Callable[..., Any] = adapter
        result = rounds_of(partial(bare, made.sources, made.fps), partial(run, made.root, progress=False), rounds, folder)
        run(made.root, folder / "once", progress=False)
        held = sum(count_frames(path) for path in (folder / "once" / "videos").iterdir())
        assert held == len(made.sources) * frames, f"{name}: {held} frames came in"
        shutil.rmtree(folder / "once")
        found[name] = {"frames": held, "size": made.size, "fps": made.fps, **result}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=80)
    parser.add_argument("--only", nargs="*", default=["exports", *IMPORTS])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    words = "python benchmarks/adapters.py " + " ".join(word for word in sys.argv[1:])
    about = {**machine(), "processor": processor(), "load": os.getloadavg()[0], "command": words}
    result: dict[str, Any] = json.loads(given.out.read_text()) if given.out and given.out.exists() else {}
    wanted = [name for name in given.only if name in IMPORTS]
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        made = {"export over copy": exports(given.clips, given.rounds, Path(folder))} if "exports" in given.only else {}
        made |= {"import over bare": imports(given.frames, given.rounds, Path(folder), wanted)} if wanted else {}
    for kind, found in made.items():
        result[kind] = {**about, "target": TARGETS[kind], "measured": found}
        for name, row in found.items():
            print(f"{kind}: {name}: {row['ratio']:.2f} (target {TARGETS[kind]}: {'met' if row['ratio'] >= TARGETS[kind] else 'missed'})")
    if given.out:
        write_json(given.out, result)


if __name__ == "__main__":
    main()
