"""Our video U-Net beside diffusers' two, at equal parameters: speed of a forward pass and of a training step.

    python benchmarks/network.py [--rounds 9] [--train-rounds 5] [--threads N] [--clock wall|cpu] [--out FILE.json]

One window of 8 frames of 16x32 latents, random weights. In every round each network runs once, so that other work on the machine hits all
alike; the median over rounds counts. With ``--clock cpu --threads 1`` the time that other work took does not count at all. Every network
runs in both memory layouts, and the better one counts. FLOPs are those of matrix products and convolutions as they are called, forward
and backward. Shapes, all with one block a level:

    four    channels 1, 2, 4, 4 times the first; diffusers' proportions and its places of attention (every level but the lowest)
    three   1, 2, 3, the proportions of the `mini` preset; places of attention as each library has them
    below   1, 2, 3, attention everywhere below the full resolution, ours and theirs alike

``UNetMotionModel`` has fewer weights at the same widths, so its upper levels are somewhat wider. Targets: at least 1.1 of their better
GFLOP/s, at most 0.8 of their better milliseconds a frame. Prints Markdown and writes JSON; asserts nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNetMotionModel, UNetSpatioTemporalConditionModel, __version__
from machine import describe
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from drivesim.models.unet import ImageUNet
from drivesim.models.video_unet import VideoUNet

FRAMES, CHANNELS, HEIGHT, WIDTH = 8, 8, 16, 32
TOKEN = 64
OURS = {"four": (80, (1, 2, 4, 4), 40), "three": (108, (1, 2, 3), 36), "below": (128, (1, 2, 3), 32)}
"""Base, multipliers, channels of an attention head."""
SPATIO_TEMPORAL = {"four": (64, 128, 256, 256), "three": (96, 192, 288), "below": (96, 192, 288)}
MOTION = {"four": (64, 160, 256, 288), "three": (96, 192, 320), "below": (96, 192, 352)}
"""Widths; heads of 32 channels."""


@dataclass
class Entry:
    """One network, ready to run: ``call`` is a forward pass over one window."""

    network: nn.Module
    call: Callable[[], Tensor]

    @property
    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.network.parameters())

    def forward(self) -> None:
        with torch.no_grad():
            self.call()

    def step(self) -> None:
        """Loss and gradients: what a training step does beside its optimizer, whose cost goes by parameters alone."""
        self.network.zero_grad(set_to_none=True)
        self.call().square().mean().backward()


def video_unet(shape: str) -> Entry:
    """Ours, as the `mini` preset builds it: known frames in their own slots and carried on through the encoder."""
    base, multipliers, head = OURS[shape]
    image = ImageUNet(CHANNELS, base, multipliers, head_channels=head, embedding=4 * base)
    network = VideoUNet(image, CHANNELS, FRAMES, context="carried", head_channels=head, embedding=4 * base)
    x, sigma = torch.randn(1, FRAMES, CHANNELS, HEIGHT, WIDTH), torch.rand(1, FRAMES)
    context = torch.randn(1, FRAMES, CHANNELS + 2, HEIGHT, WIDTH)
    return Entry(network, lambda: network(x, sigma, None, context))


def spatio_temporal(shape: str) -> Entry:
    widths = SPATIO_TEMPORAL[shape]
    network = UNetSpatioTemporalConditionModel(
        in_channels=CHANNELS, out_channels=CHANNELS, num_frames=FRAMES, addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=192, **_common(widths, shape, "SpatioTemporal"),
    )  # fmt: skip
    x, token, ids = torch.randn(1, FRAMES, CHANNELS, HEIGHT, WIDTH), torch.randn(1, 1, TOKEN), torch.rand(1, 3)
    return Entry(network, lambda: network(x, torch.tensor(0.5), token, ids, return_dict=False)[0])


def motion(shape: str) -> Entry:
    widths = MOTION[shape]
    common = _common(widths, shape, "Motion")
    network = UNetMotionModel(
        in_channels=CHANNELS, out_channels=CHANNELS, motion_num_attention_heads=common["num_attention_heads"], **common,
    )  # fmt: skip
    x, token = torch.randn(1, CHANNELS, FRAMES, HEIGHT, WIDTH), torch.randn(FRAMES, 1, TOKEN)
    return Entry(network, lambda: network(x, torch.tensor(500), token, return_dict=False)[0])


def _common(widths: Sequence[int], shape: str, kind: str) -> dict[str, Any]:
    """Widths, heads and block types from the first level to the last and back."""
    rest = ["CrossAttnDown"] * (len(widths) - 1)
    down = ["Down", *rest] if shape == "below" else [*rest, "Down"]
    up = [name.replace("Down", "Up") for name in reversed(down)]
    return dict(
        block_out_channels=tuple(widths), layers_per_block=1, cross_attention_dim=TOKEN,
        num_attention_heads=tuple(width // 32 for width in widths),
        down_block_types=tuple(f"{name}Block{kind}" for name in down), up_block_types=tuple(f"{name}Block{kind}" for name in up),
    )  # fmt: skip


BUILDERS = {"VideoUNet": video_unet, "UNetSpatioTemporalConditionModel": spatio_temporal, "UNetMotionModel": motion}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def measure(shape: str, rounds: int, train_rounds: int, clock: str) -> dict[str, dict[str, Any]]:
    """Name -> parameters, GFLOP a frame, milliseconds a frame and GFLOP/s, forward and training step."""
    entries = {(name, layout): build(shape) for name, build in BUILDERS.items() for layout in LAYOUTS}
    for (_, layout), entry in entries.items():
        lay_out(entry.network, LAYOUTS[layout])
    work = {"forward": (Entry.forward, rounds), "step": (Entry.step, train_rounds)}
    result: dict[str, dict[str, Any]] = {name: {"parameters": entries[name, "contiguous"].parameters} for name in BUILDERS}
    for kind, (run, times) in work.items():
        seconds = interleaved(entries, run, times, clock)
        for name in BUILDERS:
            medians = {layout: statistics.median(seconds[name, layout]) for layout in LAYOUTS}
            layout = min(medians, key=medians.__getitem__)
            flop = count(lambda entry=entries[name, layout], run=run: run(entry))
            result[name][kind] = {
                "layout": layout, "gflop_per_frame": flop / FRAMES / 1e9, "ms_per_frame": medians[layout] / FRAMES * 1e3,
                "gflop_per_s": flop / medians[layout] / 1e9,
                "ms_per_frame_rounds": [value / FRAMES * 1e3 for value in seconds[name, layout]],
            }  # fmt: skip
    return result


def lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    """Weights of two-dimensional convolutions in ``layout``; there is no such choice for the others."""
    for weight in network.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=layout)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def interleaved(
    entries: dict[tuple[str, str], Entry], run: Callable[[Entry], None], rounds: int, clock: str
) -> dict[tuple[str, str], list[float]]:
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in entries}
    for number in range(rounds + 1):
        for key, entry in entries.items():
            begin = CLOCKS[clock]()
            run(entry)
            if number:  # the first round warms up
                seconds[key].append(CLOCKS[clock]() - begin)
            entry.network.zero_grad(set_to_none=True)
    return seconds


def count(work: Callable[[], None]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def ratios(result: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Ours over their better, forward and training step."""
    mine, theirs = result["VideoUNet"], [values for name, values in result.items() if name != "VideoUNet"]
    return {
        kind: {
            "gflop_per_s": mine[kind]["gflop_per_s"] / max(other[kind]["gflop_per_s"] for other in theirs),
            "ms_per_frame": mine[kind]["ms_per_frame"] / min(other[kind]["ms_per_frame"] for other in theirs),
        }
        for kind in ("forward", "step")
    }  # fmt: skip


def table(shapes: dict[str, dict[str, Any]]) -> str:
    head = "| shape | network | parameters | GFLOP a frame | forward: ms a frame | GFLOP/s | training step: ms a frame | GFLOP/s |"
    lines = [head, "|---" * 8 + "|"]
    for shape, found in shapes.items():
        for name, one in found["networks"].items():
            forward, step = one["forward"], one["step"]
            lines.append(
                f"| {shape} | {name} | {one['parameters'] / 1e6:.1f}M | {forward['gflop_per_frame']:.2f} | {forward['ms_per_frame']:.1f} | "
                f"{forward['gflop_per_s']:.0f} | {step['ms_per_frame']:.1f} | {step['gflop_per_s']:.0f} |"
            )
        forward, step = found["ratios"]["forward"], found["ratios"]["step"]
        lines.append(
            f"| {shape} | ours / their better | | | **{forward['ms_per_frame']:.2f}** | **{forward['gflop_per_s']:.2f}** | "
            f"**{step['ms_per_frame']:.2f}** | **{step['gflop_per_s']:.2f}** |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--train-rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="default: as many as there are cores")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: seconds of this process alone; use with --threads 1")
    parser.add_argument("--shapes", nargs="+", choices=tuple(OURS), default=list(OURS))
    parser.add_argument("--out", type=Path, default=None, help="JSON to write")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    shapes = {}
    for shape in given.shapes:
        networks = measure(shape, given.rounds, given.train_rounds, given.clock)
        shapes[shape] = {"networks": networks, "ratios": ratios(networks)}
    about = {"machine": describe(), "date": datetime.date.today().isoformat(), "diffusers": __version__, "clock": given.clock,
             "command": shlex.join(["python", *sys.argv])}  # fmt: skip
    print(f"{about['machine']}, diffusers {__version__}, {about['date']}: `{about['command']}`\n\n{table(shapes)}")
    if given.out:
        given.out.write_text(json.dumps({**about, "shapes": shapes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
