"""A checkpoint folder of a preset that nobody has trained: what it makes is noise, how long it takes is not.

    python benchmarks/untrained.py rds runs/untrained [KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from drivesim.commands.presets import untrained
from drivesim.io.checkpoints import Checkpoint, load_checkpoint, save_network, save_settings

__all__ = ["write_untrained"]

SHARED = {
    "prediction": "image", "interpolation": "image", "prediction_fast": "image", "interpolation_fast": "image",
    "upsampler": "upsampler_image", "upsampler_fast": "upsampler_image_fast",
}  # fmt: skip
"""Networks around an image network, and whose; where that is as large, its weights are written once."""


def write_untrained(
    preset: str, folder: Path, words: Sequence[str] = (), dtype: torch.dtype | None = None, seed: int = 0
) -> Checkpoint:
    """Write every network of ``preset`` with its initial weights, and model.json.

    words: ``key=value`` overrides, for instance of sizes.   dtype: of the files, None = float32.
    """
    torch.manual_seed(seed)
    made = untrained(preset, "cpu", words)
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in made.networks.items():
        image = SHARED.get(name)
        same = image is not None and getattr(network, "image").recipe == made.networks[image].recipe  # noqa: B009
        save_network(folder / name, network, {"untrained": True}, dtype, {"image.": image} if image and same else None)
    save_settings(folder, made.settings)
    return load_checkpoint(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("preset")
    parser.add_argument("folder", type=Path)
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args()
    checkpoint = write_untrained(given.preset, given.folder, given.words, torch.bfloat16)
    print(f"{', '.join(checkpoint.networks)} in {checkpoint.folder}")


if __name__ == "__main__":
    main()
