"""Weight-free measures of a video against pictures whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from drivesim.eval.signals import (
    brightness,
    change_error,
    colourfulness,
    exposure,
    flicker,
    flow_magnitude,
    measure,
    saturation,
    sharpness,
    temporal_difference,
)


def flat(value: int | tuple[int, int, int]) -> np.ndarray:
    return np.full((32, 64, 3), value, np.uint8)


def texture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (17, 33), np.uint8)
    return np.repeat(np.repeat(coarse, 4, 0), 4, 1)[:64, :128, None].repeat(3, 2)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_brightness_of_a_flat_picture_is_its_value(value: int) -> None:
    assert brightness(flat(value)) == pytest.approx(value / 255, abs=1e-6)


def test_a_flat_picture_is_neither_sharp_nor_colourful() -> None:
    assert sharpness(flat(90)) == 0
    assert colourfulness(flat(90)) == 0


def test_blur_lowers_sharpness() -> None:
    crisp = texture()
    blurred = ((crisp.astype(int) + np.roll(crisp, 1, 0) + np.roll(crisp, 1, 1) + np.roll(crisp, -1, 0)) // 4).astype(np.uint8)
    assert sharpness(blurred) < 0.8 * sharpness(crisp)


def test_one_colour_has_only_the_shift_term() -> None:
    red, green, blue = 200, 100, 50
    expected = 0.3 * np.hypot(red - green, 0.5 * (red + green) - blue)
    assert colourfulness(flat((red, green, blue))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("colour", "expected"), [((90, 90, 90), 0), ((0, 0, 0), 0), ((200, 0, 0), 1), ((200, 100, 50), 0.75)])
def test_saturation_of_one_colour_is_its_own(colour: tuple[int, int, int], expected: float) -> None:
    assert saturation(flat(colour)) == pytest.approx(expected, abs=1e-6)


def test_exposure_is_the_geometric_mean_of_luma() -> None:
    assert exposure(flat(128)) == pytest.approx(128 / 255, rel=1e-5)
    assert exposure(flat(0)) == pytest.approx(1 / 255)
    lamps = flat(1)
    lamps[:8] = 255
    assert exposure(lamps) == pytest.approx(255**-0.75, rel=1e-5)
    assert exposure(lamps) < 0.1 * brightness(lamps)


def test_temporal_difference_counts_the_change() -> None:
    assert temporal_difference(flat(10), flat(61)) == pytest.approx(51 / 255)
    assert temporal_difference(flat(10), flat(10)) == 0


def test_flicker_is_what_steady_change_has_not() -> None:
    assert flicker(flat(10), flat(20), flat(30)) == 0
    assert flicker(flat(0), flat(255), flat(0)) == 1
    assert flicker(flat(255), flat(0), flat(255)) == 1
    assert flicker(flat(10), flat(61), flat(10)) == pytest.approx(51 / 255)


def test_an_error_that_stands_still_is_no_error_of_the_change() -> None:
    before, after = texture(1), texture(2)
    assert change_error(before // 2 + 20, after // 2 + 20, before // 2, after // 2) == 0
    assert change_error(flat(255), flat(0), flat(0), flat(255)) == 2
    assert change_error(flat(10), flat(61), flat(10), flat(10)) == pytest.approx(51 / 255)


def test_flow_of_a_shifted_texture_is_the_shift() -> None:
    before = texture()
    after = np.roll(before, 2, axis=1)
    assert flow_magnitude(before, after) * before.shape[1] == pytest.approx(2, abs=0.5)
    assert flow_magnitude(before, before) == pytest.approx(0, abs=1e-4)


def test_measure_looks_at_an_iterator_once() -> None:
    signals = measure(flat(value) for value in (0, 51, 255))
    assert signals.brightness == pytest.approx([0, 0.2, 1], abs=1e-6)
    assert signals.saturation == pytest.approx([0, 0, 0]) and signals.exposure == pytest.approx([1 / 255, 0.2, 1], rel=1e-5)
    assert len(signals.flow_magnitude) == len(signals.temporal_difference) == 2
    assert signals.means()["brightness"] == pytest.approx(0.4, abs=1e-6)


def test_no_frames_give_no_numbers() -> None:
    assert np.isnan(measure([]).means()["brightness"])
