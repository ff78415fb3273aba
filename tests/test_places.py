"""Folders anywhere: written is read, whole or not at all, on a disk and in memory."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.places import Place, fetched


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path / "out" if request.param == "disk" else f"memory://{uuid.uuid4().hex}/out")


def test_written_is_read(place: Place) -> None:
    assert place.read("a/b.bin") is None and place.names("a") == [] and not place.exists("a/b.bin")
    place.write("a/b.bin", b"one")
    place.write("a/b.bin", b"two")
    place.write_json("c.json", {"ä": [1, None]})
    assert place.read("a/b.bin") == b"two" and place.exists("a/b.bin")
    assert place.read_json("c.json") == {"ä": [1, None]}
    assert place.names() == ["a", "c.json"] and place.names("a") == ["b.bin"]
    place.remove("a/b.bin")
    place.remove("a/b.bin")
    assert place.read("a/b.bin") is None


def test_a_file_is_moved_there_and_its_folder_leaves_no_trace(place: Place) -> None:
    with place.scratch() as folder:
        path = folder / "video.mp4"
        path.write_bytes(b"frames")
        place.put(path, "videos/video.mp4")
        assert not path.exists()
        (folder / "rest").write_bytes(b"unfinished")
    assert place.read("videos/video.mp4") == b"frames"
    assert [name for name in place.names() if name.startswith(".")] == [] and not folder.exists()


def test_what_is_no_json_object_is_none(place: Place) -> None:
    for content in (b"{half", b"[1]", b"\xff\xfe"):
        place.write("told.json", content)
        assert place.read_json("told.json") is None


def test_a_plain_path_is_on_this_disk(tmp_path: Path) -> None:
    assert Place(tmp_path).local == tmp_path and Place("memory://x").local is None
    assert Place(tmp_path).at("a.json") == f"{tmp_path}/a.json"


def test_unknown_places_are_refused() -> None:
    with pytest.raises(UsageError, match="plug-in"):
        Place("nosuch://bucket/out")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DrivesimError, match=r"cannot write .*file/a\.json"):
        Place(tmp_path / "file").write("a.json", b"")


def test_a_file_from_elsewhere_as_a_path(tmp_path: Path) -> None:
    Place("memory://starts").write("first.png", b"picture")
    with fetched("memory://starts/first.png") as path:
        assert path.read_bytes() == b"picture" and path.suffix == ".png"
    assert not path.exists()
    with fetched(str(tmp_path / "here.png")) as path:
        assert path == tmp_path / "here.png"
    with pytest.raises(UsageError, match=r"memory://starts/second\.png: no such file"), fetched("memory://starts/second.png"):
        pass
