"""Toy weights without training, with traffic: what ``drivesim rollout --checkpoint`` needs, written in a second."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from toy_checkpoint import make_checkpoint

from drivesim.simulation.scenes.track_bank import COLUMNS


def write_toy_checkpoint(folder: Path) -> Path:
    """Random networks of 32x64 pixels and a track bank of two cars and a person."""
    make_checkpoint(folder, fps=7.5)
    track_bank().to_parquet(folder / "tracks.parquet")
    return folder


def track_bank(frames: int = 90) -> pd.DataFrame:
    """One recorded drive, as tracks.parquet holds it."""
    road = {"clip_id": "drive", "time_of_day": "day", "ego_speed_mps": 10.0, "ego_yaw_rate_radps": 0.0}
    rows = [{**road, "frame": frame, "track_id": -1, "category": None} for frame in range(frames)]
    for track_id, (category, x1, size) in enumerate((("car", 0.1, 0.2), ("car", 0.6, 0.1), ("person", 0.4, 0.1))):
        box = {"category": category, "track_id": track_id, "x1": x1, "y1": 0.5, "x2": x1 + size, "y2": 0.5 + size}
        rows += [{**road, **box, "frame": frame} for frame in range(frames)]
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))
