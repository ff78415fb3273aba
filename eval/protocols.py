"""Frozen, named ways to judge: a number is only comparable with numbers of the same protocol.

A protocol's name says what is computed (``fid``, ``fvd``: the published networks; ``fd_lite0``, ``fvd_lite0``: the offline one, other
numbers that are never called FID or FVD), on how much, and through which codec both sides go. Every field is written into the result.
Changing one makes another protocol, under another name. This file computes nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from drivesim.errors import UsageError

from .footage import Footage, Shot

__all__ = ["DEFAULT", "PROTOCOLS", "Protocol", "protocol_named"]


@dataclass(frozen=True)
class Protocol:
    """What is judged and how.

    clips: most shots of each side; both sides have equally many.   frames: of a shot.   fps: of the frames of a shot, and what the codec
    is told.   every_s: shots begin no closer together (None: they only share no frame).   size: (height, width) both sides are brought to,
    before codec and network.   context: frames that are not judged.   minimum: with fewer shots the Frechet distance is refused (not
    enough to span the features).   enough: with fewer the result is marked.   resamples: of the Frechet distance's interval.   seed: of the
    choice of shots and of the interval.
    """

    name: str
    network: str
    clips: int
    frames: int
    fps: float
    every_s: float | None
    size: tuple[int, int]
    codec: str
    minimum: int
    enough: int
    resamples: int
    resize: str = "area where smaller, else bilinear; the aspect ratio is not kept"
    context: str = "frames given to the generator are not judged"
    ddof: int = 1
    seed: int = 0

    @property
    def video(self) -> bool:
        """Whether it sees motion."""
        return self.frames > 1

    @property
    def unit(self) -> str:
        """What N counts."""
        return "clips" if self.video else "frames"

    @property
    def rate(self) -> float | None:
        """The rate shots are asked for: None for single frames, which any clip has."""
        return self.fps if self.video else None

    def shots(self, footage: Footage, limit: int | None = None) -> list[Shot]:
        """The shots of one side, at most ``limit`` and at most ``clips``."""
        most = self.clips if limit is None else min(limit, self.clips)
        return footage.shots(self.frames, self.rate, self.every_s, most, self.seed)

    def describe(self) -> dict[str, Any]:
        """Every field, for JSON."""
        return asdict(self)


_FRAMES: dict[str, Any] = dict(frames=1, fps=7.5, every_s=1.0)
_CLIPS: dict[str, Any] = dict(frames=16, fps=7.5, every_s=None)
_BASES = (
    Protocol("fid_10k", "inception-2015-12-05", 10_000, size=(256, 512), codec="", minimum=2_560, enough=10_000, resamples=20, **_FRAMES),
    Protocol("fvd_2048x16", "i3d-kinetics-400", 2_048, size=(256, 512), codec="", minimum=512, enough=2_048, resamples=100, **_CLIPS),
    Protocol("fd_lite0", "lite0-frames", 2_048, size=(128, 256), codec="", minimum=128, enough=512, resamples=1_000, **_FRAMES),
    Protocol("fvd_lite0_256x16", "lite0-clips", 256, size=(128, 256), codec="", minimum=64, enough=256, resamples=1_000, **_CLIPS),
)  # fmt: skip
CODECS = ("lossless", "h264crf18")
PROTOCOLS: dict[str, Protocol] = {
    f"{base.name}_{codec}": replace(base, name=f"{base.name}_{codec}", codec=codec) for base in _BASES for codec in CODECS
}
DEFAULT = ("fd_lite0_h264crf18", "fvd_lite0_256x16_h264crf18")


def protocol_named(name: str) -> Protocol:
    """One of PROTOCOLS.

    Raises:
        UsageError: no such name; a name without its codec is told which there are.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    begun = [known for known in PROTOCOLS if known.startswith(name)]
    if begun:
        raise UsageError(f"a protocol's name says the codec of both sides: {' or '.join(begun)}, not {name}")
    raise UsageError(f"no protocol named {name}; known are {', '.join(PROTOCOLS)}")
