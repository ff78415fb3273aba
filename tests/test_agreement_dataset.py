"""``drivesim data agree``: columns of a dataset on disk, clips set aside, and what cannot be looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_agreement import A, B, SeesWhite, picture, track

from drivesim.commands.data import run
from drivesim.errors import UsageError
from drivesim.io.records import DatasetRecords, check_records, clip_row, header, read_records, rows_of, write_records
from drivesim.io.video import write_video
from drivesim.labels import LabelTrack
from drivesim.simulation import agreement_dataset
from drivesim.simulation.agreement import BOX_COLUMNS, Agreement
from drivesim.simulation.agreement_dataset import OWN, agree

FRAMES = 20


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three clips of 20 frames that show A: labelled so, labelled A and B, and not labelled."""
    labels = {"right": track(*[[A]] * FRAMES), "half": track(*[[A, B]] * FRAMES), "unknown": LabelTrack.unknown(FRAMES, 2.0)}
    clips, tables = [], []
    for clip_id, labelled in labels.items():
        write_video(tmp_path / "videos" / f"{clip_id}.mp4", np.stack([picture(A)] * FRAMES), 2.0)
        clips.append(clip_row(labelled, clip_id, f"videos/{clip_id}.mp4", 128, 256))
        tables.append(rows_of(labelled, clip_id, "requested"))
    frames, boxes = (pd.concat([table[k] for table in tables], ignore_index=True) for k in (0, 1))
    boxes = boxes.sample(frac=1.0, random_state=0, ignore_index=True)  # rows may lie in any order
    write_records(tmp_path, DatasetRecords(tmp_path, pd.DataFrame(clips), boxes, frames, header("test")))
    monkeypatch.setattr(Agreement, "load", lambda path, device="cpu", every=None: Agreement(SeesWhite(), every))
    monkeypatch.setattr(agreement_dataset, "ceiling", lambda: {"data": "elsewhere", "precision": 0.9, "recall": 0.8, "f1": 0.85})
    return tmp_path


def test_columns_are_written_beside_everything_else(dataset: Path) -> None:
    before = read_records(dataset)
    told = agree(dataset, progress=False)
    after = read_records(dataset)
    assert (told["frames looked at"], told["precision"], told["recall"]) == (40, 1.0, round(40 / 60, 3))
    clips = after.clips.set_index("clip_id")
    assert clips["agreement_recall"].drop("unknown").tolist() == [1.0, 0.5] and clips["agreement_frames"].tolist() == [20, 20, 0]
    assert np.isnan(clips.loc["unknown", "agreement_f1"])
    is_b = (after.boxes["track_id"] == 1).to_numpy()
    assert (after.boxes["agreement_iou"][is_b] == 0).all() and (after.boxes["agreement_iou"][~is_b] > 0.9).all()
    same = [name for name in before.boxes if name not in BOX_COLUMNS]
    pd.testing.assert_frame_equal(before.boxes[same], after.boxes[same])
    pd.testing.assert_frame_equal(before.clips, after.clips[list(before.clips)])
    assert not check_records(dataset)


def test_frames_between_looks_are_null(dataset: Path) -> None:
    agree(dataset, every=3, progress=False)
    boxes = read_records(dataset).boxes
    assert (boxes["agreement_score"].notna() == (boxes["frame"] % 3 == 0)).all()


def test_clips_below_are_named_and_set_aside(dataset: Path) -> None:
    told = agree(dataset, min_agreement=0.9, progress=False)
    assert told["below 0.9"] == "1 of 3 clips" and "0.67" in told["half"]
    assert read_records(dataset).clip_ids == ["right", "half", "unknown"]
    agree(dataset, min_agreement=0.9, set_aside=True, progress=False)
    assert read_records(dataset).clip_ids == ["right", "unknown"] and read_records(dataset / "quarantine").clip_ids == ["half"]
    assert (dataset / "quarantine" / "videos" / "half.mp4").is_file() and not check_records(dataset)


def test_a_video_that_cannot_be_read_costs_its_clip_only(dataset: Path) -> None:
    (dataset / "videos" / "half.mp4").write_bytes(b"no video")
    told = agree(dataset, progress=False)
    assert list(told["not looked at"]) == ["half"] and told["clips"] == 2
    assert read_records(dataset).clips["agreement_f1"].isna().tolist() == [False, True, True]


def test_a_shorter_video_is_named(dataset: Path) -> None:
    write_video(dataset / "videos" / "half.mp4", np.stack([picture(A)] * 5), 2.0)
    assert "holds 5 frames, not 20" in agree(dataset, progress=False)["not looked at"]["half"]


def test_the_command_prints_the_ceiling_beside(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("agree", dict(dataset=dataset, min_agreement=0.5), ["progress=false"]) == 0
    said = capsys.readouterr().out
    assert "recall: 0.667" in said and "ceiling:" in said and "f1: 0.85" in said and "below 0.5: 0 of 3 clips" in said


def test_a_detector_that_agrees_with_itself_is_told(dataset: Path) -> None:
    assert "note" not in agree(dataset, progress=False)
    records = read_records(dataset)
    write_records(dataset, replace(records, boxes=records.boxes.assign(provenance=OWN)))
    assert "60 boxes are this detector's own" in agree(dataset, progress=False)["note"]


@pytest.mark.parametrize(
    ("more", "named"), [({"min_agreement": 2.0}, "0..1"), ({"set_aside": True}, "--min-agreement"), ({"every": 0}, "at least 1")]
)
def test_bad_numbers_are_refused(dataset: Path, more: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        agree(dataset, progress=False, **more)
