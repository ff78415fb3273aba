"""drivesim scenario make, sample and show: tables that can be read again, pictures that show what is in them, mistakes named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from drivesim import cli
from drivesim.io.checkpoints import load_checkpoint
from drivesim.io.video import probe
from drivesim.labels import BoxTrack, Scenario
from drivesim.simulation.scenes.pictures import backdrop, frames_of
from drivesim.simulation.scenes.sources import shown_parts
from drivesim.simulation.scenes.table import Request, mean_vehicles, read_scenarios, write_scenarios
from drivesim.simulation.scenes.traffic import MANOEUVRES


def say(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = cli.main(["scenario", *map(str, words)])
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def made(path: Path, capsys: pytest.CaptureFixture[str], *words: object) -> list[Request]:
    code, _, err = say(capsys, "make", "--out", path, "--seconds", 2, *words)
    assert code == 0, err
    return read_scenarios(str(path))


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_made_scenarios_are_a_table(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ("--crowdedness", 2, "--time-of-day", "night", "--ego-speed-mps", 8)
    found = made(tmp_path / f"a.{form}", capsys, "--count", 3, *labels, "--seed", 5)
    assert [request.scenario_id for request in found] == ["made-0000", "made-0001", "made-0002"]
    for number, request in enumerate(found):
        scenario = request.scenario
        assert (scenario.duration_s, scenario.time_of_day, scenario.ego_speed_mps, scenario.seed) == (2, "night", 8, 5 + number)
        assert scenario.crowdedness == pytest.approx(mean_vehicles(scenario), abs=1e-3), "the label is what the boxes hold"
        assert scenario.crowdedness == pytest.approx(2, abs=1.5)


def test_a_scenario_does_not_depend_on_how_many_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few, many = (made(tmp_path / f"{count}.parquet", capsys, "--count", count) for count in (2, 3))
    assert [request.content for request in few] == [request.content for request in many[:2]]
    assert len({request.content for request in many}) == 3
    assert {request.scenario.time_of_day for request in many} <= {"day", "night"}


def test_only_manoeuvres_that_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    used = set()
    for name, (odds, move) in list(MANOEUVRES.items()):
        monkeypatch.setitem(MANOEUVRES, name, (odds, lambda *given, name=name, move=move: used.add(name) or move(*given)))
    made(tmp_path / "a.parquet", capsys, "--count", 2, "--manoeuvres", "cut_in, overtake", "--crowdedness", 2)
    assert used == {"cut_in", "overtake"}


@pytest.fixture
def bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    words = ["data", "synth", "--out", str(tmp_path / "clips"), "--clips", "3", "--seconds", "4", "--height", "32", "--width", "64"]
    assert cli.main(words) == 0
    capsys.readouterr()
    return tmp_path / "clips"


def test_sampled_scenarios_are_a_table(bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.parquet"
    code, out, err = say(capsys, "sample", "--bank", bank, "--out", path, "--count", 3, "--seconds", 3, "--fps", 7.5)
    assert code == 0 and "table: " in out, err
    for request in read_scenarios(str(path)):
        assert request.fps == 7.5 and request.scenario.tracks is not None and request.scenario.duration_s == 3
        assert request.scenario.crowdedness == pytest.approx(mean_vehicles(request.scenario, 7.5), abs=1e-3)


def test_a_checkpoint_is_a_bank_where_it_holds_tracks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracks = load_checkpoint("mini", need=()).tracks
    for number, name in enumerate(("mini", tracks, tracks.parent)):
        code, _, err = say(capsys, "sample", "--bank", name, "--out", tmp_path / f"{number}.parquet", "--count", 1, "--seconds", 2)
        assert code == 0, err
    assert len({read_scenarios(str(tmp_path / f"{number}.parquet"))[0].content for number in range(3)}) == 1


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that commands are run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_leaves_the_picture_is_cut_from_a_track() -> None:
    x2 = np.array([0.5, 0.4, 1e-4, 0.0, 0.3, 0.4, 0.5])
    xyxy = np.stack([np.zeros(7), np.full(7, 0.2), x2, np.full(7, 0.5)], axis=1).astype(np.float32)
    parts = shown_parts(BoxTrack(3, "car", np.arange(7.0), xyxy))
    assert [part.timestamp_s.tolist() for part in parts] == [[0, 1], [4, 5, 6]] and {part.track_id for part in parts} == {3}


def test_a_picture_has_a_row_for_each_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "a.parquet", capsys, "--count", 3)
    heights = []
    for number, words in enumerate(([], ["--id", "made-0001"], ["--id", "made-0001", "--id", "made-0002"])):
        code, _, err = say(capsys, "show", tmp_path / "a.parquet", "--out", tmp_path / f"{number}.png", *words)
        assert code == 0, err
        picture = cv2.imread(str(tmp_path / f"{number}.png"))
        assert picture is not None and picture.std() > 10
        heights.append(picture.shape[0])
    assert heights[1] < heights[2] < heights[0]


def test_a_video_is_as_long_as_its_scenarios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "a.parquet", capsys, "--count", 2)
    code, _, err = say(capsys, "show", tmp_path / "a.parquet", "--out", tmp_path / "a.mp4")
    assert code == 0, err
    assert (probe(tmp_path / "a.mp4").frames, probe(tmp_path / "a.mp4").fps) == (30, 7.5)


def test_boxes_are_drawn_where_they_are() -> None:
    xyxy = np.tile(np.array([0.25, 0.5, 0.5, 0.75], np.float32), (2, 1))
    there = Request("a", Scenario(1.0, tracks=(BoxTrack(1, "car", np.array([0.0, 1.0]), xyxy),)))
    empty = Request("a", Scenario(1.0, tracks=()))
    one, other = (next(iter(frames_of(request, 7.5))).astype(int) for request in (there, empty))
    rows, columns = np.nonzero(np.abs(one - other)[20:].sum(axis=2))
    assert (columns.min(), columns.max()) == pytest.approx((128, 256), abs=2) and rows.max() == pytest.approx(192, abs=2)


def test_the_road_moves_by_what_was_driven() -> None:
    still, driven, period = (backdrop("day", metres).astype(int) for metres in (0.0, 3.0, 9.0))
    assert np.abs(driven - still).max() > 0 and np.array_equal(still, period)
    assert np.array_equal(driven[:120], still[:120]), "the sky does not"


def test_scenarios_without_boxes_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scenarios(str(tmp_path / "a.csv"), [Request("a", Scenario(1.0, crowdedness=3.0)), Request("b", Scenario(1.0, tracks=()))])
    for name in ("a.png", "a.mp4"):
        assert say(capsys, "show", tmp_path / "a.csv", "--out", tmp_path / name)[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("make --out a.parquet --count 0", "count must be a whole number from 1"),
        ("make --out a.parquet --seed -1", "seed must be a whole number from 0"),
        ("make --out a.parquet --seconds -3", "duration must be a positive number"),
        ("make --out a.parquet --manoeuvres fly", "manoeuvres must be some of follow"),
        ("make --out a.parquet --crowdedness -1", "crowdedness must lie in"),
        ("make --out a.parquet --time-of-day noon", "time_of_day must be one of day, night"),
        ("make --out a.parquet cuont=3", "did you mean count?"),
        ("make --count 3", "--out"),
        ("sample --bank nowhere --out a.parquet", "nowhere"),
        ("sample --bank . --out a.parquet", "neither a clip dataset (dataset.json) nor a checkpoint"),
        ("show none.parquet --out a.png", "none.parquet: no such scenario table"),
        ("show none.parquet --out a.gif", "a picture (.png) or a video (.mp4)"),
    ],
)
def test_a_mistake_is_one_line(words: str, said: str, empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = say(capsys, *words.split())
    assert code in (1, 2) and said in err and err.count("\n") == 1 and not out and not list(empty.iterdir())


def test_an_unknown_id_is_told_with_those_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "a.parquet", capsys, "--count", 1)
    code, _, err = say(capsys, "show", tmp_path / "a.parquet", "--id", "b", "--out", tmp_path / "a.png")
    assert code == 2 and "no scenario 'b'; it holds made-0000" in err
