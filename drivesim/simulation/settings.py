"""How a rollout samples: one checked set of numbers, and what each pass takes from it. Of labels it knows the names,
of networks and time nothing."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from drivesim.diffusion.samplers import SAMPLERS
from drivesim.errors import UsageError
from drivesim.models.conditioning import EVERY_LABEL, guided_names
from drivesim.simulation.accelerate import check_choices
from drivesim.simulation.fill import PassSettings

__all__ = ["QUALITIES", "RolloutSettings", "check_quality", "merged"]

QUALITIES = ("fast", "full")
"""See ``quality``."""


def merged(group: str, known: Sequence[str], defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings ``group.name``: defaults with those overrides on top that are not None.

    Raises:
        UsageError: a name that is not among ``known``, with the nearest one.
    """
    chosen = {**defaults, **{name: value for name, value in overrides.items() if value is not None}}
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {group}.{near[0]}?" if near else f"; there are {', '.join(known)}"
            raise UsageError(f"there is no setting {group}.{name}{hint}")
    return chosen


def check_quality(quality: str) -> None:
    """Raises UsageError unless it is one of QUALITIES."""
    if quality not in QUALITIES:
        raise UsageError(f"quality must be {' or '.join(QUALITIES)}, not {quality!r}")


@dataclass(frozen=True)
class RolloutSettings:
    """How to sample; a checkpoint's model.json holds the defaults under "rollout". guidance: Eq. 4 for keyframes (1 = one call)."""

    quality: str = "full"
    """Which networks serve: see ``quality``."""
    fps: float = 7.5
    sampler: str = "dpmpp_2m"
    steps_image: int = 24
    steps_keyframes: int = 16
    steps_interpolation: int = 4
    guidance: float = 1.0
    label_guidance: float = 1.0
    guided_labels: str = EVERY_LABEL
    """What label guidance is about: all labels, or names joined by "+". Led away from "any time of day", days are too bright and nights too
    dark; boxes need the lead."""
    autoguidance: float = 1.0
    """Scale of guidance away from what a worse version of the network makes of the same (1 = none), where the checkpoint holds one."""
    guidance_parallel: float = 1.0
    """Share kept, 0..1, of what all this guidance would only strengthen (see ``denoiser.pushed``); less is steadier, and hazier."""
    context_level: float = 0.05
    """Noise level (sigma) put on known keyframes: what keeps long rollouts from drifting."""
    interpolation_context_level: float = 0.0
    anchor: float = 0.0
    """Share of a keyframe window's deviation from the look of the first one that is taken back, 0..1: see ``led_back``."""
    shared_noise: float = 0.0
    """Deviation of coarse noise that all frames of a keyframe window begin with beside their own: more makes streets richer, and too much
    wild. See ``with_shared``."""
    batch: int = 8
    """Interpolation windows per network call, and frames that are refined at a time where they are not moved from refined keyframes."""
    decode_frames: int = 32
    """Frames decoded at a time; where keyframes are moved, which are decoded one by one, no more than these are finished at a time."""
    max_boxes: int = 32
    """Boxes per frame that the networks are told of: the largest ones."""
    refine: bool = True
    """Whether frames go through the refiner, where the checkpoint holds one: keyframes alone, where the others are moved from them."""
    refine_looks: int = 1
    """How often it looks; from the second time on it changes only what is in boxes."""
    precision: str = "float32"
    compile: str = "none"
    """See ``accelerate``."""

    def __post_init__(self) -> None:
        check_quality(self.quality)
        if self.sampler not in SAMPLERS:
            raise UsageError(f"rollout.sampler must be one of {', '.join(SAMPLERS)}, not {self.sampler!r}")
        for name in ("steps_image", "steps_keyframes", "steps_interpolation", "batch", "decode_frames", "max_boxes", "refine_looks"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise UsageError(f"rollout.{name} must be a whole number from 1, not {getattr(self, name)}")
        if not isinstance(self.refine, bool):
            raise UsageError(f"rollout.refine must be true or false, not {self.refine}")
        for name in ("context_level", "interpolation_context_level"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"rollout.{name} must lie in 0..1, not {getattr(self, name)}")
        for name in ("guidance", "label_guidance", "autoguidance", "shared_noise"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UsageError(f"rollout.{name} must be a number from 0, not {getattr(self, name)}")
        guided_names(self.guided_labels)
        for name in ("guidance_parallel", "anchor"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"rollout.{name} is a share in 0..1, not {getattr(self, name)}")
        check_choices("rollout", self.precision, self.compile)

    @classmethod
    def of(cls, defaults: Mapping[str, Any], **overrides: Any) -> RolloutSettings:
        """A checkpoint's defaults with the user's wishes on top; None = no wish.

        Raises:
            UsageError: a name that is no setting, with the nearest one, or a value out of range.
        """
        return cls(**merged("rollout", [item.name for item in fields(cls)], defaults, overrides))

    def of_pass(self, stage: str) -> PassSettings:
        """How an ordinary network samples in the pass ``stage``, a name of ``PASSES``; ``PassNetwork.settings`` knows whether it is one."""
        names = ("label_guidance", "guided_labels", "autoguidance", "guidance_parallel", "shared_noise")
        guided: dict[str, Any] = {name: getattr(self, name) for name in names}
        if stage == "image":
            return PassSettings(self.sampler, self.steps_image, **guided)
        if stage == "keyframes":
            return PassSettings(self.sampler, self.steps_keyframes, self.guidance, context_level=self.context_level, **guided)
        return PassSettings(self.sampler, self.steps_interpolation, context_level=self.interpolation_context_level)
