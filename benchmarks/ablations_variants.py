"""What is compared in ``ablations.py``: for every variant the training stage it runs, the settings that make it differ, how it is asked.

Settings are words of ``drivesim train``; stages are the committed ones of the ``mini`` preset, made small. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CONDITIONS", "CONTEXT", "FPS", "FRAMES", "HEIGHT", "SHARED", "STAGES", "VARIANTS", "WIDTH", "Condition", "Plan", "Variant"]

HEIGHT, WIDTH, FPS = 64, 128, 7.5
CONTEXT, FRAMES = 2, 18
"""Known frames at most, and frames of a window: what is left are 16, as many as the judge of clips looks at."""
UNET, TRAINED = "drivesim.models.unet.ImageUNet", "drivesim.training.export.trained_network"
LATENT: dict[str, Any] = {"base": 32, "multipliers": [1, 2], "blocks": 1, "attention": [2], "head_channels": 16, "embedding": 128}
PIXEL: dict[str, Any] = {"base": 16, "multipliers": [1, 2, 4], "blocks": 1, "attention": [4], "head_channels": 16, "embedding": 128}
"""The image network on latents; on pixels over cells of 4x4: narrower where it is finer, as many weights, 1.6 times the operations."""
ATTENTION = ["down.2.attention", "middle.0.attention", "up.0.attention", "up.1.attention"]
RESIDUAL = [f"{place}.residual" for place in ("down.0", "down.2", "middle.0", "middle.1", "up.0", "up.1", "up.3", "up.4")]
"""Places of the image network on latents where temporal layers may stand."""


@dataclass(frozen=True)
class Plan:
    """steps: of the optimiser for what is compared. Stages that variants share get multiples of it."""

    steps: int = 240

    def of(self, stage: str, shared: bool) -> int:
        """Steps of a stage."""
        return self.steps * {"1_autoencoder": 2, "2_image": 3, "6_upsampler_image": 2}.get(stage, 1) if shared else self.steps


@dataclass(frozen=True)
class Condition:
    """How a trained network is asked. known: true frames it is given.   guidance: scale of Eq. 4.   turns: windows of 16 frames made one
    after the other, each from the last frames of the one before; the last one is judged."""

    known: int = CONTEXT
    guidance: float = 1.0
    turns: int = 1


CONDITIONS = {
    "2 frames": Condition(), "0 frames": Condition(0), "1 frame": Condition(1), "guidance 2": Condition(guidance=2.0),
    "third window": Condition(turns=3),
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One thing that is trained and measured.

    kind: video, decoder, upsampler or latents: what is measured.   stage: its training stage, None = nothing of its own is trained.
    words: settings that make it differ.   shared: folder of SHARED whose networks it begins with, None = none.   without: stages of it
    that it does not use.   conditions: how a video network is asked; the noise on its known frames has then ``level``.   image: settings
    of an image network that is trained on the autoencoder's latents afterwards, none = there is none.
    """

    about: str
    kind: str
    stage: str | None
    words: tuple[str, ...] = ()
    shared: str | None = "latent"
    without: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ("2 frames", "0 frames")
    level: float = 0.05
    image: tuple[str, ...] = ()


def settings(prefix: str, values: Mapping[str, object]) -> tuple[str, ...]:
    """``prefix.name=value`` for every name."""
    return tuple(f"{prefix}.{name}={str(value).replace(' ', '')}" for name, value in values.items())


def node(target: str, **values: object) -> str:
    """A configuration node as Hydra reads it on a command line."""
    return "{" + ", ".join(f"{name}: {str(value).replace(chr(39), '')}" for name, value in {"_target_": target, **values}.items()) + "}"


def _video(about: str, *words: str, **more: Any) -> Variant:
    return Variant(about, "video", "3_prediction", words, **more)


def _decoder(about: str, stage: str | None, *words: str) -> Variant:
    return Variant(about, "decoder", stage, words, without=("2_image",))


def _latents(channels: int) -> Variant:
    patches = node("drivesim.training.patches.Patches", size=64, count=1, align=8)
    size = (f"preset.autoencoder.latent_channels={channels}", "preset.autoencoder.widths=[32,64,128]", "preset.height=128",
            "preset.width=256")  # fmt: skip
    words = (*size, f"+module.patches={patches}", "datamodule.batch_size=4")
    return Variant(f"{channels} channels", "latents", "1_autoencoder", words, shared=None, image=(*size, "datamodule.variants=[plain]"))


_PIXEL = ("first_stage=pixel", *settings("preset.image", PIXEL))
_FRAME_BY_FRAME = node("drivesim.models.video_unet.FrameByFrame", image=node(TRAINED, folder="${out}", name="upsampler_image"))

STAGES: dict[str, tuple[str, ...]] = {
    "1_autoencoder": ("module.perceptual=null", "module.optimization.lr=2e-3", "datamodule.frames=4", "datamodule.batch_size=6"),
    "2_image": (*settings("preset.image", LATENT), "module.optimization.lr=1e-3", "datamodule.batch_size=32"),
    "3_prediction": (
        *settings("preset.prediction", {"frames": FRAMES, "head_channels": 16, "embedding": 128}), "+preset.prediction.context_channels=32",
        "module.optimization.lr=1e-3", "datamodule.batch_size=4", "datamodule.speed=0.0",
    ),
    "5_decoder": ("module.perceptual=null", "module.critic.width=8", "module.optimization.lr=3e-4", "datamodule.batch_size=2"),
    "6_upsampler_image": ("datamodule.batch_size=4",),
    "6_upsampler": ("datamodule.batch_size=1",),
}  # fmt: skip
"""What makes a stage small, beside ``ablations_training.common``."""
_UPSAMPLER = (
    *settings("preset.upsampler", {"height": 128, "width": 256, "patch": 64}), "preset.upsampler.video.embedding=64",
    *settings("preset.upsampler.image", {"base": 32, "multipliers": [1, 2], "embedding": 64}), "module.optimization.lr=1e-3",
)  # fmt: skip
SHARED: dict[str, dict[str, tuple[str, ...]]] = {
    "latent": {"1_autoencoder": (), "2_image": ()},
    "pixel": {"1_autoencoder": _PIXEL, "2_image": (*_PIXEL, "+module.network.image.stem=4", "first_stage.latents=${out}/latents")},
    "upsampler": {"6_upsampler_image": _UPSAMPLER},
}
"""Folder -> stages that are trained once, with seed 0, for all variants and seeds that begin with them; and their words."""

VARIANTS: dict[str, Variant] = {
    "carried": _video("attention and 3-D convolution, context carried: the others are compared with it", conditions=tuple(CONDITIONS)),
    "pixel": _video("diffusion on pixels", *_PIXEL, shared="pixel"),
    "end_to_end": _video(
        "no image pre-training, everything trained", "module.frozen=none", "~module.network.image",
        f"+module.network.image={node(UNET, channels=8, **LATENT)}", without=("2_image",),
    ),
    "slots": _video("context in frame slots", "preset.prediction.context=slots"),
    "attention_only": _video(
        "temporal attention only, at every place; context in frame slots", "preset.prediction.context=slots",
        "+module.network.conv_sites=[]", f"+module.network.attention_sites=[{','.join([*RESIDUAL, *ATTENTION])}]",
    ),
    "encoder": _video("context by encoder, the paper's way", "preset.prediction.context=encoder", conditions=("2 frames",)),
    "noise_none": _video(
        "no noise on known frames, in training and after", "module.objective.known_policy.clean_share=1.0", level=0.0,
        conditions=("2 frames", "third window"),
    ),
    "unfrozen": _video(
        "all layers train from the first step, a fifth of the batches single frames", "module.unfreeze_at_step=0",
        "module.unfrozen_scale=1.0",
    ),
    "decoder_stage_1": _decoder("the image decoder as stage 1 left it", None),
    "decoder_image": _decoder("trained on, without temporal layers", "5_decoder", "preset.temporal_decoder.levels=0"),
    "decoder_video": _decoder("trained on, with temporal layers", "5_decoder", "preset.temporal_decoder.levels=2"),
    "bicubic": Variant("no network", "upsampler", None, shared=None),
    "upsampler_image": Variant(
        "trained on, frame by frame", "upsampler", "6_upsampler_image",
        (*_UPSAMPLER, "~module.network", f"+module.network={_FRAME_BY_FRAME}", "datamodule.frames=8", "module.patches.count=1",
         "datamodule.batch_size=1"), shared="upsampler",
    ),
    "upsampler_video": Variant("temporal layers trained around it", "upsampler", "6_upsampler", _UPSAMPLER, shared="upsampler"),
    "latents_8": _latents(8), "latents_12": _latents(12), "latents_16": _latents(16),
}  # fmt: skip
