"""Tables: written == read, labels <-> rows are inverses, every kind of fault is found and named, bad clips are set aside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from drivesim.io.records import (
    REQUIRED,
    DatasetError,
    DatasetRecords,
    RecordsWriter,
    check_records,
    clip_row,
    empty_table,
    labels_of,
    quarantine,
    read_records,
    rows_of,
    write_records,
)
from drivesim.io.video import write_video
from drivesim.labels import CATEGORIES, LABELS, Boxes, LabelTrack

FPS = 7.5
FRAMES = 6


def some_track(frames: int = FRAMES, fps: float = FPS) -> LabelTrack:
    """A day drive with one car in every frame and a person in the first."""
    boxes = Boxes(
        np.append(np.arange(frames), 0),
        np.append(np.full(frames, 7), 8),
        np.append(np.full(frames, 0), 5),
        np.array([[0.25, 0.5, 0.5, 0.75]] * frames + [[0.0, 0.25, 0.125, 1.0]], np.float32),
        np.zeros(frames + 1, bool),
    )
    boxes = boxes.where(np.argsort(boxes.frame, kind="stable"))
    values = {name: np.full(frames, number, np.float32) for name, number in zip(LABELS, (0, 1, 12.5, 0.125), strict=True)}
    return LabelTrack(fps, values, boxes, np.ones(frames, bool))


def make_dataset(root: Path, clips: int = 3) -> DatasetRecords:
    with RecordsWriter(root, creator="test") as writer:
        for index in range(clips):
            name, noise = f"c{index}", np.random.default_rng(index)
            write_video(root / "videos" / f"{name}.mp4", noise.integers(0, 255, (FRAMES, 16, 32, 3), np.uint8), FPS)
            writer.append(some_track(), name, "simulated")
            writer.add_clip(name, f"videos/{name}.mp4", FPS, 16, 32, split="train")
    return read_records(root)


def assert_same_track(a: LabelTrack, b: LabelTrack) -> None:
    assert a.fps == b.fps
    np.testing.assert_array_equal(a.boxes_known, b.boxes_known)
    for name in LABELS:
        np.testing.assert_array_equal(a.values[name], b.values[name])
    for name in ("frame", "track_id", "category", "xyxy", "ignore"):
        np.testing.assert_array_equal(getattr(a.boxes, name), getattr(b.boxes, name))


@st.composite
def tracks(draw: st.DrawFn) -> LabelTrack:
    frames = draw(st.integers(1, 9))

    def numbers(low: float, high: float) -> st.SearchStrategy[float]:
        return st.just(float("nan")) | st.floats(low, high, width=32)

    values = {}
    for name, label in LABELS.items():
        entries = st.sampled_from([float("nan"), 0.0, 1.0]) if label.values else numbers(label.low, label.high)
        values[name] = np.array(draw(st.lists(entries, min_size=frames, max_size=frames)), np.float32)
    count = draw(st.integers(0, 12))
    low = draw(arrays(np.float32, (count, 2), elements=st.floats(0, 0.5, width=32)))
    size = draw(arrays(np.float32, (count, 2), elements=st.floats(0.0625, 0.5, width=32)))
    frame = np.sort(draw(arrays(np.int64, count, elements=st.integers(0, frames - 1))))
    track_id = draw(arrays(np.int64, count, elements=st.integers(0, 2**40)))
    category = draw(arrays(np.int64, count, elements=st.integers(0, len(CATEGORIES) - 1)))
    boxes = Boxes(frame, track_id, category, np.concatenate([low, low + size], 1), draw(arrays(bool, count)))
    return LabelTrack(draw(st.sampled_from([7.5, 1.875, 30.0, 10.0, 25034 / 835])), values, boxes, draw(arrays(bool, frames)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(track=tracks(), split=st.sampled_from(["train", None]), cut=st.integers(0, 9))
def test_written_is_read(tmp_path: Path, track: LabelTrack, split: str | None, cut: int) -> None:
    """The whole way: track -> rows -> Parquet -> rows -> track; written whole, and streamed in two pieces."""
    frames, boxes = rows_of(track, "c", "simulated")
    row = clip_row(track, "c", "videos/c.mp4", 16, 32, split=split)
    records = write_records(tmp_path / "whole", DatasetRecords(tmp_path, pd.DataFrame([row]), boxes, frames))
    assert_same_track(labels_of(read_records(records.root), "c"), track)
    stream = tmp_path / "stream"
    (stream / "dataset.json").unlink(missing_ok=True)
    cut = min(cut, len(track))
    with RecordsWriter(stream) as writer:
        for piece in (np.arange(cut), np.arange(cut, len(track))):
            if len(piece):
                writer.append(track.take(piece, track.fps), "c", "simulated")
        writer.add_clip("c", "videos/c.mp4", track.fps, 16, 32, split=split)
    streamed, whole = read_records(stream), read_records(records.root)
    assert_same_track(labels_of(streamed, "c"), track)
    assert {key: value for key, value in streamed.header.items() if key != "creator"} == {
        key: value for key, value in whole.header.items() if key != "creator"
    }
    for table in ("clips", "frames", "boxes"):
        pd.testing.assert_frame_equal(getattr(streamed, table), getattr(whole, table), rtol=1e-6)


def test_unknown_columns_are_kept(tmp_path: Path) -> None:
    records = make_dataset(tmp_path / "a")
    clips = records.clips.assign(mood=pd.Series(["calm", None, "tense"]), lanes=[2, 3, 4])
    boxes = records.boxes.assign(colour="red", box3d=pd.Series([[1.0, 2.0, 3.0]] * len(records.boxes)))
    back = read_records(write_records(tmp_path / "b", replace(records, clips=clips, boxes=boxes)).root)
    assert back.clips["mood"].isna().tolist() == [False, True, False]
    assert back.clips["lanes"].tolist() == [2, 3, 4]
    assert set(back.boxes["colour"]) == {"red"}
    assert back.boxes["box3d"].iloc[0].tolist() == [1.0, 2.0, 3.0]
    again = read_records(write_records(tmp_path / "c", back).root)
    for table in ("clips", "frames", "boxes"):
        pd.testing.assert_frame_equal(getattr(again, table), getattr(back, table))


def test_nullable_columns_may_be_absent(tmp_path: Path) -> None:
    root = make_dataset(tmp_path).root
    for kind, names in REQUIRED.items():
        path = root / f"{kind}.parquet"
        pq.write_table(pq.read_table(path).select(names), path)
    track = labels_of(read_records(root), "c0")
    assert len(track) == FRAMES
    assert track.boxes_known.all()
    assert np.isnan(track.values["ego_speed_mps"]).all()
    assert not track.boxes.ignore.any()  # derived: tall enough, occlusion unknown
    assert check_records(root) == []


def test_without_frame_rows_boxes_are_known_where_there_are_any(tmp_path: Path) -> None:
    records = make_dataset(tmp_path)
    boxes = records.boxes[records.boxes["clip_id"] != "c1"].drop(columns=["ignore"]).assign(y2=lambda rows: rows["y1"] + np.float32(0.04))
    records = read_records(write_records(tmp_path, replace(records, boxes=boxes, frames=None)).root)
    assert records.frames is None
    seen, blind = labels_of(records, "c0"), labels_of(records, "c1")
    assert seen.boxes_known.all()
    assert seen.values["crowdedness"].tolist() == [1.0] * FRAMES
    assert seen.boxes.ignore.all()  # lower than 6 of 128 pixels
    assert (seen.values["time_of_day"] == 0).all()
    assert not blind.boxes_known.any()


def test_a_sound_dataset_has_no_faults(tmp_path: Path) -> None:
    make_dataset(tmp_path)
    assert check_records(tmp_path) == []
    assert check_records(tmp_path, deep=True) == []
    assert not list(tmp_path.rglob("*.part"))


def test_recorded_datasets_are_sound(shared_data: Path) -> None:
    for name in ("real", "sim_30fps"):
        assert check_records(shared_data / name) == []
        records = read_records(shared_data / name)
        for clip_id in records.clip_ids:
            assert len(labels_of(records, clip_id)) == records.clip(clip_id)["frames"]


BAD_ROWS = [
    ("clips", "fps", 0.0, "clips.parquet: row 1 (clip c1): fps = 0.0"),
    ("clips", "fps", float("nan"), "fps must be a number above 0"),
    ("clips", "frames", 9, "holds 6 frames but clips.parquet says 9"),
    ("clips", "height", 0, "height must be above 0"),
    ("clips", "width", 64, "is 16x32 but clips.parquet says 16x64"),
    ("clips", "duration_s", 9.0, "duration_s must be frames / fps"),
    ("clips", "video", "../c0.mp4", "leaves the dataset's folder"),
    ("clips", "video", "/etc/passwd", "leaves the dataset's folder"),
    ("clips", "video", "videos/none.mp4", "videos/none.mp4 (clip c1): no such video file"),
    ("clips", "clip_id", "c0", "used more than once"),
    ("clips", "time_of_day", "dusk", "time_of_day must be one of day, night or null, not 'dusk'"),
    ("clips", "crowdedness", -1.0, "crowdedness must lie in 0..100"),
    ("frames", "frame", 6, "frame lies outside the clip"),
    ("frames", "frame", 2, "the frame has two rows"),
    ("frames", "timestamp_s", float("nan"), "timestamp_s is not within half a frame"),
    ("frames", "ego_speed_mps", 1000.0, "ego_speed_mps must lie in 0..60 m/s"),
    ("frames", "boxes_known", None, "boxes_known is null"),
    ("boxes", "x1", float("nan"), "x1, y1, x2, y2 must be numbers"),
    ("boxes", "x2", 0.1, "the box is inverted or empty"),
    ("boxes", "x2", 1.5, "the box leaves the picture"),
    ("boxes", "y1", -0.25, "the box leaves the picture"),
    ("boxes", "category", "tram", "unknown category; known are car, truck"),
    ("boxes", "frame", -1, "frame lies outside the clip"),
    ("boxes", "frame", 40, "frame = 40: frame lies outside the clip"),
    ("boxes", "score", 2.0, "score must lie in 0..1"),
    ("boxes", "clip_id", "stray", "names a clip that clips.parquet lacks"),
]


@pytest.mark.parametrize(("table", "column", "value", "message"), BAD_ROWS)
def test_every_fault_is_named(tmp_path: Path, table: str, column: str, value: object, message: str) -> None:
    records = make_dataset(tmp_path)
    row = {"clips": 1, "frames": FRAMES + 1, "boxes": FRAMES + 3}[table]
    rows = getattr(records, table).copy()
    rows[column] = [value if index == row else old for index, old in enumerate(rows[column])]
    write_records(tmp_path, replace(records, **{table: rows}))
    faults = check_records(tmp_path)
    assert faults
    named = [fault for fault in faults if message in str(fault)]
    assert named, [str(fault) for fault in faults]
    if "video" not in named[0].file and "twice" not in message and "more than once" not in message and "two rows" not in message:
        assert named[0].row in (row, None)
    quarantine(tmp_path, faults)
    assert check_records(tmp_path) == []
    good = {"c0", "c2"} if column != "clip_id" else {"c0", "c1", "c2"} if table == "boxes" else {"c2"}
    assert set(read_records(tmp_path).clip_ids) == good


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "gone"])
def test_bad_videos_are_found_and_set_aside(tmp_path: Path, how: str) -> None:
    make_dataset(tmp_path)
    path = tmp_path / "videos" / "c1.mp4"
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[: len(content) * 2 // 3], "empty": b"", "text": b"no video at all" * 99}[how])
    for deep in (False, True):
        (fault,) = check_records(tmp_path, deep)
        assert (fault.file, fault.clip_id, fault.row) == ("videos/c1.mp4", "c1", None)
    assert quarantine(tmp_path, [fault]) == ["c1"]
    assert check_records(tmp_path) == []
    records, aside = read_records(tmp_path), read_records(tmp_path / "quarantine")
    assert records.clip_ids == ["c0", "c2"]
    assert records.header["clips"] == 2
    assert aside.clip_ids == ["c1"]
    assert len(aside.boxes) == FRAMES + 1
    assert (tmp_path / "quarantine" / "videos" / "c1.mp4").exists() == (how != "gone")
    assert not path.exists()


def test_quarantine_grows_and_leaves_shared_and_outer_files(tmp_path: Path) -> None:
    root = tmp_path / "data"
    records = make_dataset(root)
    outer = tmp_path / "precious.mp4"
    outer.write_bytes(b"mine")
    clips = records.clips.assign(video=["videos/c0.mp4", "../precious.mp4", "videos/c0.mp4"])
    write_records(root, replace(records, clips=clips))
    faults = check_records(root)
    assert {fault.clip_id for fault in faults} == {"c1"}
    quarantine(root, faults)
    assert outer.exists()
    quarantine(root, [replace(faults[0], clip_id="c2")])
    assert (root / "videos" / "c0.mp4").exists()
    assert read_records(root / "quarantine").clip_ids == ["c1", "c2"]
    assert quarantine(root, []) == []


def edit_header(root: Path, **changes: object) -> None:
    path = root / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_datasets_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset.json: missing file"):
        read_records(tmp_path)
    root = make_dataset(tmp_path / "a").root
    edit_header(root, version="1.7")
    read_records(root)
    for changes, message in (({"version": 2}, "version 2 is unknown"), ({"format": "other"}, '"format" must be')):
        before = (root / "dataset.json").read_text()
        edit_header(root, **changes)
        with pytest.raises(DatasetError, match=message):
            read_records(root)
        assert [fault.file for fault in check_records(root)] == ["dataset.json"]
        (root / "dataset.json").write_text(before)
    (root / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="not a readable JSON"):
        read_records(root)


def test_every_broken_table_is_listed(tmp_path: Path) -> None:
    root = make_dataset(tmp_path).root
    boxes = pq.read_table(root / "boxes.parquet")
    pq.write_table(boxes.drop_columns(["x2", "category"]), root / "boxes.parquet")
    (root / "frames.parquet").write_bytes(b"nonsense")
    faults = {fault.file: fault.reason for fault in check_records(root)}
    assert "missing column category, x2" in faults["boxes.parquet"]
    assert "not a readable Parquet file" in faults["frames.parquet"]
    with pytest.raises(DatasetError, match=r"boxes.parquet: missing column category, x2"):
        read_records(root)
    strings = boxes.set_column(boxes.column_names.index("x1"), "x1", pa.array(["left"] * len(boxes)))
    pq.write_table(strings, root / "boxes.parquet")
    with pytest.raises(DatasetError, match="column x1 must hold float"):
        read_records(root)
    (root / "boxes.parquet").unlink()
    with pytest.raises(DatasetError, match=r"boxes.parquet: missing file"):
        read_records(root)


def test_labels_of_bad_rows_name_the_row(tmp_path: Path) -> None:
    records = make_dataset(tmp_path)
    late = records.boxes.assign(frame=records.boxes["frame"] + 3)
    with pytest.raises(DatasetError, match=r"boxes.parquet: row 4: frame 6 lies outside"):
        labels_of(replace(records, boxes=late), "c0")
    with pytest.raises(DatasetError, match="no clip 'c9'"):
        records.clip("c9")


def test_paths_lead_out_by_dots_and_by_links(tmp_path: Path) -> None:
    records = make_dataset(tmp_path / "clips")
    (tmp_path / "outside.mp4").write_bytes(b"video")
    for name, target in (("file.mp4", "../../outside.mp4"), ("folder", "../.."), ("inner.mp4", "c0.mp4")):
        (tmp_path / "clips" / "videos" / name).symlink_to(target)
    inside = ["videos/clip0.mp4", "videos/inner.mp4", "videos/../videos/clip0.mp4", "videos/folder/clips/videos/clip0.mp4", ".", ""]
    outside = ["../outside.mp4", "videos/file.mp4", "videos/folder/outside.mp4", "videos/../../outside.mp4", "..", str(tmp_path / "x.mp4")]
    for _ in range(2):  # folders are looked at once
        assert [name for name in inside + outside if records.leaves(name)] == outside


def test_rows_find_the_first_clip_of_their_name(tmp_path: Path) -> None:
    records = make_dataset(tmp_path / "clips")
    twice = replace(records, clips=pd.concat([records.clips, records.clips], ignore_index=True))
    rows = pd.DataFrame({"clip_id": pd.array(["c2", "c0", None, "other", "c2"], "string")})
    assert twice.clip_positions(rows).tolist() == records.clip_positions(rows).tolist() == [2, 0, -1, -1, 2]
    assert records.clip_positions(rows[:0]).tolist() == [] and records.clip_positions(rows[2:3]).tolist() == [-1]


def test_paths_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    records = make_dataset(tmp_path / "data")
    os.symlink(tmp_path, tmp_path / "data" / "away")
    for path in ("../x.mp4", "/etc/passwd", "videos/../../x.mp4", "away/x.mp4"):
        with pytest.raises(DatasetError, match="leaves the dataset's folder"):
            replace(records, clips=records.clips.assign(video=path)).video_path("c0")


def test_a_failed_write_leaves_the_old_tables(tmp_path: Path) -> None:
    records = make_dataset(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    broken = records.boxes.assign(x1="left")
    with pytest.raises(DatasetError, match="column x1 must hold float"):
        write_records(tmp_path, replace(records, boxes=broken))
    assert before == {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert check_records(tmp_path) == []


def test_the_stream_writer_refuses_and_discards(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "a").root
    with pytest.raises(DatasetError, match="already holds a clip dataset"):
        RecordsWriter(root)
    with pytest.raises(KeyError), RecordsWriter(tmp_path / "b") as writer:
        writer.append(replace(some_track(), values={}), "c", "simulated")
    assert not list((tmp_path / "b").iterdir())
    with pytest.raises(DatasetError, match="'c' was begun but never added"), RecordsWriter(tmp_path / "b") as writer:
        writer.append(some_track(), "c", "simulated")
    assert not list((tmp_path / "b").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="cannot write"):
        RecordsWriter(tmp_path / "file" / "c")
    empty = write_records(tmp_path / "d", DatasetRecords(tmp_path, empty_table("clips")))
    assert read_records(empty.root).clip_ids == []


def test_the_pieces_that_rows_come_in_do_not_show(tmp_path: Path) -> None:
    """Not in a single byte: a resumed rollout writes its rows in other pieces."""
    track = LabelTrack.unknown(9000, 7.5)
    track.values["crowdedness"][:] = np.random.default_rng(0).uniform(0, 9, 9000)
    for name, size in (("a", 9000), ("b", 701)):
        with RecordsWriter(tmp_path / name) as writer:
            for first in range(0, 9000, size):
                writer.append(track.take(range(first, min(first + size, 9000)), 7.5), "c", "requested")
            writer.add_clip("c", "videos/c.mp4", 7.5, 16, 32)
    for table in ("clips", "frames", "boxes"):
        assert (tmp_path / "a" / f"{table}.parquet").read_bytes() == (tmp_path / "b" / f"{table}.parquet").read_bytes()


def test_killed_while_streaming_leaves_no_dataset(tmp_path: Path) -> None:
    script = f"""
        import os, signal
        from drivesim.io.records import RecordsWriter
        from drivesim.labels import LabelTrack
        writer = RecordsWriter({str(tmp_path)!r})
        for _ in range(20):
            writer.append(LabelTrack.unknown(500, 7.5), "c", "requested")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list(tmp_path.glob("[!.]*"))
    with RecordsWriter(tmp_path) as writer:
        writer.append(some_track(), "c", "requested")
        writer.add_clip("c", "videos/c.mp4", FPS, 16, 32)
    assert read_records(tmp_path).clip("c")["frames"] == FRAMES


def test_streaming_labels_does_not_grow_memory(tmp_path: Path) -> None:
    piece = some_track(75)
    with RecordsWriter(tmp_path) as writer:

        def minutes(count: int) -> int:
            tracemalloc.reset_peak()
            for _ in range(6 * count):
                writer.append(piece, "c", "requested")
            return tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes()

        tracemalloc.start()
        minutes(5)
        first, last = minutes(5), minutes(15)
        tracemalloc.stop()
        writer.add_clip("c", "videos/c.mp4", FPS, 16, 32)
    assert last < 1.2 * first + 2**19
    assert read_records(tmp_path).clip("c")["frames"] == 6 * 25 * 75
