"""How much memory a rollout takes, and the sizes that make it fit: windows of a batch, frames of a chunk, tiles, number format.

    peak = base + weights + overhead * the largest pass's living tensors (+ finished frames in waiting, on the CPU)

or, on the CPU, what reading the largest network takes, if that is more. Living tensors are counted (``cost.py``); base and overhead were
measured. This file does not know how the passes compute, nor how fast.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from drivesim.errors import UsageError
from drivesim.simulation.cost import Costs
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.upsample import UpsamplerSettings

__all__ = ["EFFICIENCY", "MEASURED", "Fitted", "Memory", "bytes_of", "fit", "peak", "shown"]

MIB, GB = 2**20, 10**9
UNITS = {"MB": 10**6, "GB": GB, "TB": 10**12, "MIB": MIB, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Memory:
    """base: bytes of a process without networks. overhead: bytes taken for each byte of living tensors. margin: kept free besides, the
    most that a measured rollout took above the line."""

    base: int
    overhead: float
    margin: int


MEASURED = {
    "cpu": Memory(base=626 * MIB, overhead=1.0, margin=148 * MIB),
}
"""By ``python benchmarks/memory_model.py --out benchmarks/results/memory_model.json``, where the rollouts are that were measured."""
EFFICIENCY = 0.37
"""Operations a second of a rollout's networks over those of a bare convolution (``speed.py``), from the same rollouts."""

BATCHES = (64, 32, 16, 8, 4, 2, 1)
CHUNKS = (64, 32, 16, 8, 4, 2, 1)
TILES = (0, 96, 64, 48, 32)
"""In small pixels; 0 = whole frames."""
CPU_LIMIT = {"batch": 8, "decode_frames": 32}
"""A CPU gains nothing from larger ones."""


@dataclass(frozen=True)
class Fitted:
    """Settings that fit, and the bytes that they are predicted to take."""

    settings: RolloutSettings
    upsampling: UpsamplerSettings | None
    peak: int


def bytes_of(text: str) -> int:
    """"16GB", "900 MB" or "8GiB" -> bytes.

    Raises:
        UsageError: anything else.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]+)\s*", text)
    if found is None or found[2].upper() not in UNITS or float(found[1]) <= 0:
        raise UsageError(f"fit must be an amount of memory such as 16GB, 900MB or 8GiB, not {text!r}")
    return round(float(found[1]) * UNITS[found[2].upper()])


def shown(size: float) -> str:
    """Bytes as "1.4GB" or "900MB", rounded up, as ``bytes_of`` reads them."""
    return f"{-(-size // (GB // 10)) / 10:.1f}GB" if size >= GB else f"{-(-size // 10**6):.0f}MB"


def peak(costs: Costs, device: str) -> int:
    """Bytes that a rollout is predicted to take at most: of the process on the CPU, of the device otherwise."""
    running = _taken(costs, device, costs.live()) + (costs.waiting() if device == "cpu" else 0)
    return _outside(costs, device) + max(running, _loading(costs, device))


def _memory(device: str) -> Memory:
    """What was measured on this kind of device; where nothing was, the CPU's overhead without its base."""
    return MEASURED.get(device, replace(MEASURED["cpu"], base=0))


def _outside(costs: Costs, device: str) -> int:
    """What is there all the time. On the CPU the float32 weights stay beside a copy in half precision."""
    memory, originals = _memory(device), costs.originals if device == "cpu" else 0
    return memory.base + memory.margin + sum(costs.weights.values()) + originals


def _loading(costs: Costs, device: str) -> int:
    """While the largest network is read into main memory: its file in half precision, and that in float32, beside the network."""
    return round(1.5 * max(costs.weights.values())) if device == "cpu" else 0


def _taken(costs: Costs, device: str, live: int) -> int:
    return round(_memory(device).overhead * live)


def fit(costs: Costs, room: int, device: str, given: Collection[str] = ()) -> Fitted:
    """The largest sizes with which a rollout stays within ``room`` bytes.

    Args:
        costs: of the rollout that was asked for.
        device: "cpu" or "cuda": half precision is only chosen where it is no slower.
        given: settings that are the user's own and stay: "batch", "decode_frames", "precision", "tile".

    Raises:
        UsageError: not even the smallest sizes fit; the sentence says what would.
    """
    formats = [costs.settings.precision, *(["bfloat16"] if device != "cpu" and "precision" not in given else [])]
    tried = []
    for precision in dict.fromkeys(formats):
        one = _sized(costs.lowered(precision), room, device, given)
        if one.peak <= room and _whole(one, device, given):
            return one
        tried.append(one)
    fitting = [one for one in tried if one.peak <= room]
    if not fitting:
        raise UsageError(
            f"fit={shown(room)} is too little for this rollout: the least that works is {shown(min(one.peak for one in tried))}"
            f"{_hint(costs.upsampling, given)}"
        )
    return fitting[-1]


def _sized(costs: Costs, room: int, device: str, given: Collection[str]) -> Fitted:
    """The largest sizes that fit, or the smallest ones where none do. Passes follow one another, so each is sized by itself."""
    settings, upsampling, left = costs.settings, costs.upsampling, room - _outside(costs, device)

    def waiting(frames: int) -> int:
        return costs.waiting(frames) if device == "cpu" else 0

    if "decode_frames" not in given:
        chunk = _largest(CHUNKS, "decode_frames", device, lambda size: waiting(size) + _taken(costs, device, costs.decode_live(size)), left)
        settings = replace(settings, decode_frames=chunk)
    left -= waiting(settings.decode_frames)
    if "batch" not in given and (costs.interpolates or costs.refines):
        batch = _largest(BATCHES, "batch", device, lambda size: _taken(costs, device, costs.batch_live(size)), left)
        settings = replace(settings, batch=batch)
    if upsampling is not None and "tile" not in given:
        tiles = [size for size in TILES if size == 0 or size >= 2 * upsampling.tile_overlap]
        tile = _largest(tiles, "tile", device, lambda size: _taken(costs, device, costs.enlarge(size).live), left)
        upsampling = replace(upsampling, tile=tile)
    return Fitted(settings, upsampling, peak(costs.resized(settings, upsampling), device))


def _largest(ladder: Sequence[int], name: str, device: str, taken: Callable[[int], int], left: int) -> int:
    """The first size of a falling ladder that takes no more than is left; the last one where none does."""
    allowed = [size for size in ladder if device != "cpu" or size <= CPU_LIMIT.get(name, size)]
    return next((size for size in allowed if taken(size) <= left), allowed[-1])


def _whole(one: Fitted, device: str, given: Collection[str]) -> bool:
    """Nothing had to be made smaller than it is useful."""
    limit = CPU_LIMIT if device == "cpu" else {"batch": BATCHES[0], "decode_frames": CHUNKS[0]}
    sizes = {name: getattr(one.settings, name) for name in limit if name not in given}
    return all(size >= limit[name] for name, size in sizes.items()) and (one.upsampling is None or one.upsampling.tile == 0)


def _hint(upsampling: UpsamplerSettings | None, given: Collection[str]) -> str:
    kept = [name for name in ("batch", "decode_frames", "tile", "precision") if name in given]
    if kept:
        return f" with {' and '.join(kept)} as given"
    return "; leave --upsample out, or give it more" if upsampling is not None else ""
