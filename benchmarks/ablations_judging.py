"""Measuring for ``ablations.py``: what was trained, against held-out clips at the same small size.

Video networks, decoders and upsamplers are judged by the features of the frozen eval package, clips of 16 frames at 7.5 fps and every
eighth of their frames. Their size, their number and the missing codec make these no protocol of that package, so they have names of their
own (``metric_names``). Frechet distances grow as the number of windows falls, alike for all that see equally many; kernel distances do
not. This file does not know how anything was trained.

Legend: B windows   T frames   C channels   H, W height and width
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablations_samples import ap50, made_frames
from ablations_variants import CONDITIONS, CONTEXT, FPS, FRAMES, HEIGHT, Condition
from fidelity import Lite0Panel, Side, psnr
from held_out_windows import drive_of
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate
from torch.utils.data import DataLoader

from drivesim.datasets.clips import ClipDataset, EveryWindow, FrameReader, table_of
from drivesim.datasets.windows import WindowSpec
from drivesim.diffusion.denoiser import window_denoiser
from drivesim.diffusion.frame_mask import Known, first_frames
from drivesim.diffusion.noise import gaussian
from drivesim.diffusion.samplers import SAMPLERS
from drivesim.errors import UsageError
from drivesim.eval.boxes import average_precision, match
from drivesim.eval.footage import Footage
from drivesim.eval.frechet import frechet_distance
from drivesim.eval.kernel import kernel_distance
from drivesim.eval.label_fidelity import Judge as Detector
from drivesim.eval.label_fidelity import look, reconstruction
from drivesim.io.checkpoints import Checkpoint, load_checkpoint
from drivesim.recipes import build
from drivesim.shapes import as_bytes, as_floats, fold_time, unfold_time
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings
from drivesim.training.stage_module import generator_for

__all__ = ["Bench", "metric_names"]

CLIP = FRAMES - CONTEXT
TURNS = max(condition.turns for condition in CONDITIONS.values())
SPAN = CONTEXT + CLIP * TURNS
"""Frames of the windows that video networks are asked for, long enough for the longest; so all are asked for the same."""
BATCH = 8
STEPS, UPSAMPLER_STEPS, UPSAMPLER_LEVEL, UPSAMPLER_FACTOR = 8, 4, 0.01, 4
"""Network calls of DPM-Solver++ for a window, of DDIM for an enlarged one, the noise on the small frames of the latter, and how
much smaller these are."""
DETECTED, APART = 300, 4
"""Frames that the detector is shown, at most; samples are of frames so far apart."""
Windows = list[tuple[np.ndarray, dict[str, Tensor], str]]
"""(frames uint8 (T, 3, H, W), labels (T, ...), drive) each."""


def metric_names(windows: int, height: int, width: int) -> dict[str, str]:
    """Short name -> what it is, with everything that decides its size."""
    size = f"{height}x{width}_lossless"
    return {
        "fvd": f"fvd_lite0_{windows}x{CLIP}_{size}", "fd": f"fd_lite0_{2 * windows}_{size}",
        "kvd": f"kernel_lite0_clips_{windows}x{CLIP}_{size}", "kd": f"kernel_lite0_frames_{2 * windows}_{size}",
    }  # fmt: skip


class Bench:
    """Held-out clips, shown to anything. data: clip datasets of one kind.   windows: of each measure, at most."""

    def __init__(self, data: Sequence[Path], split: str, windows: int) -> None:
        self.data, self.split, self.windows, self.panel = tuple(data), split, windows, Lite0Panel()
        self._spans: dict[tuple[int, int], Windows] = {}
        self._true: dict[tuple[int, int, int], Side] = {}
        self._recorded_ap50: float | None = None

    def spans(self, frames: int, height: int) -> Windows:
        """Disjoint windows, evenly spread over clips; frames twice as wide as high, half as many windows of large ones.

        Raises:
            UsageError: no clip holds one.
        """
        if (frames, height) not in self._spans:
            self._spans[frames, height] = self._read(WindowSpec(frames, height, 2 * height, (FPS,)), self.windows * HEIGHT // height)
        return self._spans[frames, height]

    def _read(self, spec: WindowSpec, limit: int) -> Windows:
        datasets = [ClipDataset(root, self.split) for root in self.data]
        shown = EveryWindow(FrameReader(datasets, spec), table_of(datasets, spec), limit)
        if not len(shown):
            places = ", ".join(map(str, self.data))
            raise UsageError(f"no clip of split {self.split!r} in {places} holds {spec.frames} frames at {FPS:g} fps")
        drives = [drive_of(datasets[window.dataset], window.clip) for window in shown.windows]
        samples: Iterator[dict[str, Any]] = iter(DataLoader(shown, batch_size=None))
        return [(sample["frames"].numpy(), sample["labels"], drive) for sample, drive in zip(samples, drives, strict=True)]

    def distances(self, made: Sequence[np.ndarray], frames: int, height: int, first: int = 0) -> dict[str, float]:
        """Of made clips, uint8 (16, 3, H, W), from what was recorded from frame ``first`` of the spans on: of clips (fvd, kvd), of frames
        (fd, kd)."""
        spans, key = self.spans(frames, height), (frames, height, first)
        if key not in self._true:
            self._true[key] = self._side([recorded[first : first + CLIP] for recorded, *_ in spans], spans)
        side, found = self._side(made, spans), dict[str, float]()
        for short, kernel, name in (("fvd", "kvd", "fvd_lite0_small"), ("fd", "kd", "fd_lite0_small")):
            rows = side[name].array(), self._true[key][name].array()
            found |= {short: frechet_distance(*rows), kernel: kernel_distance(*rows)}
        return found

    def _side(self, clips: Sequence[np.ndarray], spans: Windows) -> Side:
        side = Side()
        for clip, (*_, drive) in zip(clips, spans, strict=True):
            self.panel.see(side, np.ascontiguousarray(clip.transpose(0, 2, 3, 1)), drive, "small")
        return side

    # what is measured

    @torch.inference_mode()
    def video(self, folder: Path, conditions: Mapping[str, Condition], level: float, seed: int) -> dict[str, dict[str, float]]:
        """Windows that a prediction network makes of the labels of recorded ones and of none, one or two of their frames."""
        maker = _Maker(load_checkpoint(folder, need=("autoencoder", "prediction")), level, seed)
        spans = self.spans(SPAN, HEIGHT)
        found = {}
        for name, condition in conditions.items():
            numbers = range(0, len(spans), BATCH)
            made = [clip for number in numbers for clip in maker.windows(condition, number, spans[number : number + BATCH])]
            found[name] = self.distances(made, SPAN, HEIGHT, CONTEXT + CLIP * (condition.turns - 1))
        return found

    @torch.inference_mode()
    def decoder(self, folder: Path) -> dict[str, dict[str, float]]:
        """Recorded windows through the autoencoder."""
        network: Any = load_checkpoint(folder, need=("autoencoder",)).network("autoencoder")

        def through(frames: np.ndarray) -> np.ndarray:
            return as_bytes(network.decode(network.encode(as_floats(torch.from_numpy(frames)))[None])[0]).numpy()

        return {"reconstruction": self._compared(through, HEIGHT)}

    def upsampler(self, folder: Path, network: str | None) -> dict[str, dict[str, float]]:
        """Recorded windows of 128x256, a quarter of their size enlarged by a network, or by bicubic interpolation."""
        settings = UpsamplerSettings(steps=UPSAMPLER_STEPS, level=UPSAMPLER_LEVEL, network=network)
        upsampler = Upsampler(load_checkpoint(folder, need=()), settings) if network else None

        def through(frames: np.ndarray) -> np.ndarray:
            small = avg_pool2d(torch.from_numpy(frames).float(), UPSAMPLER_FACTOR).round()
            if upsampler is None:
                return interpolate(small, frames.shape[-2:], mode="bicubic").round().clamp(0, 255).byte().numpy()
            pieces = iter([small.byte().permute(0, 2, 3, 1).numpy()])
            return np.stack(list(upsampler.stream(pieces))).transpose(0, 3, 1, 2)

        return {"enlarged": self._compared(through, 2 * HEIGHT)}

    def _compared(self, through: Callable[[np.ndarray], np.ndarray], height: int) -> dict[str, float]:
        """Distances and pixels of windows that should come back as they were, uint8 (16, 3, H, W)."""
        true = [frames for frames, *_ in self.spans(CLIP, height)]
        made = [through(frames) for frames in true]
        errors = [psnr(one, other) for pair in zip(made, true, strict=True) for one, other in zip(*pair, strict=True)]
        unsteady = {"flicker": bends(made) / bends(true)}
        return {**self.distances(made, CLIP, height), "psnr_db": float(np.mean(errors)), **unsteady}

    @torch.inference_mode()
    def latents(self, folder: Path, seed: int) -> dict[str, dict[str, float]]:
        """Frames of 128x256 through the autoencoder: PSNR, and what a detector finds in them; what it finds in samples of an image network
        on these latents, told the labels of every fourth frame of the windows."""
        change = reconstruction(load_checkpoint(folder, need=("autoencoder",)))
        frames = [frames[:1].transpose(0, 2, 3, 1) for frames, *_ in self.spans(CLIP, 2 * HEIGHT)]
        errors = [psnr(change(frame), frame) for frame in frames]
        if self._recorded_ap50 is None:
            self._recorded_ap50 = self._ap50(None)
        found = {"psnr_db": float(np.mean(errors)), "ap50": self._ap50(change), "ap50_recorded": self._recorded_ap50}
        spans = self.spans(CLIP, 2 * HEIGHT)
        labels = {name: torch.cat([told[name][::APART] for _, told, _ in spans]) for name in spans[0][1]}
        drives = [drive for frames, _, drive in spans for _ in frames[::APART]]
        recorded = torch.cat([torch.from_numpy(frames[::APART]) for frames, *_ in spans])
        made = made_frames(folder, labels, (2 * HEIGHT, 4 * HEIGHT), seed)
        sampled = {"ap50": ap50(made, labels, drives), "ap50_recorded": ap50(recorded, labels, drives)}
        return {"reconstruction": found, "samples": sampled}

    def _ap50(self, change: Callable[[np.ndarray], np.ndarray] | None) -> float:
        """Of the shipped detector, on frames as they are or changed."""
        seen = look(Footage.open(self.data, self.split), Detector.load(), DETECTED, change=change)
        return average_precision(match(seen.frames)["all"])


class _Maker:
    """A checkpoint's prediction network, asked for windows. Draws follow from the seed and the window's number, whatever is asked."""

    def __init__(self, checkpoint: Checkpoint, level: float, seed: int) -> None:
        self.autoencoder: Any = checkpoint.network("autoencoder")
        self.network: Any = checkpoint.network("prediction")
        self.grid = build(checkpoint.settings["schedule"]).grid(STEPS)
        self.parameterization = checkpoint.settings["parameterization"]
        self.level, self.seed = level, seed

    def windows(self, condition: Condition, number: int, spans: Windows) -> Iterator[np.ndarray]:
        """The last turn's new frames of each span, uint8 (16, 3, H, W). number: of the first span."""
        frames = torch.stack([torch.from_numpy(frames[:CONTEXT]) for frames, *_ in spans])
        known = unfold_time(self.autoencoder.encode(as_floats(fold_time(frames))), CONTEXT)
        count = condition.known
        for turn in range(condition.turns):
            first = CLIP * turn
            labels = {name: torch.stack([told[name][first : first + FRAMES] for _, told, _ in spans]) for name in spans[0][1]}
            made = self._window(known, count, labels, condition.guidance, range(number, number + len(spans)), turn)
            known, count = made[:, -CONTEXT:], CONTEXT
        yield from as_bytes(self.autoencoder.decode(made)[:, CONTEXT:]).numpy()

    def _window(self, first: Tensor, count: int, labels: dict[str, Tensor], guidance: float, numbers: range, turn: int) -> Tensor:
        """(b, 2, c, h, w), of which ``count`` are told -> (b, T, c, h, w)."""
        values = torch.cat([first, first.new_zeros(len(first), FRAMES - CONTEXT, *first.shape[2:])], dim=1)
        noise = [torch.stack([gaussian(values[0], self._draws(number, turn, part)) for number in numbers]) for part in range(2)]
        known = Known(values, first_frames(len(values), FRAMES, count), torch.full((len(values),), self.level), noise[1]) if count else None
        denoiser = window_denoiser(self.network, self.parameterization, labels, known, context_scale=guidance)
        made = SAMPLERS["dpmpp_2m"](denoiser, noise[0], self.grid)
        return made if known is None else known.keep(made)

    def _draws(self, number: int, turn: int, part: int) -> torch.Generator:
        return generator_for(self.seed, "pictures", (number * TURNS + turn) * 2 + part)


def bends(clips: Sequence[np.ndarray]) -> float:
    """Mean distance of frames from the mean of their neighbours, in grey levels; clips uint8 (T, 3, H, W)."""
    return float(np.mean([np.abs(np.diff(clip.astype(np.float32), n=2, axis=0)).mean() / 2 for clip in clips]))
