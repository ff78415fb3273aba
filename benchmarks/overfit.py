"""The gate before any long training: one clip learned by heart, through the same commands that train for real.

    python benchmarks/overfit.py --minutes 15
    python benchmarks/overfit.py --data DATASET --clip CLIP_ID --preset mini --minutes 60

The autoencoder must give the clip back at 35 dB or more, and the prediction network, told the first two frames of a window, the true
frames that follow at 28 dB or more. Whoever misses these has a fault in the code, not too little data. Prints Markdown; the exit code
is 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from drivesim.commands.train import run
from drivesim.datasets.clips import ClipDataset, EveryWindow, FrameReader, table_of
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.datasets.windows import WindowSpec
from drivesim.diffusion.frame_mask import first_frames
from drivesim.io.checkpoints import Checkpoint, load_checkpoint
from drivesim.io.records import read_records, write_records
from drivesim.recipes import build
from drivesim.shapes import as_floats, fold_time, unfold_time
from drivesim.simulation.fill import Context, Filler, PassSettings

GATES = {"autoencoder": 35.0, "prediction": 28.0}
SHARES = {"1_autoencoder": 0.35, "2_image": 0.1, "3_prediction": 0.55}
"""Of the minutes. The image network only has to be there: everything trains in the prediction stage."""
BY_HEART = (
    "module.optimization.decay=time", "module.optimization.warmup_steps=20", "module.optimization.weight_decay=0", "module.ema_decay=0.99",
    "datamodule.mirror=0", "datamodule.crop=0", "datamodule.colour=0", "datamodule.speed=0", "datamodule.train_split=null",
    "datamodule.val_split=null", "trainer.max_steps=1000000", "trainer.val_check_interval=100000", "callbacks.last.every_n_steps=100000",
)  # fmt: skip
STAGE_WORDS = {
    "1_autoencoder": ("module.perceptual=null", "module.kl_weight=1e-7"),
    "2_image": (),
    "3_prediction": ("module.frozen=none", "module.label_dropout=0", "module.objective.known_policy.probabilities=[0,0,1]"),
}


def main() -> int:
    arguments = parse()
    with tempfile.TemporaryDirectory() as workplace:
        clip, out = Path(workplace) / "clip", Path(arguments.out or f"{workplace}/out")
        one_clip(arguments.data, arguments.clip, clip)
        for stage, share in SHARES.items():
            words = [f"experiment={arguments.preset}/{stage}", f"data={clip}", f"out={out}", f"max_minutes={share * arguments.minutes}"]
            run([*words, *BY_HEART, *STAGE_WORDS[stage], *arguments.words], multirun=False, show=False)
        found = measure(load_checkpoint(out, need=("autoencoder", "prediction")), clip)
    print(f"One clip learned by heart in {arguments.minutes:g} minutes, preset `{arguments.preset}`:\n")
    print("| part | PSNR | gate | |\n|---|---|---|---|")
    for name, gate in GATES.items():
        print(f"| {name} | {found[name]:.1f} dB | {gate:g} dB | {'reached' if found[name] >= gate else 'MISSED'} |")
    return int(any(found[name] < gate for name, gate in GATES.items()))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default=None, help="clip dataset; default: a clip of the toy road world is drawn")
    parser.add_argument("--clip", default=None, help="clip_id; default: the first")
    parser.add_argument("--preset", default="toy")
    parser.add_argument("--minutes", type=float, default=15.0, help="training time, all stages together")
    parser.add_argument("--out", default=None, help="keep the checkpoint folder here")
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings for every stage")
    return parser.parse_intermixed_args()


def one_clip(data: str | None, clip_id: str | None, out: Path) -> None:
    """A clip dataset that holds one clip of ``data``, or a drawn one."""
    if data is None:
        make_road_world(out, clips=1, seconds=8, fps=7.5, height=32, width=64, seed=3)
        return
    records = read_records(data)
    chosen = clip_id or records.clip_ids[0]
    video = records.video_path(chosen)
    (out / "videos").mkdir(parents=True)
    shutil.copy(video, out / "videos" / video.name)
    parts = {name: table[table["clip_id"] == chosen] for name, table in (("clips", records.clips), ("boxes", records.boxes))}
    parts["clips"] = parts["clips"].assign(video=f"videos/{video.name}")
    frames = None if records.frames is None else records.frames[records.frames["clip_id"] == chosen]
    write_records(out, replace(records, root=out, frames=frames, **parts))


@torch.no_grad()
def measure(checkpoint: Checkpoint, clip: Path) -> dict[str, float]:
    """PSNR in dB, mean over frames, of the clip's windows: reconstructed, and predicted from their first two frames."""
    settings, dataset = checkpoint.settings, ClipDataset(clip)
    autoencoder, network = checkpoint.network("autoencoder"), checkpoint.network("prediction")
    spec = WindowSpec(int(network.frames), settings["height"], settings["width"], (settings["keyframe_fps"],))
    windows = EveryWindow(FrameReader([dataset], spec), table_of([dataset], spec), limit=8)
    filler = Filler(build(settings["schedule"]), settings["parameterization"], device=torch.device("cpu"))
    found: dict[str, list[float]] = {name: [] for name in GATES}
    for number in range(len(windows)):
        sample = windows[number]
        frames = as_floats(sample["frames"])[None]
        latents = unfold_time(autoencoder.encode(fold_time(frames)), frames.shape[1])
        labels = {name: value[None] for name, value in sample["labels"].items()}
        context = Context(latents, first_frames(1, frames.shape[1], 2))
        made = filler(network, "keyframes", [0], [number], latents.shape[1:], labels, PassSettings("ddim", 25), context)
        found["autoencoder"] += psnr(autoencoder.decode(latents), frames)
        found["prediction"] += psnr(autoencoder.decode(made)[:, 2:], frames[:, 2:])
    return {name: float(np.mean(values)) for name, values in found.items()}


def psnr(made: Tensor, frames: Tensor) -> list[float]:
    """Per frame, in dB, of (b, t, 3, H, W) in [-1, 1]."""
    return peak_signal_noise_ratio(made, frames, data_range=(-1.0, 1.0), reduction="none", dim=(2, 3, 4)).flatten().tolist()


if __name__ == "__main__":
    sys.exit(main())
