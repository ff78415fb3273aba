"""Enlarging held-out clips four times from true small frames: bicubic, image upsampler, video upsampler (Video LDM, section 3.4).

    python benchmarks/upsampler.py --checkpoint RUN --high SIM_512X1024 --low SIM --networks upsampler_image:8 upsampler:8 \\
        upsampler_fast:1 --out upsampler.json

``--low``: a dataset with the same clips (by name) at a quarter of the size; without it, area averages of the large frames. NAME:STEPS is a
network of the checkpoint and its sampling steps. Two views of the same windows are judged, since the offline network looks at 128x256:

    whole   the frame averaged down to 128x256: sees structure, colour and motion; most of what upsampling adds averages out
    crops   pieces of 128x256 at native resolution, every second field of a 4x4 board: sees sharpness and texture, not the scene

Neither is a frozen protocol, hence ``fvd_lite0_whole``, ``fvd_lite0_crops``. Pieces of a window are no independent windows: intervals are
over drives, and few drives make them rough. Other rates than 7.5 fps are measured in pixels only (the clip features are made for 7.5).
Window borders and tile seams (``borders.py``, target at most 1.05) stand beside bicubic frames at the same places, which have no borders:
what these say is chance. GFLOP and seconds a frame count the frames that neighbouring windows share twice, as they are computed twice.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from borders import AXES, Border, border_steps
from fidelity import Lite0Panel, Side, as_json, differences, fidelity_table, judged, metrics_of, weak
from held_out_windows import machine, without_nan
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from drivesim.errors import UsageError
from drivesim.eval.codec import resized
from drivesim.eval.footage import Footage, Shot
from drivesim.eval.intervals import Interval
from drivesim.eval.networks.lite0 import CLIP_FRAMES, HEIGHT, WIDTH
from drivesim.eval.protocols import protocol_named
from drivesim.io.checkpoints import load_checkpoint
from drivesim.simulation.simulator import pick_device
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings

FACTOR, CLIP_FPS = 4, 7.5
MINIMUM = protocol_named("fvd_lite0_256x16_lossless").minimum
RECORDED, BICUBIC = "recorded", "bicubic"
Enlarge = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Candidate:
    """One way to enlarge: uint8 (n, h, w, 3) -> (n, 4 h, 4 w, 3). frames, overlap: of its windows in time; tile, tile_overlap: in small
    pixels, 0 = whole frames."""

    enlarge: Enlarge
    frames: int = 1
    overlap: int = 0
    tile: int = 0
    tile_overlap: int = 0

    @property
    def needs(self) -> int:
        """Frames of whole windows that hold CLIP_FRAMES frames."""
        stride = self.frames - self.overlap
        return math.ceil((CLIP_FRAMES - self.overlap) / stride) * stride + self.overlap

    def borders(self, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Name of AXES -> which steps of large frames (n, H, W, 3) are borders."""
        tile, overlap = self.tile * FACTOR, self.tile_overlap * FACTOR
        sizes = {"time": (self.frames if self.frames > 1 else 0, self.overlap), "rows": (tile, overlap), "columns": (tile, overlap)}
        return {name: border_steps(shape[axis], *sizes[name]) for name, axis in AXES.items()}


@dataclass
class Found:
    """What is known of one candidate."""

    side: Side = field(default_factory=Side)
    borders: dict[str, Border] = field(default_factory=lambda: {name: Border() for name in AXES})
    plain: dict[str, Border] = field(default_factory=lambda: {name: Border() for name in AXES})
    """The same of bicubic frames at these borders: they have none, so this is what the measure says where nothing shows."""
    seconds: list[float] = field(default_factory=list)
    """A window's seconds over the frames it adds."""
    gflop: float = 0.0


def bicubic(frames: np.ndarray) -> np.ndarray:
    """What needs no network."""
    size = (frames.shape[2] * FACTOR, frames.shape[1] * FACTOR)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in frames])


def candidates(args: argparse.Namespace) -> dict[str, Candidate]:
    """Bicubic and the networks asked for, by their names on the command line."""
    found = {BICUBIC: Candidate(bicubic)}
    checkpoint = load_checkpoint(args.checkpoint, need=()) if args.networks else None
    for told in args.networks:
        name, _, steps = told.partition(":")
        assert checkpoint is not None
        wished = {"network": name, "tile": args.tile, "steps": int(steps) if steps else None, "level": args.level}
        shipped = dict(checkpoint.settings.get("upsampling", {}))
        settings = UpsamplerSettings(**{**shipped, **{key: value for key, value in wished.items() if value is not None}})
        upsampler = Upsampler(checkpoint, settings, pick_device(args.device))
        if upsampler.factor != FACTOR:
            raise UsageError(f"{name} enlarges {upsampler.factor} times, this table is about {FACTOR} times")
        tile, overlap = (-(-size // upsampler.grain) * upsampler.grain for size in (settings.tile, settings.tile_overlap))
        found[told] = Candidate(streamed(upsampler), upsampler.frames, upsampler.overlap, tile, overlap)
    return found


def streamed(upsampler: Upsampler) -> Enlarge:
    return lambda frames: np.stack(list(upsampler.stream(iter([frames]))))


def windows(args: argparse.Namespace, frames: int) -> Iterator[tuple[Shot, np.ndarray, np.ndarray]]:
    """(shot, small frames, large frames) of disjoint windows, spread over drives."""
    high = Footage.open([args.high], args.split)
    low = {clip.clip_id: clip for clip in Footage.open([args.low]).clips} if args.low else {}
    shots = high.shots(frames, args.fps, limit=args.windows)
    if not shots:
        raise UsageError(f"{high.name}: no window of {frames} frames at {args.fps:g} fps")
    for shot in tqdm(shots, unit="window", disable=None):
        large = shot.read()
        size = (large.shape[1] // FACTOR, large.shape[2] // FACTOR)
        if not low:
            yield shot, resized(large, size), large
            continue
        if shot.clip_id not in low:
            raise UsageError(f"{args.low}: holds no clip {shot.clip_id}; leave --low out to average the large frames")
        clip = low[shot.clip_id]
        small = clip.read(shot.first_frame + round(clip.fps / shot.fps) * np.arange(frames))
        if small.shape[1:3] != size:
            raise UsageError(f"{args.low}: {shot.clip_id} is {small.shape[1]}x{small.shape[2]}, a quarter would be {size[0]}x{size[1]}")
        yield shot, small, large


def crops(frames: np.ndarray) -> list[np.ndarray]:
    """(n, H, W, 3) -> every second field of a board of 128x256 at native resolution, (n, 128, 256, 3) each."""
    rows, columns = frames.shape[1] // HEIGHT, frames.shape[2] // WIDTH
    places = [(row, column) for row in range(rows) for column in range(columns) if (row + column) % 2 == 0]
    return [frames[:, y * HEIGHT : (y + 1) * HEIGHT, x * WIDTH : (x + 1) * WIDTH] for y, x in places]


def measured(ways: dict[str, Candidate], args: argparse.Namespace) -> dict[str, Found]:
    """Everything, window by window; ``recorded`` among it."""
    found = {name: Found() for name in (RECORDED, *ways)}
    panel = Lite0Panel() if args.fps == CLIP_FPS else None
    for shot, small, large in windows(args, max(way.needs for way in ways.values())):
        see(found[RECORDED], large, None, shot.drive, panel)
        for name, way in ways.items():
            made = timed(found[name], way, small[: way.needs])
            true = large[: len(made)]
            see(found[name], made, true, shot.drive, panel)
            for axis, at in way.borders(made.shape).items():
                if at.any():
                    found[name].borders[axis].see(made, true, AXES[axis], at, shot.drive)
                    found[name].plain[axis].see(bicubic(small[: way.needs]), true, AXES[axis], at, shot.drive)
    return found


def timed(found: Found, way: Candidate, small: np.ndarray) -> np.ndarray:
    """Enlarge; the first time, count what one window costs."""
    stride = way.frames - way.overlap
    if not found.seconds:
        with FlopCounterMode(display=False) as counter:
            way.enlarge(small[: way.frames])
        found.gflop = counter.get_total_flops() / 1e9 / stride
    began = time.perf_counter()
    made = way.enlarge(small)
    found.seconds.append((time.perf_counter() - began) / (len(small) - way.overlap))
    return made


def see(found: Found, frames: np.ndarray, true: np.ndarray | None, drive: str, panel: Lite0Panel | None) -> None:
    """Judge the first CLIP_FRAMES frames of a window."""
    shown = frames[:CLIP_FRAMES]
    found.side.see_pixels(shown, None if true is None else true[:CLIP_FRAMES], drive)
    if panel is not None:
        panel.see(found.side, shown, drive, "whole")
        for piece in crops(shown):
            panel.see(found.side, np.ascontiguousarray(piece), drive, "crops")


def tables(found: dict[str, Found], resamples: int) -> dict[str, dict[str, Interval]]:
    """Row -> metric -> interval; each candidate also beside the one before it."""
    recorded, names = found[RECORDED].side, [name for name in found if name != RECORDED]
    rows = {RECORDED: {"flicker": judged(Side(flicker=recorded["flicker"]), recorded, resamples)["flicker"]}}
    rows |= {name: judged(found[name].side, recorded, resamples) for name in names}
    for before, after in pairwise(names):
        rows[f"{after} - {before}"] = differences(found[after].side, found[before].side, recorded, resamples)
    return rows


def border_rows(found: dict[str, Found], resamples: int) -> dict[str, dict[str, Interval]]:
    """Candidate -> "time", "time / recorded", ... -> ratio of steps at borders to steps inside."""
    rows: dict[str, dict[str, Interval]] = {}
    for name, one in found.items():
        for title, borders in ((name, one.borders), (f"{BICUBIC} at the borders of {name}", one.plain)):
            for axis, border in borders.items():
                if border.drives:
                    rows.setdefault(title, {})[axis] = border.ratio(False, resamples)
                    rows[title][f"{axis} / recorded"] = border.ratio(True, resamples)
    return rows


def cost_table(found: dict[str, Found]) -> str:
    lines = ["| frames | GFLOP a frame | seconds a frame |", "|---|---|---|"]
    lines += [f"| {name} | {one.gflop:.1f} | {np.median(one.seconds):.3f} |" for name, one in found.items() if one.seconds]
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="mini", help="folder that holds the networks")
    parser.add_argument("--networks", nargs="*", default=[], help="NAME or NAME:STEPS, in the order of the table; default: bicubic alone")
    parser.add_argument("--high", type=Path, required=True, help="clip dataset of large frames")
    parser.add_argument("--low", type=Path, help="clip dataset with the same clips at a quarter of the size")
    parser.add_argument("--split", default="test")
    parser.add_argument("--fps", type=float, default=CLIP_FPS)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--tile", type=int, help="size of tiles in small pixels, to see their seams; default: the checkpoint's")
    parser.add_argument("--level", type=float, help="noise on the small frames; default: the checkpoint's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resamples", type=int, default=300, help="of the intervals")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    args = parsed()
    ways = candidates(args)
    found = measured(ways, args)
    rows, seams = tables(found, args.resamples), border_rows(found, args.resamples)
    recorded, told = found[RECORDED].side, machine()
    number, marks = len(recorded["flicker"].values), weak(recorded, MINIMUM)
    print(f"{told['machine']}, {told['date']}, {number} windows of {args.high.name} {args.split} at {args.fps:g} fps\n")
    print(fidelity_table(rows, metrics_of(one.side for one in found.values())))
    if seams:
        columns = list(dict.fromkeys(name for row in seams.values() for name in row))
        print(f"\nSteps at borders over steps inside:\n\n{fidelity_table(seams, columns)}")
    print(f"\n{cost_table(found)}\n" + "".join(f"\n- {mark}" for mark in marks))
    if args.out:
        content: dict[str, Any] = {
            **told, "device": args.device, "high": args.high.name, "low": args.low and args.low.name, "split": args.split, "fps": args.fps,
            "windows": number, "marks": marks, "rows": as_json(rows), "borders": as_json(seams),
            "cost": {name: {"gflop": one.gflop, "seconds": one.seconds} for name, one in found.items()},
            "ways": {name: {key: value for key, value in asdict(way).items() if key != "enlarge"} for name, way in ways.items()},
        }  # fmt: skip
        if args.networks:
            content["checkpoint"] = load_checkpoint(args.checkpoint, need=()).hash
        args.out.write_text(json.dumps(without_nan(content), indent=1))


if __name__ == "__main__":
    main()
