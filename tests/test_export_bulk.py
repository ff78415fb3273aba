"""Quick ways of exports against the slow ones that they stand for: labels of all clips at once, frames counted in an MP4's index."""

from __future__ import annotations

import tempfile
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outgoing import label_tracks, track_of, write_clips

from drivesim.datasets.exports.bulk_labels import BulkLabels
from drivesim.datasets.exports.lerobot_tables import merged, stats_of
from drivesim.datasets.exports.mp4_index import indexed_frames
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.io.records import DatasetRecords, labels_of, read_records
from drivesim.io.video import count_frames, write_video
from drivesim.labels import LabelTrack


def same(first: LabelTrack, second: LabelTrack) -> None:
    assert first.fps == second.fps
    np.testing.assert_array_equal(first.boxes_known, second.boxes_known)
    for name in first.values:
        np.testing.assert_array_equal(first.values[name], second.values[name], err_msg=name)
    for name in ("frame", "track_id", "category", "xyxy", "ignore"):
        np.testing.assert_array_equal(getattr(first.boxes, name), getattr(second.boxes, name), err_msg=name)


def agree(records: DatasetRecords) -> None:
    bulk = BulkLabels(records)
    for position, clip_id in enumerate(records.clip_ids):
        same(bulk.track(position), labels_of(records, clip_id))


@settings(max_examples=10, deadline=None)
@given(st.lists(label_tracks(frames=3), min_size=1, max_size=3))
def test_all_at_once_is_clip_by_clip(tracks: list[LabelTrack]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        agree(read_records(write_clips(Path(folder) / "clips", tracks)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "clips"
    make_road_world(root, clips=3, seconds=2, height=64, width=128)
    return root


def test_whatever_the_tables_leave_open(world: Path) -> None:
    records = read_records(world)
    assert records.frames is not None
    agree(records)
    agree(DatasetRecords(world, records.clips, records.boxes, None, records.header))
    bare = records.boxes[records.boxes["clip_id"] != records.clip_ids[1]]
    agree(DatasetRecords(world, records.clips, bare, None, records.header))
    open_ = records.boxes.assign(ignore=pd.array([None] * len(records.boxes), "boolean"), occlusion=np.linspace(0, 1, len(records.boxes)))
    shuffled = open_.sample(frac=1, random_state=0)
    silent = records.frames.assign(time_of_day=None)
    agree(DatasetRecords(world, records.clips, shuffled, silent, records.header))
    some = records.frames[(records.frames["clip_id"] != records.clip_ids[0]) & (records.frames["frame"] % 3 > 0)]
    agree(DatasetRecords(world, records.clips, records.boxes, some, records.header))
    agree(DatasetRecords(world, records.clips.iloc[1:], records.boxes, records.frames, records.header))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_statistics_episode_by_episode(lengths: list[int], data: st.DataObject) -> None:
    numbers = st.lists(st.sampled_from([np.nan, -1.5, 0.0, 2.0, 7.0]), min_size=sum(lengths) * 2, max_size=sum(lengths) * 2)
    values = np.array(data.draw(numbers)).reshape(-1, 2)
    found = stats_of(values, np.array(lengths))
    parts = np.split(values, np.cumsum(lengths)[:-1])
    for episode, part in enumerate(parts):
        rows = part[~np.isnan(part).any(axis=1)]
        shown = rows if len(rows) else np.zeros((1, 2))
        for name, expected in {"min": shown.min(0), "max": shown.max(0), "mean": shown.mean(0), "std": shown.std(0)}.items():
            np.testing.assert_allclose(found[name][episode], expected, atol=1e-12)
        assert found["count"][episode].tolist() == [len(rows)]
    whole, rows = merged(found), values[~np.isnan(values).any(axis=1)]
    if len(rows):
        np.testing.assert_allclose(whole["mean"][0], rows.mean(0), atol=1e-12)
        np.testing.assert_allclose(whole["std"][0], rows.std(0), atol=1e-12)


@pytest.mark.parametrize("frames", [1, 2, 40])
def test_the_index_tells_what_counting_does(frames: int, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (frames, 32, 64, 3), np.uint8)
    write_video(path, noise, 7.5)
    assert indexed_frames(path) == count_frames(path) == frames
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert indexed_frames(path) in (frames - 1, None), "the last frame's bytes are not all there"
    for cut in (0, 4, 40, 300, len(whole) // 2):
        path.write_bytes(whole[:cut])
        held = indexed_frames(path)
        assert held is None or held < frames


def test_what_has_no_plain_index_is_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "none.mp4").write_bytes(b"\x00" * 64)
    assert indexed_frames(tmp_path / "none.mp4") is None
    fragmented = tmp_path / "fragmented.mp4"
    with av.open(str(fragmented), "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((32, 64, 3), number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert indexed_frames(fragmented) is None and count_frames(fragmented) == 3


def test_a_clip_without_boxes_or_frames_rows_is_unknown(tmp_path: Path) -> None:
    records = read_records(write_clips(tmp_path / "clips", [track_of(2, [])]))
    bulk = BulkLabels(DatasetRecords(records.root, records.clips, records.boxes, None, records.header))
    assert not bulk.track(0).boxes_known.any()
