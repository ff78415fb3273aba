"""``drivesim upsample``: one video or a clip dataset, four times as high and wide.

This file joins the parts and shows a progress bar; it does not know how any of them works.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from drivesim.commands.config import as_override, compose
from drivesim.errors import UsageError
from drivesim.io.checkpoints import Checkpoint, load_checkpoint
from drivesim.io.fetching import local_folder
from drivesim.io.records import read_records
from drivesim.io.video import probe
from drivesim.simulation.device import pick_device
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings
from drivesim.simulation.upsample_videos import upsample_dataset, upsample_file

__all__ = ["run", "upsampler_settings"]


def run(flags: Mapping[str, Any], words: Sequence[str]) -> int:
    """Enlarge; returns the exit code. The same command again goes on with what was cut off.

    Args:
        flags: by the names of ``configs/upsample.yaml``, None = not given. words: ``key=value`` overrides, applied after them.

    Raises:
        UsageError: a value that cannot be.   DrivesimError: whatever the parts raise.
    """
    config = compose("upsample", [*(as_override(name, value) for name, value in flags.items() if value is not None), *words])
    source, out = local_folder(config.source), Path(config.out)
    if not source.exists():
        raise UsageError(f"{source}: no such video or clip dataset")
    if int(config.seed) < 0:
        raise UsageError(f"seed must be a whole number from 0, not {config.seed}")
    records = read_records(source) if source.is_dir() else None
    total = probe(source).frames if records is None else int(records.clips["frames"].sum())
    checkpoint = load_checkpoint(str(config.checkpoint), need=())
    upsampler = Upsampler(checkpoint, upsampler_settings(config, checkpoint), pick_device(str(config.device)), int(config.seed))
    with tqdm(total=total, unit="frame", disable=None, dynamic_ncols=True) as bar:
        told = lambda done: bar.update(done - bar.n)  # noqa: E731
        if records is None:
            made = upsample_file(upsampler, checkpoint, source, out, told)
        else:
            made = upsample_dataset(upsampler, checkpoint, records, out, told)
    folder = shlex.quote(str(out))
    print(f"{len(made.clips)} clip{'s' * (len(made.clips) != 1)} in {out}\ncheck it:    drivesim data check {folder}\n"
          f"watch it:    drivesim report {folder}")  # fmt: skip
    return 0


def upsampler_settings(config: DictConfig, checkpoint: Checkpoint) -> UpsamplerSettings:
    """The checkpoint's own settings with the user's ``upsampling.*`` on top."""
    wishes = OmegaConf.to_container(config.upsampling)
    assert isinstance(wishes, dict)
    return UpsamplerSettings.of(checkpoint.settings.get("upsampling", {}), **{str(name): value for name, value in wishes.items()})
