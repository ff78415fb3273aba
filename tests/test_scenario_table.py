"""Scenario tables: what is written is read back to the last bit, and whatever cannot be is refused with file, row, scenario and mend."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.errors import UsageError
from drivesim.labels import CATEGORIES, LABELS, BoxTrack, Branch, Scenario
from drivesim.simulation.scenes.table import Request, mean_vehicles, read_scenarios, write_scenarios
from drivesim.simulation.scenes.traffic import make_traffic

FORMS = ("parquet", "csv")


def same_arrays(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)


def assert_same(written: list[Request], read: list[Request]) -> None:
    """Field by field; dataclasses that hold arrays have no equality."""
    assert [request.content for request in written] == [request.content for request in read]
    for one, other in zip(written, read, strict=True):
        assert (one.scenario_id, one.start, one.fps) == (other.scenario_id, other.start, other.fps)
        for name in ("duration_s", "seed", "name", *LABELS):
            assert getattr(one.scenario, name) == getattr(other.scenario, name), name
        assert (one.scenario.tracks is None) == (other.scenario.tracks is None)
        for left, right in zip(one.scenario.tracks or (), other.scenario.tracks or (), strict=True):
            assert (left.track_id, left.category) == (right.track_id, right.category)
            assert same_arrays(left.timestamp_s, right.timestamp_s) and same_arrays(left.xyxy, right.xyxy)
        assert one.scenario.profiles.keys() == other.scenario.profiles.keys()
        for name, (times, values) in one.scenario.profiles.items():
            assert same_arrays(times, other.scenario.profiles[name][0]) and same_arrays(values, other.scenario.profiles[name][1])


def car(track_id: int = 1, times: tuple[float, ...] = (0.0, 1.0), x: float = 0.4, category: str = "car") -> BoxTrack:
    xyxy = np.tile(np.array([x, 0.5, x + 0.1, 0.6], np.float32), (len(times), 1))
    return BoxTrack(track_id, category, np.array(times), xyxy)


ids = st.text("abcABC019._-", min_size=1, max_size=8).map(lambda text: f"s{text}e")
shares = st.floats(0, 1, width=32)


@st.composite
def tracks(draw: st.DrawFn, duration_s: float) -> tuple[BoxTrack, ...]:
    found = []
    for track_id in draw(st.lists(st.integers(-(2**62), 2**62), max_size=3, unique=True)):
        category = draw(st.sampled_from(CATEGORIES))
        times = sorted(draw(st.lists(st.floats(0, duration_s), min_size=2, max_size=6, unique=True)))
        cut = draw(st.integers(1, len(times)))
        for part in (times[:cut], times[cut:]):  # one vehicle, perhaps lost and found again
            if part:
                corners = [draw(st.tuples(*[st.tuples(shares, shares).filter(lambda pair: pair[0] != pair[1])] * 2)) for _ in part]
                xyxy = [(min(x), min(y), max(x), max(y)) for x, y in corners]
                found.append(BoxTrack(track_id, category, np.array(part), np.array(xyxy, np.float32)))
    return tuple(draw(st.permutations(found)))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    name, duration_s, fps = draw(ids), draw(st.floats(0.5, 100)), draw(st.none() | st.floats(2, 60))
    speeds = draw(st.lists(st.floats(0, 60) | st.just(float("nan")), max_size=4))
    profiles = {"ego_speed_mps": (np.arange(len(speeds)) / 7.5, np.array(speeds))} if speeds else {}
    scenario = Scenario(
        duration_s, draw(st.sampled_from([None, "day", "night"])), None,
        draw(st.none() | st.floats(0, 60)), draw(st.none() | st.floats(-2, 2)),
        draw(st.none() | tracks(duration_s)), draw(st.integers(0, 2**63 - 1)), name, profiles,
    )  # fmt: skip
    crowdedness = draw(st.none() | (st.floats(0, 100) if scenario.tracks is None else st.just(mean_vehicles(scenario, fps))))
    return Request(name, replace(scenario, crowdedness=crowdedness), draw(st.none() | st.just("a b/ü.png")), fps)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=15, deadline=None)
@given(wanted=st.lists(requests(), min_size=1, max_size=4, unique_by=lambda request: request.scenario_id.lower()))
def test_what_is_written_is_read_back(form: str, wanted: list[Request]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / f"table.{form}")
        write_scenarios(path, wanted)
        assert_same(wanted, read_scenarios(path))


def test_a_url_is_as_good_as_a_path(tmp_path: Path) -> None:
    wanted = [Request(f"a{seed}", made(seed, f"a{seed}")) for seed in range(2)]
    for path in ("memory://tables/a.parquet", "memory://tables/a.csv", f"file://{tmp_path}/b.parquet"):
        write_scenarios(path, wanted)
        assert_same(wanted, read_scenarios(path))
    assert [file.name for file in tmp_path.iterdir()] == ["b.parquet"], "nothing unfinished is left beside it"


def made(seed: int, name: str) -> Scenario:
    return replace(make_traffic(2.0, crowdedness=2.0, seed=seed, name=name), crowdedness=None)


def test_content_is_of_the_scenario_and_not_of_its_name() -> None:
    one = Request("one", Scenario(5.0, "day", tracks=(car(),), profiles={"ego_speed_mps": (np.zeros(1), np.ones(1))}))
    assert one.content == replace(one, scenario_id="two").content == replace(one, scenario=replace(one.scenario, name="other")).content
    floats = {"ego_speed_mps": (np.zeros(1, np.float32), np.ones(1, np.float32))}
    assert one.content == replace(one, scenario=replace(one.scenario, profiles=floats, duration_s=5)).content, "types do not tell"
    others = [dict(duration_s=6.0), dict(time_of_day="night"), dict(seed=1), dict(tracks=()), dict(tracks=None), dict(profiles={}),
              dict(tracks=(car(x=0.41),)), dict(tracks=(car(track_id=2),)), dict(crowdedness=1.0)]  # fmt: skip
    changed = [replace(one, scenario=replace(one.scenario, **other)) for other in others]
    changed += [replace(one, fps=7.5), replace(one, start="a.png")]
    assert len({one.content, *(request.content for request in changed)}) == 1 + len(changed)


def test_a_vehicle_that_is_lost_for_a_while_is_not_seen_meanwhile(tmp_path: Path) -> None:
    tracks = (car(times=(0.0, 1.0)), car(times=(3.0, 4.0)))
    write_scenarios(str(tmp_path / "a.csv"), [Request("a", Scenario(5.0, tracks=tracks))])
    labels = read_scenarios(str(tmp_path / "a.csv"))[0].scenario.label_track(5, 1.0)
    assert labels.values["crowdedness"].tolist() == [1, 1, 0, 1, 1]


def test_a_seed_that_is_not_given_is_the_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("scenario_id,duration_s,seed\n007,5,\n008,5,9\n9,5,\n")
    found = read_scenarios(str(path))
    assert [(request.scenario_id, request.scenario.seed) for request in found] == [("007", 0), ("008", 9), ("9", 2)]
    assert all(request.scenario.tracks is None and request.fps is None for request in found)


def test_an_empty_road_is_told_from_boxes_to_be_sampled(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("scenario_id,duration_s,empty_road\na,5,true\nb,5,\nc,5,false\n")
    assert [request.scenario.tracks for request in read_scenarios(str(path))] == [(), None, None]
    pq.write_table(pa.table({"scenario_id": ["a", "b"], "duration_s": [5, 5], "boxes": [[], None]}), tmp_path / "a.parquet")
    assert [request.scenario.tracks for request in read_scenarios(str(tmp_path / "a.parquet"))] == [(), None]


def test_boxes_of_an_earlier_table_of_that_name_are_not_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "a.csv")
    write_scenarios(path, [Request("a", Scenario(5.0, tracks=(car(),)))])
    write_scenarios(path, [Request("a", Scenario(5.0))])
    assert read_scenarios(path)[0].scenario.tracks is None


BOX = {"track_id": 1, "category": "car", "timestamp_s": 0.0, "x1": 0.4, "y1": 0.5, "x2": 0.5, "y2": 0.6}


def boxes(**changed: Any) -> dict[str, Any]:
    return {"boxes": [BOX, {**BOX, "timestamp_s": 1.0, **changed}]}


BAD_ROWS = [
    (dict(duration_s=-1.0), "duration_s must be seconds, above 0"),
    (dict(duration_s=None), "not null"),
    (dict(duration_s=1e6), "cut longer ones"),
    (dict(fps=0.0), "fps must be above 0"),
    (dict(fps=0.1), "a frame or more in 5 s"),
    (dict(time_of_day="noon"), "time_of_day must be one of day, night"),
    (dict(crowdedness=-3.0), "crowdedness must lie in 0..100"),
    (dict(ego_speed_mps=500.0), "ego_speed_mps must lie in"),
    (dict(seed=-4), "seed must be a whole number"),
    (dict(seed=0.5), "seed must be a whole number"),
    (boxes(category="tram"), "box 1: unknown category 'tram'; known are car"),
    (boxes(category="bus"), "box 1: track 1 has two categories"),
    (boxes(x2=1.4), "box 1: box outside the picture"),
    (boxes(x2=0.4), "box 1: inverted box"),
    (boxes(x1=float("nan")), "box 1: x1 is not a number"),
    (boxes(track_id=None), "box 1: track_id must be a whole number"),
    (boxes(timestamp_s=0.0), "has a second box at 0 s"),
    (boxes(timestamp_s=9.0), "outside the scenario's 0 to 5 s"),
    (dict(crowdedness=4.0, **boxes(timestamp_s=5.0)), "crowdedness 4 contradicts the boxes, which hold 1 vehicles a frame"),
    (dict(crowdedness=2.0, boxes=[]), "crowdedness 2 contradicts the boxes, which hold 0"),
    (dict(profiles=[{"label": "height", "timestamp_s": 0.0, "value": 1.0}]), "a profile must be of one of"),
    (dict(profiles=[{"label": "ego_speed_mps", "timestamp_s": 0.0, "value": 100.0}]), "ego_speed_mps must lie in"),
    (dict(profiles=[{"label": None, "timestamp_s": 0.0, "value": 1.0}]), "profile sample 0: no label"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "said"), BAD_ROWS)
def test_a_bad_row_is_named_with_its_mend(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"scenario_id": "good", "duration_s": 5.0}, {"scenario_id": "bad", "duration_s": 5.0, **row}]
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    with pytest.raises(UsageError) as caught:
        read_scenarios(str(path))
    assert str(caught.value).startswith(f"{path}: row 1 (bad)") and said in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (dict(scenario_id=["a"]), "missing column duration_s"),
        (dict(duration_s=[5.0]), "missing column scenario_id"),
        (dict(scenario_id=["a"], duration_s=[5.0], crowdednes=[3.0]), "unknown column 'crowdednes'; did you mean crowdedness?"),
        (dict(scenario_id=["a", "b", "a"], duration_s=[5.0] * 3), "row 2: scenario_id 'a' is there twice (row 0)"),
        (dict(scenario_id=["a", "A"], duration_s=[5.0] * 2), "row 1: scenario_id 'A' is there as 'a'"),
        (dict(scenario_id=["../a"], duration_s=[5.0]), "row 0: scenario_id '../a' cannot name a file"),
        (dict(scenario_id=pa.array([], pa.string()), duration_s=pa.array([], pa.float64())), "holds no scenario"),
        (dict(scenario_id=["a"], duration_s=[5.0], boxes=[3]), "column boxes must hold lists of track_id"),
        (dict(scenario_id=["a"], duration_s=[5.0], boxes=[[{"track_id": 1}]]), "missing column category, timestamp_s"),
        (dict(scenario_id=["a"], duration_s=[5.0], boxes=[[{**BOX, "speed": 1.0}]]), "column boxes: unknown column 'speed'"),
    ],
)
def test_a_bad_table_is_named_with_its_mend(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(UsageError) as caught:
        read_scenarios(str(path))
    assert str(caught.value).startswith(str(path)) and said in str(caught.value)


LINE = "1,car,0,0.4,0.5,0.5,0.6"


@pytest.mark.parametrize(
    ("table", "beside", "said"),
    [
        ("scenario_id,duration_s\na,five\n", None, "a.csv: row 0 (a): duration_s is not a number (five)"),
        ("scenario_id,duration_s,empty_road\na,5,perhaps\n", None, "empty_road must be true or false"),
        ("scenario_id,duration_s,empty_road\na,5,true\n", f"a,{LINE}\n", "empty_road is true, but"),
        ("scenario_id,duration_s\na,5\n", f"b,{LINE}\n", "a.boxes.csv: row 0: no scenario 'b'"),
        ("scenario_id,duration_s\na,5\n", f"a,{LINE}\na,1,car,1,0.4,wide,0.5,0.6\n", "a.boxes.csv: row 1 (a): y1 is not a number (wide)"),
        ("", None, "not a readable scenario table"),
    ],
)
def test_a_bad_csv_is_named_by_file_and_row(tmp_path: Path, table: str, beside: str | None, said: str) -> None:
    (tmp_path / "a.csv").write_text(table)
    if beside is not None:
        (tmp_path / "a.boxes.csv").write_text(f"scenario_id,track_id,category,timestamp_s,x1,y1,x2,y2\n{beside}")
    with pytest.raises(UsageError) as caught:
        read_scenarios(str(tmp_path / "a.csv"))
    assert said in str(caught.value)


def test_a_table_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such scenario table"):
        read_scenarios(str(tmp_path / "a.parquet"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UsageError, match="not a readable scenario table"):
        read_scenarios(str(tmp_path / "a.parquet"))
    with pytest.raises(UsageError, match="not a readable scenario table"):
        read_scenarios("nosuchstore://a/b.parquet")


def test_nothing_is_written_that_could_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    twice = [Request("a", Scenario(5.0)), Request("a", Scenario(5.0))]
    for bad, said in [([], "no scenario"), (twice, "twice"), ([Request("a/b", Scenario(5.0))], "cannot name a file"),
                      ([Request("a", Scenario(5.0, crowdedness=9.0, tracks=(car(),)))], "contradicts"),
                      ([Request("a", Scenario(5.0, branch=Branch(1.0, 3)))], "no branches")]:  # fmt: skip
        with pytest.raises(UsageError, match=said):
            write_scenarios(str(path), bad)
    assert not path.exists()
