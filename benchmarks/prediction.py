"""What a preset's rollout would cost on a GPU that is not there: operations per pass, and seconds at a share of a GPU's peak.

Nothing is run: networks are built without content and their operations counted. ``benchmarks/rollout.py --flops`` prints this page. Steps:

    paper   200 / 200 / 50 / 50 for the first frame, keyframes, interpolation and upsampling; guidance 2 on keyframes, which doubles theirs
    few     4 / 4 / 2 / 1 and no guidance: what networks distilled for it would take
"""

from __future__ import annotations

import datetime
from typing import Any

from machine import describe
from parameters import table as parameters
from torch import nn

from drivesim.commands.presets import Untrained, untrained
from drivesim.simulation.cost import Costs
from drivesim.simulation.quality import Described, rollout_settings
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.upsample import UpsamplerSettings

__all__ = ["PEAK", "SHARE", "STEPS", "UPSAMPLING", "page", "settings_of"]

STEPS: dict[str, dict[str, Any]] = {
    "paper": {"steps_image": 200, "steps_keyframes": 200, "steps_interpolation": 50, "guidance": 2.0, "label_guidance": 1.0},
    "few": {"steps_image": 4, "steps_keyframes": 4, "steps_interpolation": 2, "guidance": 1.0, "label_guidance": 1.0},
}
UPSAMPLING: dict[str, dict[str, Any]] = {
    "paper": {"network": "upsampler", "steps": 50}, "few": {"network": "upsampler_fast", "steps": 1},
}  # fmt: skip
PEAK, SHARE = 790e12, 0.4
"""Operations a second that large bfloat16 products are taken to reach on one H200, and the share of it that is counted on."""
PASSES = ("image", "keyframes", "interpolation", "decode", "upsampling")


def settings_of(checkpoint: Described, steps: str | None, quality: str | None = None, **wishes: Any) -> RolloutSettings:
    """A checkpoint's settings, at the paper's or few steps of its plain networks; None = its own, in a quality (None = its own again)."""
    return rollout_settings(checkpoint, "full" if steps else quality, **{**STEPS.get(steps or "", {}), **wishes})


def costs(made: Untrained, steps: str, fps: float, upsampler: nn.Module | None = None) -> Costs:
    enlarging = UpsamplerSettings.of(made.settings.get("upsampling", {}), **UPSAMPLING[steps]) if "upsampler" in made.networks else None
    chosen = {**made.networks, **({UPSAMPLING[steps]["network"]: upsampler} if upsampler else {})}
    return Costs(chosen, made.settings, settings_of(made, steps, fps=fps, precision="bfloat16"), enlarging)


def page(preset: str, minutes: float, fps: float, command: str) -> str:
    """Markdown: weights, operations, predicted seconds."""
    made = untrained(preset)
    found = {steps: costs(made, steps, fps) for steps in STEPS}
    flop = {steps: one.flop(60 * minutes) for steps, one in found.items()}
    small = costs(made, "few", fps, untrained("mini").networks["upsampler_fast"]).flop(60 * minutes)
    height, width = (4 * side for side in found["few"].frame_shape)
    overlap = UpsamplerSettings().overlap
    seconds = {steps: sum(one.values()) / (SHARE * PEAK) for steps, one in flop.items()}
    return f"""# The `{preset}` preset: the paper's sizes

Counted, not measured: no GPU was at hand. {describe()}, {datetime.date.today()}.

Command: `{command}`

## Weights

{parameters(preset, made.stages)}

## Operations

{minutes:g} minutes at {height}x{width} and {fps:g} frames a second. Steps of first frame / keyframes / interpolation / upsampling:
200 / 200 / 50 / 50 with guidance 2 on keyframes in the paper; few = 4 / 4 / 2 / 1 without guidance, as for distilled networks. A
multiplication and an addition are two operations; labels, samplers and encoding are left out. Seconds are a prediction: operations over
{SHARE:.0%} of {PEAK / 1e12:.0f} TFLOP/s.

{_passes(found["few"], flop)}

- At the paper's steps: {_long(seconds["paper"])}, {60 * minutes / seconds["paper"]:.3g} s of video per second.
- At few steps: {_long(seconds["few"])}, {60 * minutes / seconds["few"]:.2g} s of video per second. {_verdict(seconds["few"], 60 * minutes)}
- At few steps with the upsampler of `mini` in place of the paper's: {_long(sum(small.values()) / (SHARE * PEAK))}
  ({small["upsampling"] / 1e15:.2g} PFLOP of upsampling instead of {flop["few"]["upsampling"] / 1e15:.3g}).
- Windows of the upsampler share {overlap} of their 8 frames, so every frame is made {8 / (8 - overlap):.2f} times.
- Calls on latents are short (keyframes: {1e3 * found["few"].keyframes().flop / (SHARE * PEAK):.1f} ms at that rate). Started one by one,
  their kernels take longer to start than to run, which the prediction leaves out; `rollout.compile=reduce-overhead` is there for that.

## Memory

Bytes of tensors alive at once in one network call, weights apart (bfloat16; norms work in float32 and need most of it), and weights:

{_memory(found["few"])}
"""


def _passes(cost: Costs, flop: dict[str, dict[str, float]]) -> str:
    call = {"image": cost.image(), "keyframes": cost.keyframes(), "interpolation": cost.interpolation(), "decode": cost.decode(),
            "upsampling": cost.enlarge(0)}  # fmt: skip
    lines = ["| pass | TFLOP a call | calls, paper | PFLOP | seconds | calls, few | PFLOP | seconds |", "|---" * 8 + "|"]
    for name in PASSES:
        each = [(round(one[name] / call[name].flop), one[name]) for one in flop.values()]
        cells = " | ".join(f"{calls:,} | {total / 1e15:.4g} | {total / (SHARE * PEAK):,.3g}" for calls, total in each)
        lines.append(f"| {name} | {call[name].flop / 1e12:.3g} | {cells} |")
    sums = [sum(one.values()) for one in flop.values()]
    lines.append("| all | | " + " | ".join(f"| {total / 1e15:.4g} | {total / (SHARE * PEAK):,.4g}" for total in sums) + " |")
    return "\n".join(lines)


def _memory(cost: Costs) -> str:
    live = {
        "image, one frame": cost.image().live, f"keyframes, a window of {cost.window}": cost.keyframes().live,
        "interpolation, 8 windows": cost.interpolation_live(8), "decode, 32 frames": cost.decode_live(32),
        "upsampling, a window of 8, whole frames": cost.enlarge(0).live, "upsampling, tiles of 64 small pixels": cost.enlarge(64).live,
    }  # fmt: skip
    lines = ["| | GiB |", "|---|---|", *(f"| {name} | {size / 2**30:.2f} |" for name, size in live.items())]
    return "\n".join([*lines, f"| weights of all networks that a rollout loads | {sum(cost.weights.values()) / 2**30:.2f} |"])


def _long(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds < 6000 else f"{seconds:,.0f} s ({seconds / 3600:.1f} hours)"


def _verdict(seconds: float, target: float) -> str:
    if seconds <= target:
        return "That is within the aim of real time."
    return f"The aim of real time ({target:,.0f} s) is missed by a factor of {seconds / target:.1f}."
