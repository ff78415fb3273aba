"""Labels on their way into networks: rasters against closed forms, nulls, and label dropout."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from drivesim.labels import CATEGORIES, LABELS, BoxTrack, Scenario
from drivesim.models.conditioning import DROPOUT, GOLDEN_ANGLE, RASTER_CHANNELS, BoxRaster, LabelEmbedder, drop_labels, raster_boxes

HEIGHT, WIDTH = 8, 16
EDGES, INSTANCE, GIVEN = slice(6, 10), slice(10, 12), 12


def painted(*rows: tuple[float, ...], known: bool = True) -> Tensor:
    """The raster (13, 8, 16) of one frame with these box rows, an empty row among them."""
    table = torch.tensor([(-1.0, 0, 0, 0, 0, 0), *rows])
    return raster_boxes(table[None], torch.tensor([known]), HEIGHT, WIDTH)[0]


def test_a_box_on_cell_edges_covers_exactly_its_cells() -> None:
    raster = painted((2, 4 / 16, 2 / 8, 7 / 16, 6 / 8, 5))
    expected = torch.zeros(HEIGHT, WIDTH)
    expected[2:6, 4:7] = 1
    assert raster.shape == (RASTER_CHANNELS, HEIGHT, WIDTH)
    torch.testing.assert_close(raster[2], expected)
    assert raster[[0, 1, 3, 4, 5]].abs().max() == 0
    torch.testing.assert_close(raster[EDGES].abs().amax(0) > 0, expected.bool())
    torch.testing.assert_close(raster[GIVEN], torch.ones(HEIGHT, WIDTH))


def test_edges_are_distances_in_cells_from_the_cell_centre() -> None:
    raster = painted((0, 4 / 16, 2 / 8, 7 / 16, 6 / 8, 5))
    expected = torch.tensor([-0.5, -1.5, 2.5, 2.5]).asinh()  # cell column 4, row 3 has its centre at (4.5, 3.5)
    torch.testing.assert_close(raster[EDGES, 3, 4], expected)


def test_instances_have_different_angles() -> None:
    raster = painted((0, 0, 0, 0.25, 1, 7), (0, 0.5, 0, 1, 1, 8))
    for column, track in ((0, 7), (15, 8)):
        expected = torch.tensor([math.cos(track * GOLDEN_ANGLE), math.sin(track * GOLDEN_ANGLE)])
        torch.testing.assert_close(raster[INSTANCE, 4, column], expected, atol=1e-5, rtol=0)


def test_the_last_box_stands_in_front_and_both_are_covered() -> None:
    raster = painted((0, 0, 0, 1, 1, 1), (5, 0.5, 0.5, 1, 1, 2))
    assert raster[0].min() == 1
    assert raster[5, 7, 15] == 1
    expected = torch.tensor([-7.5, -3.5, 0.5, 0.5]).asinh()  # the second box seen from the last cell
    torch.testing.assert_close(raster[EDGES, 7, 15], expected)
    torch.testing.assert_close(raster[EDGES, 0, 0], torch.tensor([-0.5, -0.5, 15.5, 7.5]).asinh())


@given(
    x=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    y=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    category=st.integers(0, len(CATEGORIES) - 1),
)
@settings(max_examples=30, deadline=None)
def test_coverage_adds_up_to_the_area_of_the_box(x: list[float], y: list[float], category: int) -> None:
    raster = painted((category, x[0], y[0], x[1], y[1], 3))
    area = (x[1] - x[0]) * (y[1] - y[0]) * HEIGHT * WIDTH
    assert raster[category].sum().item() == pytest.approx(area, abs=1e-3)
    assert raster[:6].sum().item() == pytest.approx(area, abs=1e-3)


def test_an_empty_road_is_not_an_unknown_one() -> None:
    empty = painted()
    assert empty[:GIVEN].abs().max() == 0
    assert empty[GIVEN].min() == 1
    assert painted((0, 0, 0, 1, 1, 1), known=False).abs().max() == 0


def test_unknown_boxes_add_exactly_nothing() -> None:
    layer, x = BoxRaster(8), torch.randn(2, 8, 4, 4)
    boxes, known = torch.tensor([[[0.0, 0, 0, 1, 1, 1]]] * 2), torch.tensor([True, False])
    assert torch.equal(layer(x, {"boxes": boxes, "boxes_known": known}), x), "a new layer is zero"
    torch.nn.init.normal_(layer.conv.weight)
    seen = layer(x, {"boxes": boxes, "boxes_known": known})
    assert not torch.equal(seen[0], x[0])
    assert torch.equal(seen[1], x[1])
    assert torch.equal(layer(x, None), x)


def test_networks_take_what_a_label_track_gives() -> None:
    car = BoxTrack(3, "car", np.array([0.0, 1.0]), np.array([[0.1, 0.2, 0.3, 0.6]] * 2, np.float32))
    arrays = Scenario(duration_s=1.0, time_of_day="night", tracks=(car,)).label_track(4, fps=4.0).arrays()
    labels = {name: torch.from_numpy(value) for name, value in arrays.items()}
    raster = raster_boxes(labels["boxes"], labels["boxes_known"], HEIGHT, WIDTH)
    assert raster[:, 0].sum() == pytest.approx(4 * 0.2 * 0.4 * HEIGHT * WIDTH, abs=1e-3)
    assert LabelEmbedder([*LABELS, "fps"], 16)(labels, labels["fps"]).shape == (4, 16)


def test_missing_null_and_none_are_the_same() -> None:
    embedder, like = LabelEmbedder([*LABELS, "fps"], 16), torch.zeros(3)
    nulls = {name: torch.full((3,), math.nan) for name in [*LABELS, "fps"]}
    assert torch.equal(embedder(None, like), embedder(nulls, like))
    assert torch.equal(embedder(None, like), embedder({}, like))
    assert embedder(nulls, like).isfinite().all()


@pytest.mark.parametrize("name", [*LABELS, "fps"])
def test_every_label_and_its_null_are_told_apart(name: str) -> None:
    embedder = LabelEmbedder([*LABELS, "fps"], 16)
    values = {name: torch.tensor([0.0, 1.0, math.nan])}
    first, second, null = embedder(values, torch.zeros(3))
    assert min((first - second).norm(), (first - null).norm(), (second - null).norm()) > 1e-3


def test_an_unknown_label_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'weather_mood'"):
        LabelEmbedder(["weather_mood"], 16)


def windows(count: int) -> dict[str, Tensor]:
    labels = {name: torch.ones(count, 3) for name in [*LABELS, "fps"]}
    return {**labels, "boxes": torch.ones(count, 3, 2, 6), "boxes_known": torch.ones(count, 3, dtype=torch.bool)}


def nulled(labels: dict[str, Tensor], name: str) -> Tensor:
    """Which windows lost the label: (b,) bool; fails unless windows lose it as a whole."""
    lost = ~labels["boxes_known"] if name == "boxes" else labels[name].isnan()
    assert torch.equal(lost.all(1), lost.any(1))
    return lost.all(1)


def test_labels_are_dropped_independently_at_their_rates() -> None:
    count = 4000
    dropped = drop_labels(windows(count), generator=torch.Generator().manual_seed(0))
    lost = {name: nulled(dropped, name).double() for name in DROPOUT}
    for name, rate in DROPOUT.items():
        assert lost[name].mean().item() == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / count))
    table = torch.stack(list(lost.values()))
    correlation = torch.corrcoef(table) - torch.eye(len(table), dtype=table.dtype)
    assert correlation.abs().max() < 0.07
    assert DROPOUT["ego_speed_mps"] == 0.3
    assert DROPOUT["boxes"] == 0.1
    assert not dropped["fps"].isnan().any()


def test_dropout_repeats_with_its_generator_and_leaves_its_input_alone() -> None:
    labels = windows(50)
    first, second = (drop_labels(labels, 0.5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(nulled(first, name), nulled(second, name)) for name in DROPOUT)
    assert not any(value.isnan().any() for value in labels.values())
    assert labels["boxes_known"].all()


def test_only_listed_labels_are_dropped() -> None:
    dropped = drop_labels(windows(5), {"crowdedness": 1.0, "boxes": 1.0})
    assert nulled(dropped, "crowdedness").all()
    assert nulled(dropped, "boxes").all()
    assert not nulled(dropped, "time_of_day").any()
