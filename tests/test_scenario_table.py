"""Scenario tables: what is written is read back to the last bit, and whatever cannot be is refused with file, row, scenario and mend."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.labels import CATEGORIES, LABELS, BoxTrack, Scenario
from drivesim.simulation.scenario_table import Request, mean_vehicles, read_scenarios, write_scenarios

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
