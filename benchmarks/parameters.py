"""Weights of every stage of a preset, counted on the meta device, beside what the paper says.

    python benchmarks/parameters.py [PRESET ...]

Prints Markdown. The paper (Blattmann et al. 2023) gives no count for its driving models; what stands beside them are those of its
text-to-video model, which is built the same way around a larger image network.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from drivesim.commands.presets import untrained
from drivesim.models.autoencoder import Autoencoder

__all__ = ["Row", "rows", "table"]

PAPER = {
    "1_autoencoder": "84M",
    "2_image": "860M",
    "3_prediction": "860M + 649M temporal",
    "4_interpolation": "1,509M",
    "6_upsampler_image": "473M",
    "6_upsampler": "473M + 449M temporal",
}
"""The paper's text-to-video model on Stable Diffusion 1.4, and its latent upsampler."""
THEIRS = " the paper's text-to-video model |"


@dataclass(frozen=True)
class Row:
    """Parameters of one stage; temporal: of layers that mix frames, which the earlier stage's network lacks."""

    stage: str
    total: int
    temporal: int


def rows(stages: Mapping[str, nn.Module]) -> list[Row]:
    """One for each stage -> network."""
    return [Row(stage, _count(network.parameters()), _temporal(network)) for stage, network in stages.items()]


def _count(weights: Iterable[nn.Parameter]) -> int:
    return sum(weight.numel() for weight in weights)


def _temporal(network: nn.Module) -> int:
    if isinstance(network, Autoencoder):
        return _count(network.decoder_temporal.parameters())
    return _count(network.temporal_parameters())  # type: ignore[operator]


def table(preset: str, stages: Mapping[str, nn.Module]) -> str:
    beside = PAPER if preset == "rds" else {}
    lines = [f"| `{preset}` | parameters | of these temporal |{THEIRS * bool(beside)}", "|---|---|---|" + "---|" * bool(beside)]
    for row in rows(stages):
        temporal = f"{row.temporal / 1e6:.1f}M" if row.temporal else ""
        lines.append(f"| {row.stage} | {row.total / 1e6:.1f}M | {temporal} |" + f" {beside.get(row.stage, '')} |" * bool(beside))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("presets", nargs="*", default=["rds"])
    print("\n\n".join(table(preset, untrained(preset).stages) for preset in parser.parse_args().presets))


if __name__ == "__main__":
    main()
