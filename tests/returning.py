"""What must hold of clips that left as one of our exports and were imported again, whatever the form."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from drivesim.io.records import DatasetRecords, labels_of
from drivesim.io.video import read_frames
from drivesim.labels import LabelTrack

__all__ = ["pieces", "same", "same_clips", "same_pieces"]


def same(back: LabelTrack, there: LabelTrack, corners: float = 0.0) -> None:
    """Equal boxes, corners to within ``corners`` of the picture, and every frame known."""
    for name in ("frame", "track_id", "category", "ignore"):
        np.testing.assert_array_equal(getattr(back.boxes, name), getattr(there.boxes, name), err_msg=name)
    np.testing.assert_allclose(back.boxes.xyxy, there.boxes.xyxy, rtol=0, atol=corners)
    assert back.boxes_known.all()


def pieces(records: DatasetRecords) -> dict[str, dict[str, Any]]:
    """Clip id -> what its provenance says."""
    return {row.clip_id: json.loads(row.provenance) for row in records.clips.itertuples()}


def same_pieces(records: DatasetRecords, summary: dict[str, Any], track: LabelTrack, split: str, corners: float = 0.0) -> None:
    """The known frames of ``track`` came back in pieces, with all their boxes; ``track`` left as clip0 with occlusion 0.3 of a detector."""
    frames: list[int] = []
    for clip_id, about in pieces(records).items():
        same(labels_of(records, clip_id), track.take(about["frames"], track.fps), corners)
        assert (about["clip_id"], about["drive"], records.clip(clip_id)["split"]) == ("clip0", "clip0", split)
        frames += about["frames"]
    assert frames == np.flatnonzero(track.boxes_known).tolist()
    assert summary["dropped_boxes"] == {} == summary["left_out"] and len(records.boxes) == len(track.boxes)
    assert (records.boxes["provenance"] == "detector:the large one").all() and np.allclose(records.boxes["occlusion"], 0.3)
    assert records.boxes["truncated"].isna().all()


def same_clips(back: DatasetRecords, made: DatasetRecords, blur: float, corners: float = 0.0) -> None:
    """Whole clips under their names; ``blur``: mean difference of pixels that encoding may make, of 255."""
    assert back.clip_ids == made.clip_ids
    for name in ("fps", "frames", "split", "time_of_day", "licence", "crowdedness"):
        assert back.clips[name].tolist() == made.clips[name].tolist(), name
    for clip_id in made.clip_ids:
        same(labels_of(back, clip_id), labels_of(made, clip_id), corners)
        pictures = [read_frames(records.video_path(clip_id), indices=[7])[0].astype(int) for records in (made, back)]
        assert np.abs(pictures[0] - pictures[1]).mean() < blur
