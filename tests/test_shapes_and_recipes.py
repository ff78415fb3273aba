"""Ground floor: folds undo each other, bytes survive the trip to floats, recipes rebuild and refuse foreign classes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drivesim.models.autoencoder import Autoencoder
from drivesim.recipes import RecipeError, build, recipe
from drivesim.shapes import as_bytes, as_floats, expand_to, fold_time, unfold_time


@given(st.integers(1, 4), st.integers(1, 4))
def test_unfolding_undoes_folding(b: int, t: int) -> None:
    x = torch.arange(b * t * 6.0).view(b, t, 2, 3)
    assert torch.equal(unfold_time(fold_time(x), t), x)


def test_every_byte_survives_the_trip_to_floats() -> None:
    frames = torch.arange(256, dtype=torch.uint8)
    floats = as_floats(frames)
    assert floats.min() == -1
    assert floats.max() == 1
    assert torch.equal(as_bytes(floats), frames)


def test_bytes_are_clipped_not_wrapped() -> None:
    assert as_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_floats_are_not_taken_for_bytes() -> None:
    with pytest.raises(TypeError, match=r"must be uint8, got torch\.float32"):
        as_floats(torch.zeros(1))


def test_expand_to_broadcasts_from_the_left() -> None:
    assert expand_to(torch.zeros(2, 3), torch.zeros(2, 3, 4, 5)).shape == (2, 3, 1, 1)


def test_a_recipe_rebuilds_nested_objects() -> None:

    network = Autoencoder(latent_channels=2, widths=(4, 4), blocks=1)
    again = build({"inside": [network.recipe]})["inside"][0]
    assert again.recipe == network.recipe == recipe(Autoencoder, **network.arguments)


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "drivesim.recipes.nothing", "drivesim.no_module.X", None])
def test_recipes_name_our_own_classes_only(target: object) -> None:
    with pytest.raises(RecipeError):
        build({"_target_": target})


def test_wrong_arguments_are_reported_with_the_class() -> None:
    with pytest.raises(RecipeError, match="Autoencoder cannot be built"):
        build({"_target_": "drivesim.models.autoencoder.Autoencoder", "widht": 3})
