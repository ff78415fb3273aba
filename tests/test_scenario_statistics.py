"""The comparison of made and recorded traffic: what it measures of tracks that are known, and when a distance is 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark_scripts import benchmark

from drivesim.labels import BoxTrack, Scenario
from drivesim.simulation.scenes.track_bank import Drive, Trace, TrackBank

scenarios = benchmark("scenarios")


def track(first: int, frames: int, x: float = 0.0, speed: float = 0.0, growth: float = 0.0, track_id: int = 1) -> BoxTrack:
    """A car whose height is 0.1 e^(growth t), half as wide, with its middle at x + 0.5 + speed t."""
    times = np.arange(first, first + frames) / 7.5
    height, middle = 0.1 * np.exp(growth * times), 0.5 + x + speed * times
    xyxy = np.stack([middle - height / 4, 0.5 - height / 2, middle + height / 4, 0.5 + height / 2], axis=1).astype(np.float32)
    return BoxTrack(track_id, "car", times, xyxy)


def measured(*tracks: BoxTrack, frames: int = 15) -> dict[str, np.ndarray]:
    scenario = Scenario(frames / 7.5, ego_speed_mps=7.0, tracks=tracks)
    return scenarios.measured([scenarios.window_of(scenario, frames)])


def test_quantities_of_a_track_that_is_known() -> None:
    found = measured(track(3, 12, speed=0.1, growth=0.5))
    assert found["height"][0] == pytest.approx(0.1 * np.exp(0.5 * 3 / 7.5), rel=1e-4)
    assert found["aspect"] == pytest.approx(np.full(12, 1.0), rel=1e-3), "half as wide in shares of a picture twice as wide as high"
    assert found["shift"] == pytest.approx(np.full(11, 0.1), rel=1e-3) and found["growth"] == pytest.approx(np.full(11, 0.5), rel=1e-3)
    assert found["life"] == pytest.approx([12 / 7.5]) and found["ego_speed"].tolist() == [7.0] * 15
    assert found["vehicles"].tolist() == [0.0] * 3 + [1.0] * 12


def test_a_track_that_outlasts_the_window_lives_as_long_as_the_window() -> None:
    assert measured(track(0, 40))["life"] == pytest.approx([2.0])


def test_what_is_lost_for_a_moment_is_one_track_and_for_longer_two() -> None:
    assert len(measured(track(0, 5), track(7, 5))["life"]) == 1 and len(measured(track(0, 5), track(10, 5))["life"]) == 2
    assert len(measured(track(0, 5), track(7, 5, track_id=2))["life"]) == 2


def test_recorded_and_made_tracks_are_measured_alike() -> None:
    xyxy = track(2, 10, speed=0.05, growth=0.2).xyxy
    bank = TrackBank((Drive("a", "day", np.full(15, 7.0, np.float32), np.zeros(15, np.float32), (Trace(0, 2, xyxy),)),))
    ((window,),) = scenarios.recorded(bank, 15)
    made = measured(track(2, 10, speed=0.05, growth=0.2))
    for name, values in scenarios.measured([window]).items():
        assert values == pytest.approx(made[name], abs=1e-5), name


@pytest.mark.parametrize("name", ["middle", "height"])
def test_a_distance_is_in_interquartile_ranges(name: str) -> None:
    quantity = next(quantity for quantity in scenarios.QUANTITIES if quantity.name == name)
    values = np.geomspace(0.05, 0.5, 201) if quantity.log else np.linspace(0.2, 0.6, 201)
    low, high = np.quantile(values, [0.25, 0.75])
    moved = values * high / low if quantity.log else values + high - low
    assert scenarios.distance(values, values, quantity) == 0
    assert scenarios.distance(moved, values, quantity) == pytest.approx(1.0, rel=1e-2)


def test_the_table_and_the_plot_name_every_source() -> None:
    speeds = {"recorded": 0.01, "recombined": 0.02, "made": 0.1}
    sources = {name: measured(track(0, 10, speed=speed, growth=0.1)) for name, speed in speeds.items()}
    rows = scenarios.compared(sources, [sources["recorded"], sources["recombined"]])
    text = scenarios.table(rows, {name: {"car": 1.0} for name in sources})
    assert all(f"| {quantity.name} | {name} |" in text for quantity in scenarios.QUANTITIES for name in sources)
    assert "made: car 100%" in text
    assert len(scenarios.plot(sources).axes) == len(scenarios.QUANTITIES)
