"""A checkpoint folder as it is shipped inside the package: the same networks in half precision, nothing that a rollout does not read.

    python -m drivesim.training.ship runs/mini drivesim/weights/mini

This file does not train and does not judge.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from drivesim.io.checkpoints import FAST, NETWORKS, REFINER, UPSAMPLERS, WORSE, load_checkpoint, save_network, save_settings

SHIPPED = (*NETWORKS, *FAST, *REFINER, *WORSE.values(), "upsampler_fast")
"""Networks that a rollout may read; of the upsamplers only the one that is quick enough."""

__all__ = ["ship"]


def ship(folder: Path, out: Path) -> int:
    """Copy networks (float16; the upsampler where there is one), model.json and the track bank of ``folder`` to ``out``.

    Returns: the bytes written.

    Raises:
        CheckpointError: a network is missing or damaged.
    """
    checkpoint = load_checkpoint(folder)
    out.mkdir(parents=True, exist_ok=True)
    described = {name: _described(folder, name) for name in SHIPPED if name in checkpoint.networks}
    lenders = {lender for said in described.values() for lender in _borrowed(said).values()}
    described |= {name: _described(folder, name) for name in sorted(lenders)}
    for name, said in described.items():
        metadata = said.get("metadata", {})
        named = [Path(root).name for root in metadata.get("data", [])]  # where the clips lay is nobody's business
        save_network(out / name, checkpoint.network(name), {**metadata, "data": named}, torch.float16, _borrowed(said))
    left = [name for name in UPSAMPLERS if name not in SHIPPED]
    save_settings(out, {name: value for name, value in checkpoint.settings.items() if name not in left})
    if checkpoint.tracks.is_file():
        shutil.copyfile(checkpoint.tracks, out / checkpoint.tracks.name)
    return sum(path.stat().st_size for path in out.iterdir())


def _described(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))


def _borrowed(described: Mapping[str, Any]) -> dict[str, str]:
    """Prefix of weights -> the neighbouring file that holds them; it is shipped as well."""
    return {prefix: described[prefix.rstrip(".")] for prefix in described.get("without", ())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkpoint folder that training wrote")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()
    print(f"{ship(arguments.folder, arguments.out) / 2**20:.1f} MiB in {arguments.out}")


if __name__ == "__main__":
    main()
