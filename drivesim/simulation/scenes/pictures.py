"""``drivesim scenario show``: boxes before there is a picture, drawn on a plain road, and what they add up to over time.

The road is the traffic generator's camera looking along a straight lane; it moves at the scenario's speed and bends for no one. This file
does not know where scenarios come from or what is made of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.atomic import replacing
from drivesim.io.encoding import write_video
from drivesim.labels import LabelTrack
from drivesim.simulation.preview import FONT, annotate
from drivesim.simulation.scenes.table import COUNT_FPS, Request, read_scenarios
from drivesim.simulation.scenes.traffic import LANE, Pinhole

__all__ = ["backdrop", "frames_of", "page", "show"]

SIZE = (256, 512)
MOST = 8
"""Scenarios that are drawn when none is named."""
DASH_M, DASHES_M = 3.0, 9.0
GROUND, SKY, PAINT = {"night": 38, None: 105, "day": 105}, {"night": (12, 14, 24), None: (150, 165, 180), "day": (150, 175, 205)}, 60


def show(table: str, out: str, ids: str | Sequence[str] | None = None, instants: int = 4) -> dict[str, Any]:
    """Draw scenarios of ``table`` to ``out``, a PNG or an MP4 by its ending.

    Args:
        ids: names, as a list or between commas; None = the first MOST of the table.   instants: pictures of each, in a PNG.

    Raises:
        UsageError: a table that cannot be read, an unknown id, another ending.   DrivesimError: ``out`` cannot be written.
    """
    path = Path(out)
    if path.suffix.lower() not in (".png", ".mp4"):
        raise UsageError(f"{out}: a picture (.png) or a video (.mp4) can be drawn")
    if instants < 1:
        raise UsageError(f"instants must be a whole number from 1, not {instants}")
    requests = read_scenarios(table)
    chosen = _chosen(table, requests, ids)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        try:
            with replacing(path) as part:
                page(chosen, instants).savefig(part, format="png", dpi=100)
        except OSError as error:
            raise DrivesimError(f"cannot write {path}: {error.strerror or error}; choose another place with --out") from error
    else:
        rate = chosen[0].fps or COUNT_FPS
        write_video(path, (frame for request in chosen for frame in frames_of(request, rate)), rate)
    return {"drawn": f"{len(chosen)} of {len(requests)} scenarios", "picture" if path.suffix.lower() == ".png" else "video": str(path)}


def _chosen(table: str, requests: Sequence[Request], ids: str | Sequence[str] | None) -> list[Request]:
    if ids is None:
        return list(requests[:MOST])
    known = {request.scenario_id: request for request in requests}
    wanted = [word.strip() for word in ids.split(",")] if isinstance(ids, str) else list(ids)
    for name in wanted:
        if name not in known:
            raise UsageError(f"{table}: no scenario {name!r}; it holds {', '.join(list(known)[:5])}{', ...' * (len(known) > 5)}")
    return [known[name] for name in wanted]


def frames_of(request: Request, fps: float) -> Iterator[np.ndarray]:
    """A scenario as a video: uint8 (h, w, 3) a frame, boxes drawn on the road and labels above, its name below."""
    labels = request.scenario.label_track(max(round(request.scenario.duration_s * fps), 1), fps)
    gone = _travelled(labels)
    for index in range(len(labels)):
        yield _drawn(request, labels, index, gone[index])


def _drawn(request: Request, labels: LabelTrack, index: int, gone: float) -> np.ndarray:
    picture = annotate(backdrop(request.scenario.time_of_day, gone), labels, index, index / labels.fps)
    cv2.putText(picture, request.scenario_id, (6, picture.shape[0] - 8), FONT, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def _travelled(labels: LabelTrack) -> np.ndarray:
    """Metres at each frame, float64 (T,); none where the speed is not known."""
    speed = np.nan_to_num(labels.values["ego_speed_mps"].astype(np.float64))
    return np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2) / labels.fps])


def backdrop(time_of_day: str | None, travelled_m: float = 0.0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A straight road of three lanes from the middle one, uint8 (h, w, 3); its dashes have come ``travelled_m`` metres nearer."""
    height, width = size
    camera, grey = Pinhole(), GROUND[time_of_day]
    picture = np.full((height, width, 3), (grey * 0.8, grey * 0.95, grey * 0.8), np.uint8)
    picture[: round(camera.horizon * height)] = SKY[time_of_day]
    _strip(picture, camera, (-1.5 * LANE, 1.5 * LANE), (2.2, 400.0), grey)
    for side in (-0.5, 0.5):
        for near in np.arange(-travelled_m % DASHES_M, 80.0, DASHES_M):
            if near + DASH_M > 2.2:
                _strip(picture, camera, (side * LANE - 0.08, side * LANE + 0.08), (max(near, 2.2), near + DASH_M), grey + PAINT)
    return picture


def _strip(picture: np.ndarray, camera: Pinhole, x: tuple[float, float], z: tuple[float, float], grey: int) -> None:
    """Fill the rectangle x by z metres of the ground."""
    corners = [(x[0], z[0]), (x[1], z[0]), (x[1], z[1]), (x[0], z[1])]
    points = [(camera.column(np.array(a), np.array(b)), camera.row(0.0, np.array(b))) for a, b in corners]
    scaled = np.round(np.array(points, np.float64) * (picture.shape[1], picture.shape[0])).astype(np.int32)
    cv2.fillPoly(picture, [scaled], (grey, grey, grey), cv2.LINE_AA)


def page(requests: Sequence[Request], instants: int = 4) -> Figure:
    """A row for each scenario: ``instants`` pictures, evenly apart, and its crowdedness and speed over time."""
    figure = Figure(figsize=(3.6 * instants + 4.2, 2.15 * len(requests) + 0.2), layout="constrained")
    axes = figure.subplots(len(requests), instants + 1, squeeze=False, width_ratios=[1.0] * instants + [1.1])
    for row, request in zip(axes, requests, strict=True):
        fps = request.fps or COUNT_FPS
        labels = request.scenario.label_track(max(round(request.scenario.duration_s * fps), 1), fps)
        gone = _travelled(labels)
        for axis, index in zip(row, np.linspace(0, len(labels) - 1, instants).round().astype(int), strict=False):
            axis.imshow(_drawn(request, labels, int(index), gone[index]))
            axis.set_axis_off()
        _timeline(row[-1], request, labels)
    return figure


def _timeline(axis: Axes, request: Request, labels: LabelTrack) -> None:
    vehicles, speed = (labels.values[name] for name in ("crowdedness", "ego_speed_mps"))
    boxes = " (boxes are sampled when it is made)" if request.scenario.tracks is None else ""
    axis.set_title(f"{request.scenario_id}{boxes}", fontsize=8)
    axis.step(labels.timestamp_s, vehicles, where="post", color="tab:blue")
    axis.set_ylim(0, max(float(np.nan_to_num(vehicles).max()) * 1.15, 1.0))
    axis.set_xlim(0, request.scenario.duration_s)
    axis.set_ylabel("vehicles", color="tab:blue", fontsize=8)
    axis.set_xlabel("s", fontsize=8)
    other = axis.twinx()
    other.plot(labels.timestamp_s, speed, color="tab:orange")
    other.set_ylim(0, max(float(np.nan_to_num(speed).max()) * 1.15, 1.0))
    other.set_ylabel("speed, m/s", color="tab:orange", fontsize=8)
    for each in (axis, other):
        each.tick_params(labelsize=7)
