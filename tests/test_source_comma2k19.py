"""comma2k19 in its true layout, written by the tests: poses on a globe turn into speed, turn rate and the light of the hour."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from drivesim import cli
from drivesim.datasets.check import check_dataset
from drivesim.datasets.sources.comma2k19 import import_comma2k19
from drivesim.datasets.sources.earth import EQUATOR_M, POLE_M, east_north_up, sun_elevation, utc_of_gps
from drivesim.errors import UsageError
from drivesim.io.records import DatasetError, labels_of, read_records

ROUTE, OTHER = "b0c9d2329ad1606b|2018-08-02--08-34-47", "99c94dc769b5d96e|2018-05-01--08-13-53"
FRAMES, SPEED, TURN = 24, 25.0, 0.1
NOON, MIDNIGHT, DUSK = (datetime(2018, 8, day, hour, minute, tzinfo=UTC) for day, hour, minute in ((2, 20, 10), (3, 8, 10), (3, 3, 25)))
needs_hevc = pytest.mark.skipif("libx265" not in av.codecs_available, reason="this PyAV has no HEVC encoder (libx265)")
pytestmark = needs_hevc


def place(latitude: float, longitude: float) -> np.ndarray:
    """Degrees -> ECEF at height 0."""
    phi, lam = np.deg2rad([latitude, longitude])
    n = EQUATOR_M**2 / np.hypot(EQUATOR_M * np.cos(phi), POLE_M * np.sin(phi))
    return np.array([n * np.cos(phi) * np.cos(lam), n * np.cos(phi) * np.sin(lam), n * (POLE_M / EQUATOR_M) ** 2 * np.sin(phi)])


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) -> w, x, y, z: the eigenvector of Bar-Itzhack's matrix."""
    m = matrix
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], m[1, 0] + m[0, 1], m[2, 0] + m[0, 2], m[2, 1] - m[1, 2]],
            [m[1, 0] + m[0, 1], m[1, 1] - m[0, 0] - m[2, 2], m[2, 1] + m[1, 2], m[0, 2] - m[2, 0]],
            [m[2, 0] + m[0, 2], m[2, 1] + m[1, 2], m[2, 2] - m[0, 0] - m[1, 1], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m[0, 0] + m[1, 1] + m[2, 2]],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return np.array([w, x, y, z])


def save(path: Path, values: np.ndarray) -> None:
    """NumPy's format without a suffix, as the release has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.save(file, values)


def film(path: Path, frames: int = FRAMES, size: tuple[int, int] = (72, 96)) -> None:
    """A raw HEVC stream; frame k is grey with value 8 k."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="hevc") as container:
        stream = container.add_stream("libx265", rate=20, options={"preset": "ultrafast", "x265-params": "log-level=error:bframes=0"})
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 20)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def segment(folder: Path, when: datetime, frames: int = FRAMES) -> Path:
    """A minute cut short: on highway 280, first to the north, ever more to the left."""
    film(folder / "video.hevc")
    times = 1000 + np.arange(frames) / 20
    here = place(37.6, -122.4)
    (east,), (north,), (up,) = east_north_up(here[None])
    heading = TURN * (times - times[0]) + np.pi / 2 + 3  # counted from east, across the jump from pi to -pi
    forward = np.cos(heading)[:, None] * east + np.sin(heading)[:, None] * north
    rotations = np.stack([forward, np.cross(-up, forward), np.broadcast_to(-up, forward.shape)], axis=2)  # right = down x forward
    gps = (when - datetime(1980, 1, 6, tzinfo=UTC)).total_seconds() + 18 + np.arange(frames) / 20
    poses = folder / "global_pose"
    save(poses / "frame_times", times)
    save(poses / "frame_gps_times", np.stack([gps // 604800, gps % 604800], axis=1))
    save(poses / "frame_positions", here + np.cumsum(forward * SPEED / 20, axis=0))
    save(poses / "frame_velocities", forward * SPEED)
    save(poses / "frame_orientations", np.array([quaternion(rotation) for rotation in rotations]))
    sent = np.arange(999.93, times[-1] - 0.1, 0.01)
    save(folder / "processed_log" / "CAN" / "speed" / "t", sent)
    save(folder / "processed_log" / "CAN" / "speed" / "value", (SPEED + 2 * (sent - 1000))[:, None])
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "comma2k19"
    segment(root / "Chunk_1" / ROUTE / "9", NOON)
    segment(root / "Chunk_1" / ROUTE / "10", MIDNIGHT)
    segment(root / "Chunk_3" / OTHER / "0", DUSK)
    (root / "Chunk_2.zip").write_bytes(b"not extracted")
    return root


@pytest.fixture
def comma(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "comma2k19")
    return tmp_path / "comma2k19"


def test_segments_become_clips(comma: Path, tmp_path: Path) -> None:
    summary = import_comma2k19(comma, tmp_path / "out", progress=False)
    assert (summary["clips"], summary["frames"]) == (3, 3 * FRAMES)
    assert summary["left_out"] == {"Chunk_2.zip": "not extracted; unzip it here"}
    assert check_dataset(tmp_path / "out")["faults"] == 0
    records = read_records(tmp_path / "out")
    name = ROUTE.replace("|", "_")
    other = OTHER.replace("|", "_")
    assert records.clip_ids == [f"comma2k19_{name}_9", f"comma2k19_{name}_10", f"comma2k19_{other}_0"], "in the order driven"
    assert set(records.clips["fps"]) == {20.0}, "not the 25 that a raw stream makes players guess"
    assert records.clips["split"].tolist() in (["train", "train", "val"], ["val", "val", "train"]), "a route is on one side"
    assert records.clips["time_of_day"].fillna("unknown").tolist() == ["day", "night", "unknown"]
    assert set(records.clips["licence"]) == {"MIT"} and records.clips["camera"].isna().all(), "not of this picture size"
    assert not labels_of(records, records.clip_ids[0]).boxes_known.any(), "nobody looked"
    assert json.loads(records.clips["provenance"][1])["segment"] == 10


def test_speed_turning_and_poses(comma: Path, tmp_path: Path) -> None:
    import_comma2k19(comma, tmp_path / "out", progress=False)
    records = read_records(tmp_path / "out")
    track = labels_of(records, records.clip_ids[0])
    seconds = np.arange(FRAMES) / 20
    heard = seconds < seconds[-1] - 0.12
    np.testing.assert_allclose(track.values["ego_speed_mps"][heard], (SPEED + 2 * seconds)[heard], rtol=1e-5)
    assert np.isnan(track.values["ego_speed_mps"][-2:]).all(), "the car had stopped telling"
    np.testing.assert_allclose(track.values["ego_yaw_rate_radps"], TURN, atol=1e-4)
    pose = records.frames_of(records.clip_ids[0])["ego_pose"].iloc[5]
    np.testing.assert_array_equal(pose[:3], np.load(comma / "Chunk_1" / ROUTE / "9" / "global_pose" / "frame_positions")[5])


def test_the_camera_belongs_to_its_picture_size(comma: Path, tmp_path: Path) -> None:
    shutil.rmtree(comma / "Chunk_3")
    for number in ("9", "10"):
        film(comma / "Chunk_1" / ROUTE / number / "video.hevc", 12 if number == "9" else 8, (874, 1164))
    import_comma2k19(comma / "Chunk_1", tmp_path / "out", height=218, width=290, progress=False)
    records = read_records(tmp_path / "out")
    camera = json.loads(records.clips["camera"][0])
    assert camera["fx"] == pytest.approx(910 / 4, rel=0.01) and camera["cy"] == pytest.approx(109, abs=0.5)
    assert records.clips["frames"].tolist() == [12, 8], "poses beyond the video are dropped"


def test_names_without_a_pipe_and_single_routes(comma: Path, tmp_path: Path) -> None:
    route = comma / "Chunk_1" / ROUTE
    route = route.rename(route.with_name(ROUTE.replace("|", "_")))
    assert import_comma2k19(comma, tmp_path / "all", progress=False)["clips"] == 3
    assert import_comma2k19(route, tmp_path / "route", progress=False)["clips"] == 2


def test_a_video_beyond_its_poses_and_holes_in_them(comma: Path, tmp_path: Path) -> None:
    poses = comma / "Chunk_1" / ROUTE / "9" / "global_pose"
    for path in poses.iterdir():
        values = np.load(path)[: FRAMES - 3]
        if path.name in ("frame_positions", "frame_orientations"):
            values[4] = np.nan
        save(path, values)
    import_comma2k19(comma, tmp_path / "out", progress=False)
    records = read_records(tmp_path / "out")
    values = labels_of(records, records.clip_ids[0]).values
    unknown = np.flatnonzero(np.isnan(values["ego_yaw_rate_radps"])).tolist()
    assert unknown == [3, 4, 5, FRAMES - 3, FRAMES - 2, FRAMES - 1], "an unknown pose spoils its neighbours only"
    assert records.frames_of(records.clip_ids[0])["ego_pose"].isna().sum() == 4


@pytest.mark.parametrize(
    "gone",
    ["video.hevc", *(f"global_pose/frame_{name}" for name in ("times", "gps_times", "positions", "orientations")),
     "processed_log/CAN/speed/t", "processed_log/CAN/speed/value"],
)  # fmt: skip
def test_what_is_missing_is_named(gone: str, comma: Path, tmp_path: Path) -> None:
    (comma / "Chunk_1" / ROUTE / "10" / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=rf"10/{gone}: missing.*Chunk_1\.zip"):
        import_comma2k19(comma, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def pickled(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pickled, r"frame_times: not a readable NumPy array.*pickle.*Chunk_1\.zip"),
        (lambda path: path.write_bytes(b"x"), r"frame_times: not a readable NumPy array"),
        (lambda path: save(path, np.zeros((FRAMES, 3))), r"frame_times: an array of \(24, 3\) where 1 numbers"),
        (lambda path: save(path, np.arange(5.0)), r"global_pose: arrays of 5, 24 rows"),
        (lambda path: save(path, np.array(["a"] * FRAMES)), r"frame_times: not a readable NumPy array"),
    ],
)
def test_damage_is_named(spoil: Callable[[Path], None], message: str, comma: Path, tmp_path: Path) -> None:
    spoil(comma / "Chunk_1" / ROUTE / "10" / "global_pose" / "frame_times")
    with pytest.raises(DatasetError, match=message):
        import_comma2k19(comma, tmp_path / "out", progress=False)


def test_segments_cut_short_are_left_out_and_told(comma: Path, tmp_path: Path) -> None:
    film(comma / "Chunk_1" / ROUTE / "9" / "video.hevc", 2)
    save(comma / "Chunk_1" / ROUTE / "10" / "global_pose" / "frame_times", np.zeros(FRAMES))
    left_out = import_comma2k19(comma, tmp_path / "out", progress=False)["left_out"]
    name = ROUTE.replace("|", "_")
    assert left_out[f"{name}/9"].startswith("2 frames and 24 poses") and "Chunk_1.zip" in left_out[f"{name}/9"]
    assert "do not rise" in left_out[f"{name}/10"]


def test_folders_that_hold_nothing(comma: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such folder.*Chunk_1\.zip"):
        import_comma2k19(tmp_path / "absent", tmp_path / "out", progress=False)
    with pytest.raises(DatasetError, match=r"no route.*Chunk_1\.zip"):
        import_comma2k19(tmp_path / "comma2k19" / "Chunk_1" / ROUTE / "9", tmp_path / "out", progress=False)
    for chunk in ("Chunk_1", "Chunk_3"):
        shutil.rmtree(comma / chunk)
    with pytest.raises(DatasetError, match=r"Chunk_2\.zip not extracted"):
        import_comma2k19(comma, tmp_path / "out", progress=False)


def test_the_sun_is_where_almanacs_say() -> None:
    """Sunrise and sunset of San Francisco on 2 August 2018 were at 6:13 and 20:16 Pacific time; the sun stands 0.83 degrees low then."""
    here = place(37.77, -122.42)[None]
    for told in (datetime(2018, 8, 2, 13, 13, tzinfo=UTC), datetime(2018, 8, 3, 3, 16, tzinfo=UTC)):
        times = [told + timedelta(minutes=step) for step in (-3, 3)]
        low, high = sorted(float(np.rad2deg(sun_elevation(np.array([time.timestamp()]), here)[0])) for time in times)
        assert low < -0.83 < high
    equinox = datetime(2018, 3, 20, 12, 7, 25, tzinfo=UTC).timestamp()  # apparent noon in Greenwich
    assert np.rad2deg(sun_elevation(np.array([equinox]), place(0, 0)[None])[0]) > 89.5
    assert np.rad2deg(sun_elevation(np.array([equinox]), place(50, 0)[None])[0]) == pytest.approx(40, abs=0.2)
    assert utc_of_gps(np.array([2011]), np.array([454455.0]))[0] == datetime(2018, 7, 27, 6, 13, 57, tzinfo=UTC).timestamp()


def test_command(comma: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "import", "comma2k19", str(comma), "--out", str(tmp_path / "out"), "progress=false"]) == 0
    assert "clips: 3" in capsys.readouterr().out
