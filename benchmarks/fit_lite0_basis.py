"""Fit the frozen basis of the offline judge (``drivesim.eval.networks.lite0``) on train splits, once; every later number rests on the file.

    python benchmarks/fit_lite0_basis.py SIM REAL --out eval/networks/lite0_basis.safetensors

Principal components of every train frame (at the stride nearest 7.5 fps) of all datasets given, each dataset with the same weight however
many frames it has: a basis of simulated frames alone keeps less than half of what differs between real ones. What needs many clips of one
frame rate comes from the first dataset alone: the planes that tell forwards from backwards, mean and deviation of the clip summary. The
same frames give the same file; beside it a card (JSON) says what it was fitted on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from drivesim.datasets.clips import ClipDataset
from drivesim.eval.networks.lite0 import CLIP_FRAMES, FRAME_FEATURES, PAIRS, TRACK, Lite0, clip_summary, lite0_weights

FPS = 7.5


@dataclass(frozen=True)
class Raw:
    """Raw features of a dataset's train frames: pooled (n, 1280), grid (n, 320), and the clip each frame is of, int64 (n,)."""

    name: str
    clips: int
    pooled: Tensor
    grid: Tensor
    clip: Tensor


def raw_features(root: Path, split: str = "train") -> Raw:
    """Every frame of a split, at each clip's whole-number stride nearest to 7.5 fps."""
    network, dataset = Lite0(), ClipDataset(root, split)
    rows: list[tuple[Tensor, Tensor]] = []
    for clip in range(len(dataset)):
        stride = max(1, round(dataset.frame_rates[clip] / FPS))
        frames = dataset.frames(clip, np.arange(0, dataset.lengths[clip], stride))
        rows.append(network(torch.from_numpy(frames).permute(0, 3, 1, 2)))
    counts = torch.tensor([len(pooled) for pooled, _ in rows])
    clip = torch.arange(len(rows)).repeat_interleave(counts)
    return Raw(dataset.name, len(rows), torch.cat([pooled for pooled, _ in rows]), torch.cat([grid for _, grid in rows]), clip)


def components(parts: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Mean (d,) and principal components (count, d) of several sets of rows, each set with the same weight; float64.

    Rows are scaled as a whole so that projections have mean square 1 a component. The largest entry of each is positive.
    """
    mean = torch.stack([part.double().mean(0) for part in parts]).mean(0)
    centred = [part.double() - mean for part in parts]
    covariance = torch.stack([part.T @ part / len(part) for part in centred]).mean(0)
    values, vectors = torch.linalg.eigh(covariance)
    basis = vectors.T.flip(0)[:count]
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return mean, basis * largest.sign() / values.flip(0)[:count].mean().sqrt()


def windows(track: Tensor, clip: Tensor) -> Tensor:
    """Rows (n, d) -> (b, 16, d): disjoint windows of each clip."""
    parts = [track[clip == number] for number in clip.unique()]
    return torch.cat([part[: len(part) // CLIP_FRAMES * CLIP_FRAMES].unflatten(0, (-1, CLIP_FRAMES)) for part in parts])


def planes(clips: Tensor) -> Tensor:
    """Windows (b, t, d) -> (2 p, d): rows j and p + j span the plane in which the windows turn j-th most steadily, always the same way.

    The covariance of a frame with the next one, each window about its own mean and divided by its mean square; its antisymmetric part K is
    what changes sign when time does. i K is Hermitian, its eigenvectors u + i v are planes of K. As a whole scaled to mean square 1.
    """
    about = clips.double() - clips.double().mean(1, keepdim=True)
    energy = about.square().mean((1, 2), keepdim=True).clamp_min(1e-9)
    step = (about[:, :-1] / energy).flatten(0, 1).T @ about[:, 1:].flatten(0, 1) / (len(clips) * (clips.shape[1] - 1))
    values, vectors = torch.linalg.eigh(1j * (step - step.T))
    first = vectors[:, values.argsort(descending=True)[:PAIRS]].T
    # an eigenvector may be turned by any phase, which turns its plane in itself; the largest entry is made real, so files are the same
    largest = first.gather(1, first.abs().argmax(1, keepdim=True))
    first = first * (largest.abs() / largest)
    rows = torch.cat([first.imag, first.real])
    return rows / (about @ rows.T).square().mean().sqrt()


def fitted(raws: Sequence[Raw]) -> dict[str, Tensor]:
    """All tensors of the basis; see ``drivesim.eval.networks.lite0.SHAPES``."""
    pooled_mean, pooled = components([raw.pooled for raw in raws], FRAME_FEATURES)
    grid_mean, grid = components([raw.grid for raw in raws], TRACK)
    first = raws[0]
    squares = torch.stack([((raw.pooled - pooled_mean) @ pooled[:TRACK].T).square().mean() for raw in raws])
    scale = squares.mean().rsqrt()
    centred = first.grid - grid_mean
    pairs = planes(windows(centred, first.clip))
    z = (first.pooled - pooled_mean) @ pooled[:TRACK].T * scale
    summary = clip_summary(windows(torch.cat([z, centred @ grid.T, centred @ pairs.T], 1), first.clip))
    tensors = {
        "pooled_mean": pooled_mean, "pooled_components": pooled, "grid_mean": grid_mean, "grid_components": grid,
        "pair_components": pairs, "track_scale": scale.reshape(1), "clip_mean": summary.mean(0), "clip_scale": summary.std(0),
    }  # fmt: skip
    return {name: values.float().contiguous() for name, values in tensors.items()}


def kept(raw: Raw, basis: dict[str, Tensor]) -> dict[str, float]:
    """Share of a dataset's own variance that the components keep."""

    def share(rows: Tensor, components: Tensor) -> float:
        centred = rows - rows.mean(0)
        directions = components / components.norm(dim=1, keepdim=True)
        return round(float((centred @ directions.T).square().sum() / centred.square().sum()), 3)

    return {
        "pooled, 64": share(raw.pooled, basis["pooled_components"]), "pooled, 16": share(raw.pooled, basis["pooled_components"][:TRACK]),
        "grid, 16": share(raw.grid, basis["grid_components"]),
    }  # fmt: skip


def card(raws: Sequence[Raw], basis: dict[str, Tensor], out: Path) -> dict[str, object]:
    fitted_on = [
        {"dataset": raw.name, "split": "train", "clips": raw.clips, "frames": len(raw.clip), "variance_kept": kept(raw, basis)}
        for raw in raws
    ]
    return {
        "what": "principal components and scale of the offline feature networks lite0-frames and lite0-clips",
        "fitted_on": fitted_on,
        "clip_summary_of": {"dataset": raws[0].name, "windows": int(sum(n // CLIP_FRAMES for n in raws[0].clip.bincount().tolist()))},
        "network": {"file": lite0_weights().name, "sha256": hashlib.sha256(lite0_weights().read_bytes()).hexdigest()},
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "command": f"python benchmarks/fit_lite0_basis.py {' '.join(raw.name for raw in raws)} --out eval/{out.name}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path, help="clip datasets; the first one gives the scale of the clip summary")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    raws = [raw_features(root) for root in arguments.data]
    basis = fitted(raws)
    save_file(basis, arguments.out)
    arguments.out.with_suffix(".json").write_text(json.dumps(card(raws, basis, arguments.out), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
