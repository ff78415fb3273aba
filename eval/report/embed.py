"""What a page carries of other files: bytes as base64, in pieces, of long videos the beginning.

A video that fits into its share goes in byte for byte; of a longer one the beginning is encoded again, short enough. So is a video that
browsers cannot play (not H.264). This file does not know labels, results or HTML.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drivesim.errors import DrivesimError
from drivesim.io.video import VideoError, VideoInfo, VideoWriter, iterate_frames

__all__ = ["MIB", "Embedded", "EmbeddedVideo", "embed_picture", "embed_video", "encoded_size", "plays_in_browsers"]

MIB = 2**20
PIECE = 3 * 2**17
"""Bytes encoded at once; a multiple of 3, so that the pieces' base64 joins to the whole's."""
SHORTEST_S = 1.0
"""A shorter beginning of a video tells nothing and is left out."""
CRF = 20
PICTURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class Embedded:
    """Bytes for a page, from memory or a file. ``size``: of the bytes themselves."""

    mime: str
    source: bytes | Path
    size: int

    def pieces(self) -> Iterator[str]:
        """Base64 in pieces.

        Raises:
            DrivesimError: the file is no longer what it was.
        """
        if isinstance(self.source, bytes):
            yield base64.b64encode(self.source).decode("ascii")
            return
        try:
            yield from self._from_file(self.source)
        except OSError as error:
            raise DrivesimError(f"{self.source}: cannot be read ({error.strerror or error}); copy it again") from error

    def _from_file(self, path: Path) -> Iterator[str]:
        read = 0
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                read += len(piece)
                yield base64.b64encode(piece).decode("ascii")
        if read != self.size:
            raise DrivesimError(f"{path}: changed while the report was written; make the report again")


@dataclass(frozen=True)
class EmbeddedVideo:
    """A video in the page, ``frames`` frames from its beginning. content None: it is not in the page. note: what is missing, and why."""

    content: Embedded | None
    frames: int
    note: str | None = None


def encoded_size(size: int) -> int:
    """Characters that ``size`` bytes take as base64."""
    return (size + 2) // 3 * 4


def embed_picture(path: Path, most: int) -> Embedded | None:
    """A PNG or JPEG file of at most ``most`` bytes; None where it is missing, larger, or something else."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
        size = path.stat().st_size
    except OSError:
        return None
    mime = next((mime for magic, mime in PICTURES.items() if start.startswith(magic)), None)
    return None if mime is None or size > most else Embedded(mime, path, size)


def embed_video(path: Path, info: VideoInfo, share: int, folder: Path, name: str) -> EmbeddedVideo:
    """A video in at most ``share`` bytes.

    Args:
        folder: for files made on the way; they must stay until the page is written. name: of the clip, for the note.
    """
    size, plays = path.stat().st_size, plays_in_browsers(path)
    if plays and size <= share:
        return EmbeddedVideo(Embedded("video/mp4", path, size), info.frames)
    fits = info.duration_s if size <= share else info.duration_s * share / size
    reason = "" if plays else "it is not H.264, which browsers play; "
    try:
        return _excerpt(path, info, fits, share, folder, f"{name}: {reason}")
    except VideoError as error:
        return EmbeddedVideo(None, 0, f"{name} is not in this page: {error}")


def _excerpt(path: Path, info: VideoInfo, seconds: float, share: int, folder: Path, prefix: str) -> EmbeddedVideo:
    """The first ``seconds``, less where that turns out larger than ``share``."""
    least = min(SHORTEST_S, info.duration_s)
    while seconds >= least:
        frames = min(info.frames, max(1, int(seconds * info.fps)))
        made = _encode(path, info, frames, folder)
        if made.size <= share:
            what = "all of it" if frames == info.frames else f"the first {frames / info.fps:.1f} s of {info.duration_s:.1f} s"
            more = "" if frames == info.frames else " to fit (raise --max-mb for more)"
            return EmbeddedVideo(made, frames, f"{prefix}{what}, encoded again{more}")
        seconds *= max(0.2, min(0.8, share / made.size))
    room = f"{share / MIB:.2g} MiB left for it"
    return EmbeddedVideo(None, 0, f"{prefix}not in this page, {room} hold less than {least:g} s (raise --max-mb or give fewer folders)")


def _encode(path: Path, info: VideoInfo, frames: int, folder: Path) -> Embedded:
    """The first ``frames`` frames as H.264, one frame in memory at a time; odd sizes lose their last line."""
    even = (info.height // 2 * 2, info.width // 2 * 2)
    out = folder / f"{len(list(folder.iterdir())):05d}.mp4"
    with VideoWriter(out, info.rate, even, CRF) as writer:
        for frame in itertools.islice(iterate_frames(path), frames):
            writer.write(frame[: even[0], : even[1]])
    return Embedded("video/mp4", out, out.stat().st_size)


def plays_in_browsers(path: Path) -> bool:
    """Is it an MP4 whose index names H.264? The picture's format is not looked at."""
    try:
        return b"avc1" in _index(path)
    except OSError:
        return False


def _index(path: Path, most: int = 64 * MIB) -> bytes:
    """The "moov" box of an MP4 (ISO 14496-12: four bytes of size, four of name; size 1 = eight more bytes of size); else nothing."""
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            size, read = int.from_bytes(head[:4], "big"), 8
            if size == 1:
                size, read = int.from_bytes(file.read(8), "big"), 16
            if head[4:] == b"moov":
                return file.read(min(size - read, most)) if size > read else b""
            if size < read:
                return b""
            file.seek(size - read, 1)
    return b""
