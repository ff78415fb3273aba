"""A scenario with a start is known by what the start shows: another picture of the same name is noticed, the same one elsewhere is not."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from generations import files_of, requests, table, toy, words

from drivesim.cli import main
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.places import Place
from drivesim.simulation.agreement import FILTER
from drivesim.simulation.generation.maker import Maker
from drivesim.simulation.generation.order import Group, Order, key_of
from drivesim.simulation.generation.starts import require_same_start, with_start_hashes
from drivesim.simulation.scenes.table import Request


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a picture, and what was generated of two scenarios, the first of which starts from it."""
    folder = tmp_path_factory.mktemp("starts")
    toy(folder)
    assert generate(folder, table(folder, asked(picture(folder / "start.png", 1))), folder / "made") == 0
    return folder


def picture(path: Path, seed: int) -> str:
    """A PNG of noise; returns its path."""
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (32, 64, 3), np.uint8))
    return str(path)


def asked(start: str) -> list[Request]:
    return [replace(requests()[0], start=start), requests()[1]]


def generate(toys: Path, scenarios: Path, out: Path, *more: str) -> int:
    return main(["generate", *words(scenarios, toys / "toy", out, *more)])


def order_of(toys: Path, out: Path) -> Order:
    told = json.loads((toys / "made" / "generation.json").read_text())
    fields = {name: value for name, value in told.items() if name not in ("format", "version")}
    return Order(str(out), str(toys / "toy"), detector=str(FILTER), **fields)


def keys_of(files: dict[str, bytes]) -> dict[str, str]:
    return {entry["scenario_id"]: entry["key"] for entry in json.loads(files["manifest.json"])["clips"]}


def test_the_same_picture_touched_or_moved_is_no_other_scenario(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivesim.commands.generate.here", lambda *_: pytest.fail("all clips are finished"))
    before = files_of(toys / "made")
    os.utime(toys / "start.png", (0, 0))
    elsewhere = Place(f"memory://{uuid.uuid4().hex}")
    elsewhere.write("other.png", (toys / "start.png").read_bytes())
    for start in (str(toys / "start.png"), elsewhere.at("other.png")):
        assert generate(toys, table(tmp_path, asked(start)), toys / "made") == 0
    assert files_of(toys / "made") == before


def test_a_picture_changed_under_the_same_name_is_another_scenario(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, out = picture(tmp_path / "start.png", 1), tmp_path / "out"
    scenarios = table(tmp_path, asked(start))
    assert generate(toys, scenarios, out) == 0
    before = files_of(out)
    picture(Path(start), 2)
    capsys.readouterr()
    assert generate(toys, scenarios, out) == 2
    told = capsys.readouterr().err
    assert f"holds the clip scene_00 of another scenario, or {start} has changed since; choose another --out" in told
    assert len(told.splitlines()) == 1 and files_of(out) == before
    assert generate(toys, scenarios, out, "--overwrite") == 0
    after = files_of(out)
    assert after["videos/scene_00.mp4"] != before["videos/scene_00.mp4"]
    assert keys_of(after)["scene_00"] != keys_of(before)["scene_00"] and keys_of(after)["scene_01"] == keys_of(before)["scene_01"]


def test_without_a_start_keys_are_those_of_earlier_versions(toys: Path) -> None:
    some = requests(3)
    assert with_start_hashes(some) == some
    assert [request.content[:12] for request in some] == ["0e9f794a5649", "49795c40e722", "665be7b35173"]
    assert keys_of(files_of(toys / "made"))["scene_01"] == key_of(order_of(toys, toys / "made"), some[1])


def test_a_start_is_read_once_however_many_share_it(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("drivesim.simulation.generation.starts._hash_of", lambda start: read.append(start) or "0" * 64)
    some = with_start_hashes([*asked("a.png"), *asked("b.png"), *asked("a.png")])
    assert read == ["a.png", "b.png"]
    assert [request.start_hash for request in some] == ["0" * 64, None] * 3
    assert some[0].content == some[2].content == some[4].content != requests()[0].content


def test_a_picture_that_changes_while_clips_are_made_stops_the_command(toys: Path, tmp_path: Path) -> None:
    [request] = with_start_hashes([asked(picture(tmp_path / "start.png", 1))[0]])
    require_same_start(request)
    picture(tmp_path / "start.png", 2)
    maker = Maker(order_of(toys, tmp_path / "out"))
    with pytest.raises(DrivesimError, match=r"scenario scene_00: .*start\.png is not what it was when the command began; begin it again"):
        maker.make(Group(0, (request,)))
    assert list((tmp_path / "out").rglob("*")) == []


def test_a_start_that_is_gone_is_named() -> None:
    with pytest.raises(UsageError, match=r"memory://none/start\.png: no such file"):
        with_start_hashes(asked("memory://none/start.png"))
