"""How many frames an MP4 really holds, from its index alone: opening a video for that costs more than copying a small one.

The index (``moov``: ISO/IEC 14496-12) says where every frame's bytes lie; a file that was cut short lacks the last of them. Damage inside
the frames does not show, as it does not when compressed frames are counted. This file does not decode.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["indexed_frames"]

INSIDE = (b"mdia", b"minf", b"stbl")


def indexed_frames(path: Path) -> int | None:
    """Frames whose bytes are all in the file; None = no MP4 of the plain kind (fragmented, another container, damaged): open it to know."""
    try:
        moov = _moov(path)
        tables = None if moov is None else _video_tables(moov)
        return None if tables is None else _held(tables, path.stat().st_size)
    except (IndexError, KeyError, ValueError, struct.error):
        return None


def _moov(path: Path) -> bytes | None:
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length, kind = struct.unpack(">I4s", head[:8])
            skip = 8
            if length == 1:
                length, skip = struct.unpack(">Q", head[8:16])[0], 16
            if length < skip or at + length > size:
                return None
            if kind == b"moov":
                file.seek(at + skip)
                return file.read(length - skip)
            at += length
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if length < 8:
            raise ValueError("a box without a size")
        yield kind, data[at + 8 : at + length]
        at += length


def _video_tables(moov: bytes) -> dict[bytes, bytes] | None:
    """The sample tables of the first video track."""
    for kind, track in _boxes(moov):
        if kind != b"trak":
            continue
        media = dict(_boxes(dict(_boxes(track))[b"mdia"]))
        if media[b"hdlr"][8:12] == b"vide":
            return dict(_boxes(dict(_boxes(media[b"minf"]))[b"stbl"]))
    return None


def _held(tables: dict[bytes, bytes], size: int) -> int | None:
    every, count = struct.unpack_from(">II", tables[b"stsz"], 4)
    lengths = np.full(count, every, np.int64) if every else np.frombuffer(tables[b"stsz"], ">u4", count, 12).astype(np.int64)
    wide = b"co64" in tables
    offsets = np.frombuffer(tables[b"co64" if wide else b"stco"], ">u8" if wide else ">u4", offset=8).astype(np.int64)
    runs = np.frombuffer(tables[b"stsc"], ">u4", offset=8).reshape(-1, 3).astype(np.int64)
    if not count or not len(offsets):
        return None  # fragmented: its index lies elsewhere
    of_chunk = np.repeat(runs[:, 1], np.diff(np.append(runs[:, 0], len(offsets) + 1)))
    if of_chunk.sum() != count:
        return None
    chunk = np.repeat(np.arange(len(offsets)), of_chunk)
    before = np.cumsum(lengths) - lengths
    first = (np.cumsum(of_chunk) - of_chunk)[chunk]
    ends = offsets[chunk] + before - before[first] + lengths
    return int((ends <= size).sum())
