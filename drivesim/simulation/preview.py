"""Pictures for people: frames with their boxes and labels drawn in, and a contact sheet of a whole rollout.

Everything is drawn as the frames come, so memory does not grow with minutes. This file does not know files or where frames come from.
"""

from __future__ import annotations

import cv2
import numpy as np

from drivesim.labels import CATEGORIES, LABELS, LabelTrack

__all__ = ["ContactSheet", "annotate", "annotated_size"]

COLOURS = ((80, 200, 255), (255, 160, 60), (255, 90, 90), (200, 120, 255), (120, 255, 120), (255, 240, 80))
"""RGB per category, in the order of CATEGORIES."""
STRIP = 20
"""Height of the band above the picture that holds the labels, in pixels."""
MIN_HEIGHT = 256
FONT = cv2.FONT_HERSHEY_SIMPLEX


def annotated_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of ``annotate``'s picture for frames of that size; both even."""
    factor = _factor(height)
    return (height * factor + STRIP + 1) // 2 * 2, (width * factor + 1) // 2 * 2


def annotate(frame: np.ndarray, labels: LabelTrack, index: int, timestamp_s: float) -> np.ndarray:
    """Draw the labels of frame ``index`` of ``labels`` around and into ``frame``.

    Args:
        frame: uint8 (h, w, 3) RGB; small ones are enlarged by a whole factor.

    Returns:
        uint8 RGB of ``annotated_size``; boxes marked ignore are thin, the others labelled with category and track id.
    """
    height, width = frame.shape[:2]
    factor = _factor(height)
    canvas = np.zeros((*annotated_size(height, width), 3), np.uint8)
    picture = cv2.resize(frame, (width * factor, height * factor), interpolation=cv2.INTER_LINEAR)
    _draw_boxes(picture, labels, index)
    canvas[STRIP : STRIP + height * factor, : width * factor] = picture
    cv2.putText(canvas, caption(labels, index, timestamp_s), (4, STRIP - 6), FONT, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas


def caption(labels: LabelTrack, index: int, timestamp_s: float) -> str:
    """One line: the time and every known label of a frame."""
    words = [f"{timestamp_s:6.1f} s"]
    for name, label in LABELS.items():
        value = label.decode(float(labels.values[name][index]))
        if isinstance(value, str):
            words.append(value)
        elif value is not None:
            words.append(f"{name.rsplit('_', 1)[0].replace('_', ' ')} {round(value, 2) + 0.0:g} {label.unit}")
    if not labels.boxes_known[index]:
        words.append("boxes unknown")
    return "  ".join(words)


def _factor(height: int) -> int:
    return max(1, -(-MIN_HEIGHT // height))


def _draw_boxes(picture: np.ndarray, labels: LabelTrack, index: int) -> None:
    height, width = picture.shape[:2]
    boxes = labels.boxes.where(labels.boxes.frame == index)
    for row in np.argsort(boxes.xyxy[:, 3], kind="stable"):
        x1, y1, x2, y2 = (round(float(value)) for value in boxes.xyxy[row] * (width, height, width, height))
        colour = COLOURS[int(boxes.category[row])]
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 1 if boxes.ignore[row] else 2)
        if not boxes.ignore[row] and x2 - x1 >= 24:
            name = f"{CATEGORIES[int(boxes.category[row])]} {boxes.track_id[row]}"
            cv2.putText(picture, name, (x1, max(y1 - 3, 9)), FONT, 0.33, colour, 1, cv2.LINE_AA)


class ContactSheet:
    """Every n-th frame of a rollout, annotated, on one page. frames: how many will come, so that the chosen ones spread evenly."""

    def __init__(self, frames: int, columns: int = 4, rows: int = 6) -> None:
        self.columns = columns
        self.chosen = frozenset(np.unique(np.linspace(0, frames - 1, columns * rows).round().astype(int)).tolist())
        self._pictures: list[np.ndarray] = []

    def add(self, number: int, annotated: np.ndarray) -> None:
        """Offer frame ``number``; it is kept when it is one of the chosen."""
        if number in self.chosen:
            self._pictures.append(annotated)

    def picture(self) -> np.ndarray | None:
        """The page so far, uint8 RGB; None when no frame has come."""
        if not self._pictures:
            return None
        empty = [np.zeros_like(self._pictures[0])] * (-len(self._pictures) % self.columns)
        cells = [*self._pictures, *empty]
        return np.vstack([np.hstack(cells[first : first + self.columns]) for first in range(0, len(cells), self.columns)])
