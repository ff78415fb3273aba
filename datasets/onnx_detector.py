"""A detector the user names as an ONNX file: YOLO as Ultralytics exports it, YOLOX, or boxes that come out finished.

The layout is read from the shape of the output, the names of the classes from the file's own metadata, else they are COCO's. ``MAPPING``
says which of them become which of our categories; all others are dropped. onnxruntime is the optional extra ``label``. This file does not
know videos or tracks.

Legend: K classes   n rows
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drivesim.errors import DrivesimError, UsageError
from drivesim.labels import CATEGORIES, VEHICLES

from .tracking import Found

__all__ = ["COCO", "MAPPING", "OnnxDetector", "boxes_of_output", "letterbox"]

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant", "stop sign",
    "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
    "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv",
    "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
MAPPING = {
    "person": "person", "pedestrian": "person", "bicycle": "bicycle", "car": "car", "motorcycle": "motorcycle", "motorbike": "motorcycle",
    "bus": "bus", "truck": "truck",
}  # fmt: skip
"""A detector's class -> our category. COCO's train, traffic lights, animals and things are dropped."""
STRIDES = (8, 16, 32)
GREY = 114
OVERLAP = 0.6
"""Of two boxes of one group (vehicles; the others each by category) that overlap by more than this IoU the better one stays."""
DOUBTFUL = 0.6
"""Share of the sure score down to which a detection is told."""


class OnnxDetector:
    """An ONNX file -> what is in a frame.

    Args:
        path: the file.   threshold: score from which a detection is sure.   size: side of the network's square input where the file
        leaves it open.   classes: names in the network's order; None = the file's own, else COCO's.   pixels: what the network is fed:
        "rgb1" = RGB in 0..1, "bgr255" = BGR in 0..255, "auto" = the latter for YOLOX.

    Raises:
        UsageError: onnxruntime or the file is missing, the file is no detector of a known layout, or no class is one of ours.
    """

    def __init__(
        self, path: str | Path, threshold: float = 0.4, size: int = 640, classes: Sequence[str] | None = None, pixels: str = "auto"
    ) -> None:  # fmt: skip
        if pixels not in ("auto", "rgb1", "bgr255"):
            raise UsageError(f"pixels must be auto, rgb1 or bgr255, not {pixels!r}")
        self.path, self.threshold, self.name = Path(path), threshold, Path(path).stem
        self.session = _session(self.path)
        given = self.session.get_inputs()[0]
        self.input, shape = given.name, given.shape
        if len(shape) != 4 or shape[1] not in (3, "3"):
            raise UsageError(f"{path}: its input is {shape}, not (1, 3, height, width); give a detector of pictures")
        self.height, self.width = (side if isinstance(side, int) else size for side in shape[2:])
        self.half = given.type == "tensor(float16)"
        told = self.session.get_modelmeta().custom_metadata_map.get("names")
        self.classes = tuple(classes) if classes else _names(told) or COCO
        self.category = np.array([CATEGORIES.index(MAPPING[name]) if name in MAPPING else -1 for name in map(str.lower, self.classes)])
        if (self.category < 0).all():
            raise UsageError(f"{path}: none of its classes ({', '.join(self.classes[:6])}, ...) is one of {', '.join(MAPPING)}")
        self.layout = layout_of(self._run(np.full((self.height, self.width, 3), GREY, np.uint8), "rgb1").shape, len(self.classes), path)
        self.pixels = pixels if pixels != "auto" else "bgr255" if self.layout == "yolox" else "rgb1"

    def find(self, frames: np.ndarray) -> list[Found]:
        """uint8 RGB (f, h, w, 3) -> detections of each frame with a score of at least DOUBTFUL of the sure one."""
        return [self._in(frame) for frame in frames]

    def _in(self, frame: np.ndarray) -> Found:
        corner = self.layout == "yolox"
        picture, scale, (left, top) = letterbox(frame, self.height, self.width, corner)
        xyxy, score, label = boxes_of_output(self._run(picture, self.pixels), self.layout, self.height, self.width)
        category = self.category[label]
        keep = (category >= 0) & (score >= DOUBTFUL * self.threshold)
        xyxy = (xyxy[keep] - (left, top, left, top)) / scale / np.tile(frame.shape[1::-1], 2)
        return _suppressed(np.clip(xyxy, 0, 1).astype(np.float32), score[keep].astype(np.float32), category[keep])

    def _run(self, picture: np.ndarray, pixels: str) -> np.ndarray:
        """One picture of the network's size -> its first output (rows, columns)."""
        ordered, white = (picture[..., ::-1], 1.0) if pixels == "bgr255" else (picture, 255.0)
        fed = (ordered.astype(np.float32) / white).transpose(2, 0, 1)[None]
        out = self.session.run(None, {self.input: np.ascontiguousarray(fed, np.float16 if self.half else np.float32)})[0]
        if out.ndim != 3 or out.shape[0] != 1:
            raise UsageError(f"{self.path}: its output is {out.shape}, not (1, 4 + K, n), (1, n, 5 + K) or (1, n, 6)")
        return np.asarray(out[0], np.float32)


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UsageError("an ONNX detector needs onnxruntime; install it with: pip install 'drivesim[label]'") from None
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give the ONNX file of a detector")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class
        raise UsageError(f"{path}: not a usable ONNX file ({str(error).splitlines()[0]}); export it again") from error


def _names(told: str | None) -> tuple[str, ...]:
    """Ultralytics writes ``{0: 'person', 1: ...}`` into the file."""
    try:
        names = ast.literal_eval(told or "{}")
    except (ValueError, SyntaxError):
        return ()
    return tuple(str(names[k]) for k in sorted(names)) if isinstance(names, dict) else tuple(map(str, names))


def layout_of(shape: Sequence[int], classes: int, path: str | Path) -> str:
    """Output (rows, columns) -> "ultralytics" (4 + K, n), "yolox" (n, 5 + K) or "finished" (n, 6).

    Raises:
        UsageError: none of them with that many classes.
    """
    for name, there in (("ultralytics", shape[0] == 4 + classes), ("yolox", shape[1] == 5 + classes), ("finished", shape[1] == 6)):
        if there:
            return name
    raise UsageError(
        f"{path}: its output is (1, {shape[0]}, {shape[1]}), which fits no known layout with {classes} classes: (1, {4 + classes}, n) of "
        f"Ultralytics, (1, n, {5 + classes}) of YOLOX, or (1, n, 6); name other classes with classes=[...]"
    )


def letterbox(frame: np.ndarray, height: int, width: int, corner: bool) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Resize with the aspect kept, grey beside it: (picture, scale, (left, top)). corner: the frame lies in the upper left corner."""
    scale = min(height / frame.shape[0], width / frame.shape[1])
    high, wide = round(frame.shape[0] * scale), round(frame.shape[1] * scale)
    left, top = (0, 0) if corner else ((width - wide) // 2, (height - high) // 2)
    picture = np.full((height, width, 3), GREY, np.uint8)
    picture[top : top + high, left : left + wide] = cv2.resize(frame, (wide, high), interpolation=cv2.INTER_LINEAR)
    return picture, scale, (left, top)


def boxes_of_output(out: np.ndarray, layout: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One frame's output -> xyxy (n, 4) in the network's pixels, score (n,), class (n,)."""
    if layout == "finished":
        return out[:, :4], out[:, 4], out[:, 5].astype(np.int64)
    rows = out.T if layout == "ultralytics" else _on_grid(out, height, width)
    scores = rows[:, 4:] if layout == "ultralytics" else rows[:, 5:] * rows[:, 4:5]
    label = scores.argmax(1)
    half = rows[:, 2:4] / 2
    return np.concatenate([rows[:, :2] - half, rows[:, :2] + half], 1), scores[np.arange(len(rows)), label], label


def _on_grid(out: np.ndarray, height: int, width: int) -> np.ndarray:
    """YOLOX leaves places as offsets in cells and sizes as logarithms unless it was exported decoded, when places span the picture."""
    if len(out) == 0 or out[:, :2].max() > min(height, width) / 2:
        return out
    shapes = [(height // stride, width // stride) for stride in STRIDES]
    cells = np.concatenate([np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).reshape(-1, 2) for h, w in shapes])
    stride = np.repeat(STRIDES, [h * w for h, w in shapes])[:, None]
    if len(cells) != len(out):
        raise DrivesimError(f"a YOLOX output of {len(out)} rows does not fit {height}x{width} pixels at strides {STRIDES}")
    return np.concatenate([(out[:, :2] + cells) * stride, np.exp(out[:, 2:4]) * stride, out[:, 4:]], 1)


def _suppressed(xyxy: np.ndarray, score: np.ndarray, category: np.ndarray) -> Found:
    """Best first, without what a better one of its group covers, and without boxes that have no area."""
    group = np.maximum(category - len(VEHICLES) + 1, 0)
    whole = np.flatnonzero(((xyxy[:, 2:] - xyxy[:, :2]) > 1e-4).all(1))
    sides = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], 1).astype(np.float64)
    keep = list[int]()
    for number in np.unique(group[whole]):
        rows = whole[group[whole] == number]
        best = cv2.dnn.NMSBoxes(sides[rows].tolist(), score[rows].tolist(), 0.0, OVERLAP)
        keep += rows[np.asarray(best, np.int64).reshape(-1)].tolist()
    order = np.array(sorted(keep, key=lambda row: -score[row]), np.int64)
    return Found(xyxy[order], score[order], category[order].astype(np.int64))
