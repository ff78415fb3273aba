"""Reading a release's files: what is missing or damaged is named, with the archive of the release that holds it. Knows no release."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from drivesim.io.records import DatasetError

__all__ = ["exported", "needed", "numbered", "pictures", "read_array", "read_json"]


def needed(path: Path, archive: str) -> Path:
    """``path``, once it is there.

    Raises:
        DatasetError: it is not; the message names it and the archive of the release that holds it.
    """
    if not path.exists():
        raise DatasetError(f"{path}: missing; the release has it in {archive}: extract that here")
    return path


def read_json(path: Path, archive: str) -> Any:
    """A JSON file of the release.

    Raises:
        DatasetError: missing or damaged.
    """
    try:
        return json.loads(needed(path, archive).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: not readable JSON ({str(error).splitlines()[0]}); extract {archive} again") from error


def exported(root: Path, form: str, recordings: str) -> dict[str, dict[str, Any]] | None:
    """What ``drivesim data export FORM`` noted of its recordings, by their names; None = the folder is not one of ours.

    Raises:
        DatasetError: it is, and the note is damaged.
    """
    path = root / "export.json"
    if not path.exists():
        return None
    about = read_json(path, "the whole export")
    try:
        return {row["name"]: row for row in about[recordings]} if about["creator"] == f"drivesim data export {form}" else None
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path}: not what drivesim data export {form} writes ({error!r}); export again") from error


def numbered(folder: Path, name: str, archive: str, first: int = 0) -> list[Path]:
    """Pictures (PNG or JPEG) counted from ``first`` without a gap; ``name`` is such as ``{:06d}``, without its suffix.

    Raises:
        DatasetError: none, or one of the row is missing; names it and ``archive``.
    """
    there = sorted(path for path in needed(folder, archive).iterdir() if path.suffix in (".png", ".jpg"))
    suffix = there[0].suffix if there else ".png"
    paths = [folder / (name.format(number) + suffix) for number in range(first, first + max(1, len(there)))]
    for path in paths:
        needed(path, archive)
    return paths


def read_array(path: Path, archive: str, width: int | None = None) -> np.ndarray:
    """A file of NumPy's as finite-or-NaN float64: (rows,), or (rows, width). Objects are never unpickled.

    Raises:
        DatasetError: missing, damaged, of another width, or not of numbers.
    """
    try:
        with needed(path, archive).open("rb") as file:
            found = np.load(file, allow_pickle=False)
        numbers = np.asarray(found, np.float64)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise DatasetError(f"{path}: not a readable NumPy array ({str(error).splitlines()[0]}); extract {archive} again") from error
    if numbers.ndim == 0 or numbers.size != len(numbers) * (width or 1):
        raise DatasetError(f"{path}: an array of {found.shape} where {width or 1} numbers a row are needed; extract {archive} again")
    return numbers.reshape(len(numbers), width) if width else numbers.reshape(-1)


def pictures(paths: Sequence[Path], archive: str) -> Iterator[np.ndarray]:
    """Picture files in order, uint8 RGB (h, w, 3); one is held at a time.

    Raises:
        DatasetError: a missing or damaged one, or one of another size than the first.
    """
    shape: tuple[int, ...] | None = None
    for path in paths:
        picture = cv2.imread(str(needed(path, archive)), cv2.IMREAD_COLOR)
        if picture is None:
            raise DatasetError(f"{path}: not a readable picture; extract {archive} again")
        if shape not in (None, picture.shape):
            raise DatasetError(f"{path}: a picture of {picture.shape[0]}x{picture.shape[1]} among others; extract {archive} again")
        shape = picture.shape
        yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
