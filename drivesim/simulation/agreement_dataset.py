"""``drivesim data agree``: the labels of a clip dataset that is already there, held against what a detector finds in its videos.

Writes the columns that ``drivesim generate`` writes as it goes, and can set clips aside whose labels the pictures do not bear out. This
file knows datasets on disk; the rules of agreement are in ``agreement``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from drivesim.errors import UsageError
from drivesim.io.fetching import folder_to_write
from drivesim.io.records import DatasetError, DatasetRecords, Fault, labels_of, quarantine, read_records, rewrite_records
from drivesim.io.video import VideoError, iterate_frames
from drivesim.labels import LabelTrack
from drivesim.simulation.agreement import BOX_COLUMNS, CLIP_COLUMNS, FILTER, Agreement, Tally, ceiling
from drivesim.simulation.device import pick_device

__all__ = ["agree", "clip_agreement"]

PIECE = 16
"""Frames held at a time."""
OWN = "detector:drivesim"
"""Provenance of what ``drivesim data label`` finds with the same detector."""


def agree(
    dataset: str | Path, min_agreement: float | None = None, set_aside: bool = False, detector: str | Path | None = None,
    every: int | None = None, device: str = "auto", progress: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Write agreement_iou and agreement_score of boxes.parquet and the agreement columns of clips.parquet, in place.

    Args:
        min_agreement: F1 below which a clip is named; None = none.   set_aside: and moved to ``<dataset>/quarantine``.
        detector: folder of an exported one; None = the filtering detector of the package.   every: frames from look to look, None = so
            many that it looks about twice a second.

    Returns:
        What was found, for people. Clips whose videos cannot be read have nulls and are named.

    Raises:
        DatasetError: not a clip dataset, or it cannot be written.   UsageError: a number out of range.   CheckpointError: no detector.
    """
    _check(min_agreement, set_aside, every)
    if set_aside:
        folder_to_write(dataset, "copy the dataset to this disk to set clips of it aside")
    records = read_records(dataset)
    agreement = Agreement.load(detector or FILTER, pick_device(device), every)
    found, skipped = dict[str, Agreement](), dict[str, str]()
    boxes = {name: np.full(len(records.boxes), np.nan, np.float32) for name in BOX_COLUMNS}
    for clip_id in tqdm(records.clip_ids, desc="agreement", unit="clip", disable=not progress):
        try:
            found[clip_id], rows = clip_agreement(records, clip_id, agreement.another())
        except (VideoError, DatasetError) as error:
            skipped[clip_id] = str(error)
            continue
        for name in BOX_COLUMNS:
            boxes[name][rows] = found[clip_id].boxes()[name].to_numpy(np.float32)
    clips = _clip_columns(records, found)
    written = rewrite_records(dataset, replace(records, clips=clips, boxes=records.boxes.assign(**boxes)))
    failing = _failing(written, min_agreement)
    moved = quarantine(records.root, failing) if set_aside else []
    return _told(str(dataset), records, found, skipped, min_agreement, failing, moved, detector)


def clip_agreement(records: DatasetRecords, clip_id: str, agreement: Agreement) -> tuple[Agreement, np.ndarray]:
    """Show a clip's video to ``agreement``: the same, and the row of boxes.parquet that each of its ``boxes()`` belongs to.

    Raises:
        VideoError, DatasetError: the video or the clip's rows cannot be read.
    """
    labels = labels_of(records, clip_id)
    rows = records.boxes["clip_id"].to_numpy() == clip_id
    places = np.flatnonzero(rows)[np.argsort(records.boxes["frame"].to_numpy()[rows], kind="stable")]
    for frames, part in _pieces(records.video_path(clip_id), labels):
        agreement.look(frames, part)
    if agreement.frames != len(labels):
        raise DatasetError(f"{records.video_path(clip_id)}: holds {agreement.frames} frames, not {len(labels)}; run drivesim data check")
    return agreement, places


def _pieces(video: Path, labels: LabelTrack) -> Iterator[tuple[np.ndarray, LabelTrack]]:
    """The video and its labels, a few frames at a time; frames beyond the labels are left out."""
    frames = iterate_frames(video)
    for first in range(0, len(labels), PIECE):
        piece = list(islice(frames, min(PIECE, len(labels) - first)))
        if piece:
            yield np.stack(piece), labels.take(range(first, first + len(piece)), labels.fps)


def _check(min_agreement: float | None, set_aside: bool, every: int | None) -> None:
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise UsageError(f"min_agreement must lie in 0..1, not {min_agreement}")
    if set_aside and min_agreement is None:
        raise UsageError("which clips to set aside is not said; give --min-agreement X with --quarantine")
    if every is not None and every < 1:
        raise UsageError(f"every must be at least 1 frame, not {every}")


def _clip_columns(records: DatasetRecords, found: dict[str, Agreement]) -> pd.DataFrame:
    rows = [found[clip_id].clip() if clip_id in found else {} for clip_id in records.clip_ids]
    columns = {name: pd.Series([row.get(name) for row in rows], records.clips.index, np.float64) for name in CLIP_COLUMNS}
    return records.clips.assign(**columns)


def _failing(records: DatasetRecords, least: float | None) -> list[Fault]:
    """Clips whose F1 lies below ``least``; where nobody could look, nothing is known and nothing fails."""
    if least is None:
        return []
    f1 = records.clips["agreement_f1"]
    low = records.clips[f1 < least]
    return [
        Fault("clips.parquet", int(row), f"agreement_f1 = {value:.2f}: below {least:g}", str(clip_id))
        for row, clip_id, value in zip(low.index, low["clip_id"], low["agreement_f1"], strict=True)
    ]


def _told(
    dataset: str, records: DatasetRecords, found: dict[str, Agreement], skipped: dict[str, str], least: float | None, failing: list[Fault],
    moved: list[str], detector: str | Path | None,
) -> dict[str, Any]:  # fmt: skip
    """What a person wants to read, with the ceiling of the package's own detector beside it."""
    whole = sum((agreement.tally for agreement in found.values()), Tally())
    told: dict[str, Any] = {"dataset": dataset, "clips": len(found), **_rounded(whole)}
    if detector is None:
        top = ceiling()
        told["ceiling"] = {"clips": top["data"], **{name: top[name] for name in ("precision", "recall", "f1")}}
        own = int((records.boxes["provenance"] == OWN).sum())
        told |= {"note": f"{own} boxes are this detector's own labels: that it agrees with them says nothing"} if own else {}
    if least is not None:
        told[f"below {least:g}"] = f"{len(failing)} of {len(found)} clips" + (f", {len(moved)} of them set aside" if moved else "")
        told |= {str(fault.clip_id): fault.reason for fault in failing}
    return {**told, **({"not looked at": skipped} if skipped else {})}


def _rounded(tally: Tally) -> dict[str, Any]:
    shares = {"precision": tally.precision, "recall": tally.recall, "f1": tally.f1}
    counts = {"frames looked at": tally.frames, "boxes that count": tally.right + tally.missed}
    return {**counts, **{name: "unknown" if value is None else round(value, 3) for name, value in shares.items()}}
