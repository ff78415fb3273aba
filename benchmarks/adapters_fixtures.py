"""Small stand-ins for releases, in their layouts and picture sizes, for ``adapters``: drawn roads with camera noise instead of recordings.

No file of a release is in here. This file does not measure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from drivesim.datasets.exports.lerobot import export_lerobot
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.io.records import read_records
from drivesim.io.video import iterate_frames, write_video

__all__ = ["Made", "bdd100k", "comma2k19", "kitti", "lerobot", "nuscenes"]

RECORDINGS = 2


@dataclass(frozen=True)
class Made:
    """root: what the adapter is given.   sources: of each recording its video or its pictures.   size: (height, width)."""

    root: Path
    sources: list[list[Path]]
    fps: float
    size: tuple[int, int]


def drawn(root: Path, frames: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """``frames`` pictures uint8 RGB of ``size``: a drawn drive, enlarged, with noise that an encoder has to spend bits on."""
    if not root.exists():
        make_road_world(root, clips=1, seconds=frames / 7.5 + 1, height=256, width=512)
    records, noise = read_records(root), np.random.default_rng(0)
    grain = noise.normal(0, 3, (8, *size, 1)).astype(np.float32)
    for number, picture in zip(range(frames), iterate_frames(records.video_path(records.clip_ids[0])), strict=False):
        large = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_CUBIC)
        yield np.clip(large + grain[number % 8], 0, 255).astype(np.uint8)


def _pictures(paths: list[Path], root: Path, size: tuple[int, int]) -> list[Path]:
    for path, picture in zip(paths, drawn(root.with_name(f"drive_of_{root.name}"), len(paths), size), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture[:, :, ::-1])
    return paths


def kitti(root: Path, frames: int) -> Made:
    """The tracking benchmark: five cars in every picture."""
    size, sources = (375, 1242), []
    row = "{} {} Car 0 0 -1.57 {} 150 {} 250 1.5 1.6 4 1 1.6 20 0\n"
    for number in range(RECORDINGS):
        folder = root / "training" / "image_02" / f"{number:04d}"
        sources.append(_pictures([folder / f"{frame:06d}.png" for frame in range(frames)], root, size))
        labels = root / "training" / "label_02" / f"{number:04d}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("".join(row.format(frame, car, 100 * car, 100 * car + 90) for frame in range(frames) for car in range(5)))
    return Made(root, sources, 10, size)


def nuscenes(root: Path, frames: int) -> Made:
    """Two scenes of one camera; every sixth picture is a keyframe, with five cars before it."""
    size, sources = (900, 1600), []
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("scene", "sample", "sample_data", "sample_annotation", "ego_pose")}
    for number in range(RECORDINGS):
        scene = f"s{number}"
        rows["scene"].append({"token": scene, "name": f"scene-{number:04d}", "description": "Day", "log_token": "l"})
        paths = []
        for frame in range(frames):
            key, name, time = frame % 6 == 0, f"{scene}_{frame}", round(frame / 12 * 1e6)
            paths.append(root / ("samples" if key else "sweeps") / "CAM_FRONT" / f"{name}.jpg")
            rows["ego_pose"].append({"token": name, "timestamp": time, "rotation": [1, 0, 0, 0], "translation": [frame / 2, 0, 0]})
            about = {"token": name, "sample_token": f"{scene}k{frame // 6}", "ego_pose_token": name, "is_key_frame": key, "timestamp": time}
            about |= {"calibrated_sensor_token": "c", "filename": str(paths[-1].relative_to(root)), "height": size[0], "width": size[1]}
            rows["sample_data"].append(about)
            if key:
                rows["sample"].append({"token": f"{scene}k{frame // 6}", "timestamp": time, "scene_token": scene})
                rows["sample_annotation"] += [_car(f"{name}_{car}", f"{scene}k{frame // 6}", frame / 2, car) for car in range(5)]
        sources.append(_pictures(paths, root, size))
    rows |= {"log": [{"token": "l"}], "category": [{"token": "k", "name": "vehicle.car"}]}
    rows |= {"sensor": [{"token": "f", "channel": "CAM_FRONT"}], "instance": [{"token": "i", "category_token": "k"}]}
    camera: dict[str, Any] = {"token": "c", "sensor_token": "f", "rotation": [0.5, -0.5, 0.5, -0.5], "translation": [1.7, 0, 1.5]}
    rows["calibrated_sensor"] = [{**camera, "camera_intrinsic": [[1266, 0, 800], [0, 1266, 450], [0, 0, 1]]}]
    (root / "v1.0-mini").mkdir(parents=True)
    for name, table in rows.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(table))
    return Made(root, sources, 12, size)


def _car(token: str, sample: str, x: float, number: int) -> dict[str, Any]:
    about = {"token": token, "sample_token": sample, "instance_token": "i", "translation": [x + 20 + 5 * number, number - 2, 1]}
    return {**about, "size": [2, 4, 1.5], "rotation": [1, 0, 0, 0], "visibility_token": "4", "num_lidar_pts": 9, "num_radar_pts": 0}


def bdd100k(root: Path, frames: int) -> Made:
    """Videos with tracks at 5 a second."""
    size, sources = (720, 1280), []
    for number in range(RECORDINGS):
        name = f"0000f77c-6257be5{number}"
        path = root / "videos" / "train" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, drawn(root.with_name("drive_of_bdd100k"), frames, size), 30)
        sources.append([path.rename(path.with_suffix(".mov"))])
        labels = root / "labels" / "box_track_20" / "train" / f"{name}.json"
        labels.parent.mkdir(parents=True, exist_ok=True)
        box = {"id": "1", "category": "car", "attributes": {}, "box2d": {"x1": 300, "y1": 300, "x2": 500, "y2": 450}}
        labels.write_text(json.dumps([{"videoName": name, "frameIndex": at, "labels": [box]} for at in range(frames // 6)]))
    return Made(root, sources, 30, size)


def comma2k19(root: Path, frames: int) -> Made:
    """A raw HEVC stream a segment, poses and speed."""
    size, sources = (874, 1164), []
    for number in range(RECORDINGS):
        folder = root / "Chunk_1" / "b0c9d2329ad1606b|2018-08-02--08-34-47" / str(number)
        folder.mkdir(parents=True)
        sources.append([_hevc(folder / "video.hevc", drawn(root.with_name("drive_of_comma2k19"), frames, size), size)])
        times = 100 + np.arange(frames) / 20
        place, one = np.array([-2709000.0, -4270000.0, 3877000.0]), np.ones((frames, 1))
        arrays = {"frame_times": times, "frame_gps_times": one * [2012.0, 400000.0], "frame_positions": one * place}
        arrays |= {"frame_orientations": one * [1.0, 0, 0, 0], "frame_velocities": one * [20.0, 0, 0]}
        for name, values in {**{f"global_pose/{name}": value for name, value in arrays.items()}, **_speed(times)}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("wb") as file:
                np.save(file, values)
    return Made(root, sources, 20, size)


def _speed(times: np.ndarray) -> dict[str, np.ndarray]:
    return {"processed_log/CAN/speed/t": times, "processed_log/CAN/speed/value": np.full((len(times), 1), 20.0)}


def _hevc(path: Path, pictures: Iterator[np.ndarray], size: tuple[int, int]) -> Path:
    with av.open(str(path), "w", format="hevc") as container:
        stream = container.add_stream("libx265", rate=20, options={"preset": "ultrafast", "x265-params": "log-level=error"})
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 20)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def lerobot(root: Path, frames: int) -> Made:
    """Our own export of drawn clips."""
    clips = root.with_name("clips_of_lerobot")
    make_road_world(clips, clips=RECORDINGS, seconds=frames / 7.5, height=512, width=1024)
    export_lerobot(clips, root)
    sources = [[path] for path in sorted(root.glob("videos/*/*/*.mp4"))]
    return Made(root, sources, 7.5, (512, 1024))
