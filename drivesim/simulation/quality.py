"""Which network serves which pass of a rollout, and how it samples there.

``fast`` takes the networks of few calls that a checkpoint holds (``prediction_fast`` and the like) and the plain ones where it holds none,
or where the plain one needs few calls itself, so that nothing is left to be quickened; ``full`` takes the plain ones. What is said here
comes from the names of networks and from model.json; no network is looked into. An entry of model.json under a network's own name says
of it:

    schedule, parameterization   the noise that it has learned; without them the checkpoint's
    calls                        how many it needs; without them it is an ordinary network
    noise                        scale of the noise that sampling begins with (few calls only), 1 where nothing is said
    guided                       false: its teacher was not guided, so guidance is chosen as for an ordinary network (few calls only)
    sampler                      that it was taught for (few calls only), renoise where nothing is said
    opens                        true: it also makes the first frame, in a window of which nothing is known (prediction_fast only), where
                                 there is no image_fast
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from drivesim.diffusion.noise import NoiseSchedule
from drivesim.diffusion.samplers import SAMPLERS
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import FAST, WORSE
from drivesim.models.conditioning import EVERY_LABEL
from drivesim.recipes import build
from drivesim.simulation.fill import RENOISE, Filler, PassSettings
from drivesim.simulation.settings import QUALITIES, RolloutSettings, check_quality

__all__ = ["NETWORK_OF", "Described", "PassNetwork", "pass_networks", "qualities_of", "rollout_settings"]

NETWORK_OF = {"image": "image", "keyframes": "prediction", "interpolation": "interpolation"}
"""Pass -> the plain name of the network that serves it."""
GUIDED = {"guidance": ("keyframes",), "label_guidance": ("image", "keyframes"), "autoguidance": ("image", "keyframes")}
"""Setting -> the passes that it is for."""


class Described(Protocol):
    """A checkpoint, or what one would be: what model.json says, and networks by name."""

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def networks(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class PassNetwork:
    """The network that serves a pass. calls: None = an ordinary network.   scale: see ``Filler``.   sampler: of few calls.   worse: name of
    the network that autoguidance leads away from, None where there is none."""

    name: str
    schedule: NoiseSchedule
    parameterization: str
    calls: int | None = None
    scale: float = 1.0
    sampler: str = RENOISE
    guided: bool = True
    worse: str | None = None

    def filler(self, device: torch.device) -> Filler:
        """The door to the samplers for this network."""
        return Filler(self.schedule, self.parameterization, device, self.scale)

    def settings(self, rollout: RolloutSettings, stage: str) -> PassSettings:
        """How it samples in the pass ``stage``, a name of ``PASSES``; a network of few calls has guidance built in if its teacher had.

        Raises:
            UsageError: several steps of a network that begins without noise.
        """
        plain = rollout.of_pass(stage)
        plain = plain if self.worse else replace(plain, autoguidance=1.0)
        if self.calls is None:
            return plain
        if self.scale != 1 and plain.steps != 1:
            mend = f"rollout.steps_{stage.partition('_')[0]}=1"
            raise UsageError(f"{self.name} begins without noise, so it makes one call, not {plain.steps}: take {mend}")
        few = replace(plain, sampler=self.sampler)
        return replace(few, guidance=1.0, label_guidance=1.0, autoguidance=1.0) if self.guided else few


def pass_networks(model: Mapping[str, Any], names: Collection[str], quality: str) -> dict[str, PassNetwork]:
    """Pass (a key of NETWORK_OF) -> what serves it.

    Args:
        model: what model.json says.   names: of the networks that there are.   quality: one of QUALITIES.

    Raises:
        DrivesimError: model.json says too little of a network, or names one of a kind that is gone.
    """
    there = set(names) if quality == "fast" else set()
    fast = {plain: f"{plain}_fast" for plain in NETWORK_OF.values() if f"{plain}_fast" in there and "calls" not in model.get(plain, {})}
    if "prediction" in fast and model.get("prediction_fast", {}).get("opens"):
        fast.setdefault("image", "prediction_fast")
    serving = {kind: _told(model, fast.get(plain, plain)) for kind, plain in NETWORK_OF.items()}
    return {kind: replace(one, worse=WORSE[one.name] if WORSE.get(one.name) in names else None) for kind, one in serving.items()}


def _told(model: Mapping[str, Any], name: str) -> PassNetwork:
    entry = model.get(name, {})
    if entry.get("known", {}).get("detail") is not None:  # what it answers would be taken for whole frames
        raise DrivesimError(
            f"the network {name} is of a kind that is gone (known.detail in model.json: it makes what a mix of two frames lacks); remove "
            f"{name}.* and train one that moves frames: "
            f"drivesim train experiment={model.get('preset', 'PRESET')}/4_interpolation_frames data=CLIPS out=FOLDER"
        )
    said = {**model, **entry}
    missing = [key for key in ("schedule", "parameterization") if key not in said]
    missing += ["calls"] if name in FAST and "calls" not in entry else []
    if missing:
        raise DrivesimError(f"model.json does not say {', '.join(missing)} of the network {name}; export it again")
    sampler = str(entry.get("sampler", RENOISE))
    if sampler not in (RENOISE, *SAMPLERS):
        raise DrivesimError(f"model.json wants {name} sampled by {sampler!r}, which there is not; update drivesim or export it again")
    return PassNetwork(
        name, build(said["schedule"]), str(said["parameterization"]), entry.get("calls"), float(entry.get("noise", 1.0)),
        sampler, bool(entry.get("guided", True)),
    )  # fmt: skip


def qualities_of(names: Collection[str]) -> tuple[str, ...]:
    """Those of QUALITIES that there are networks of these names for; the first one is taken where nobody asks for one."""
    there = set(names)
    having = {"fast": bool(set(FAST) & there), "full": set(NETWORK_OF.values()) <= there}
    return tuple(quality for quality in QUALITIES if having[quality]) or ("full",)


def rollout_settings(checkpoint: Described, quality: str | None = None, **wishes: Any) -> RolloutSettings:
    """A checkpoint's settings in a quality, with the user's wishes on top.

    Args:
        quality: None = ``fast`` where the checkpoint holds networks of few calls, else ``full``.   wishes: None = no wish.

    Raises:
        UsageError: no such quality, none of few calls in this checkpoint, a wish that its networks cannot fulfil, or whatever
            ``RolloutSettings`` refuses.
        DrivesimError: as from ``pass_networks``.
    """
    offered = qualities_of(list(checkpoint.networks))
    quality = quality or offered[0]
    check_quality(quality)
    if quality == "fast" and "fast" not in offered:
        preset = checkpoint.settings.get("preset", "PRESET")
        raise UsageError(
            f"this checkpoint ({preset}) holds no networks of few calls: leave --quality fast out, or make them with: "
            f"drivesim train experiment={preset}/{FAST['prediction_fast']} data=CLIPS out=FOLDER"
        )
    serving = pass_networks(checkpoint.settings, list(checkpoint.networks), quality)
    few = {kind: network for kind, network in serving.items() if network.calls is not None}
    defaults = dict(checkpoint.settings.get("rollout", {}))
    defaults |= {f"steps_{kind}": network.calls for kind, network in few.items()}
    built_in = {kind for kind, network in few.items() if network.guided}
    defaults |= {name: 1.0 for name, passes in GUIDED.items() if built_in.issuperset(passes)}
    chosen = RolloutSettings.of(defaults, **{**wishes, "quality": quality})
    _check(chosen, serving, wishes)
    return chosen


def _check(chosen: RolloutSettings, serving: Mapping[str, PassNetwork], wishes: Mapping[str, Any]) -> None:
    """Can the networks do what was asked of them?"""
    few = {kind: network for kind, network in serving.items() if network.calls is not None}
    for name, passes in {**GUIDED, **dict.fromkeys(("guided_labels", "guidance_parallel"), GUIDED["label_guidance"])}.items():
        refusing = list(dict.fromkeys(few[kind].name for kind in passes if kind in few and few[kind].guided))
        if refusing and wishes.get(name) not in (None, 1, EVERY_LABEL):
            raise UsageError(
                f"rollout.{name}={wishes[name]}: guidance was built into {' and '.join(refusing)} by distillation and cannot be chosen; "
                "take --quality full for that"
            )
    if wishes.get("autoguidance") not in (None, 1) and not any(serving[kind].worse for kind in GUIDED["autoguidance"]):
        raise UsageError(
            f"rollout.autoguidance={chosen.autoguidance}: this checkpoint holds no {' or '.join(sorted(WORSE.values()))}, less trained "
            "versions to be led away from; leave it out, or put them there (docs/training-mini.md)"
        )
    for kind, network in few.items():
        network.settings(chosen, kind)
    if len(few) == len(NETWORK_OF) and wishes.get("sampler") is not None:
        raise UsageError(f"rollout.sampler={wishes['sampler']}: networks of few calls have their own; take --quality full for that")
