"""What ``downstream.py`` compares. It knows names and settings, no clip and no number.

``generated`` mixes as there are frames; the ways after it were tried on the validation split, and ``CHOSEN`` is the best of them there.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ARMS", "CHOSEN", "COMPARISONS", "RUNNER_UP", "SHOWN", "WAYS", "Arm", "nights_of"]


@dataclass(frozen=True)
class Arm:
    """One way to train. extra: generated | simulated clips that are added, None = none.   augmented, share, first: as of a Recipe."""

    about: str
    extra: str | None = None
    augmented: bool = True
    share: float | None = None
    first: float = 0.0


ARMS: dict[str, Arm] = {
    "plain": Arm("N labelled drives as they are", augmented=False),
    "augmented": Arm("N labelled drives; mirror, crop, colour"),
    "generated": Arm("N + M generated, mixed as there are frames", "generated"),
    "generated_half": Arm("N + M generated, half of each batch", "generated", share=0.5),
    "generated_quarter": Arm("N + M generated, a quarter of each batch", "generated", share=0.25),
    "generated_first": Arm("M generated for the first 40% of the steps, then N alone", "generated", first=0.4),
    "simulated": Arm("N + M more simulated ones, mixed as there are frames", "simulated"),
}
WAYS = tuple(name for name, arm in ARMS.items() if arm.extra == "generated")
CHOSEN = "generated_first"
RUNNER_UP = "generated_quarter"
"""Second on the validation split: shown beside the chosen way, so that nobody has to wonder whether the answer hangs on the choice."""
SHOWN = ("plain", "augmented", CHOSEN, RUNNER_UP, "simulated")
COMPARISONS = ((CHOSEN, "augmented"), (RUNNER_UP, "augmented"), ("simulated", "augmented"), ("augmented", "plain"), (CHOSEN, "simulated"))


def nights_of(count: int) -> int:
    """How many of ``count`` labelled drives are by night: a quarter, at least one."""
    return max(1, count // 4)
