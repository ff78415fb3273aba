"""Small clip datasets for the tests of exports: any labels over plain pictures, and labels drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from drivesim.io.records import DatasetRecords, clip_row, header, rows_of, write_records
from drivesim.io.video import write_video
from drivesim.labels import CATEGORIES, Boxes, LabelTrack

HEIGHT, WIDTH = 32, 64


def track_of(frames: int, rows: Sequence[tuple[int, int, int, tuple[float, float, float, float], bool]], fps: float = 7.5) -> LabelTrack:
    """Every frame known; rows: (frame, track_id, category, corners in 0..1, ignore)."""
    rows = sorted(rows, key=lambda row: row[0])
    frame, track_id, category = (np.array([row[place] for row in rows], np.int64) for place in range(3))
    corners = np.array([row[3] for row in rows], np.float32).reshape(-1, 4)
    boxes = Boxes(frame, track_id, category, corners, np.array([row[4] for row in rows], bool))
    return replace(LabelTrack.unknown(frames, fps), boxes=boxes, boxes_known=np.ones(frames, bool))


def write_clips(
    root: Path, tracks: Sequence[LabelTrack], splits: Sequence[str | None] = (), ids: Sequence[str] = (), **columns: object
) -> Path:
    """Clip n is called ``ids[n]`` or "clip<n>"; its frame i is grey with value 20 + i. ``columns``: of every box."""
    clips, frames, boxes = [], [], []
    for number, track in enumerate(tracks):
        clip_id = ids[number] if ids else f"clip{number}"
        video = f"videos/{number}.mp4"
        pictures = np.broadcast_to(20 + np.arange(len(track), dtype=np.uint8)[:, None, None, None], (len(track), HEIGHT, WIDTH, 3))
        write_video(root / video, np.ascontiguousarray(pictures), track.fps)
        split = splits[number] if splits else "train"
        clips.append(clip_row(track, clip_id, video, HEIGHT, WIDTH, split=split))
        rows = rows_of(track, clip_id, "human")
        frames.append(rows[0])
        boxes.append(rows[1].assign(**columns))
    tables = (pd.concat(part, ignore_index=True) for part in (boxes, frames))
    write_records(root, DatasetRecords(root, pd.DataFrame(clips), *tables, header("the tests")))
    return root


@st.composite
def corners(draw: st.DrawFn) -> tuple[float, float, float, float]:
    """A box at least a hundredth of the picture wide and high, in numbers that float32 holds exactly."""
    lows = [draw(st.integers(0, 64000)) for _ in range(2)]
    highs = [draw(st.integers(low + 700, 65536)) for low in lows]
    (x1, y1), (x2, y2) = ([edge / 65536 for edge in edges] for edges in (lows, highs))
    return x1, y1, x2, y2


@st.composite
def label_tracks(draw: st.DrawFn, frames: int = 3) -> LabelTrack:
    """A few boxes in any of ``frames`` frames, some of them to be ignored; some frames unknown and then without boxes."""
    known = np.array(draw(st.lists(st.booleans(), min_size=frames, max_size=frames)))
    known[draw(st.integers(0, frames - 1))] = True
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from(np.flatnonzero(known).tolist()), st.integers(0, len(CATEGORIES) - 1), corners(), st.booleans()),
            max_size=6,
        )
    )
    track = track_of(frames, [(frame, number, category, box, ignore) for number, (frame, category, box, ignore) in enumerate(rows)])
    return replace(track, boxes_known=known)
