"""Shipping a checkpoint: half the bytes, the same networks to half precision, no path of the training machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_checkpoint import make_checkpoint, make_fast, make_upsampler

from drivesim.io.checkpoints import CheckpointError, load_checkpoint, save_network
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings
from drivesim.training.ship import ship


def test_shipped_networks_are_the_trained_ones_in_half_precision(tmp_path: Path) -> None:
    trained = make_checkpoint(tmp_path / "trained")
    size = ship(tmp_path / "trained", tmp_path / "shipped")
    shipped = load_checkpoint(tmp_path / "shipped")
    assert size < 0.7 * sum(path.stat().st_size for path in (tmp_path / "trained").iterdir())
    assert shipped.settings == trained.settings
    for name in trained.networks:
        for key, value in trained.network(name).state_dict().items():
            assert torch.allclose(shipped.network(name).state_dict()[key], value, rtol=1e-3, atol=1e-4)


def test_borrowed_spatial_weights_stay_borrowed_and_no_path_is_shipped(tmp_path: Path) -> None:
    trained = make_checkpoint(tmp_path / "trained")
    prediction = trained.network("prediction")
    prediction.image.load_state_dict(trained.network("image").state_dict())
    save_network(tmp_path / "trained" / "prediction", prediction, {"data": ["/somewhere/private/sim"]}, without={"image.": "image"})
    ship(tmp_path / "trained", tmp_path / "shipped")
    described = (tmp_path / "shipped" / "prediction.json").read_text()
    assert '"image": "image"' in described
    assert "private" not in described
    load_checkpoint(tmp_path / "shipped").network("prediction")


def test_two_networks_may_borrow_from_a_file_that_no_rollout_names(tmp_path: Path) -> None:
    """A student whose spatial weights are its teacher's: they are shipped once, and both are what they were."""
    trained = make_checkpoint(tmp_path / "trained")
    network, folder = trained.network("interpolation"), tmp_path / "trained"
    save_network(folder / "interpolation_image", network.image, {})
    for name in ("interpolation", "interpolation_fast"):
        save_network(folder / name, network, {}, without={"image.": "interpolation_image"})
    ship(folder, tmp_path / "shipped")
    shipped = load_checkpoint(tmp_path / "shipped")
    for name in ("interpolation", "interpolation_fast"):
        assert not any("image." in key for key in load_file(tmp_path / "shipped" / f"{name}.safetensors"))
        for key, value in network.state_dict().items():
            assert torch.allclose(shipped.network(name).state_dict()[key], value, rtol=1e-3, atol=1e-4)


def test_what_autoguidance_leads_away_from_is_shipped(tmp_path: Path) -> None:
    trained = make_checkpoint(tmp_path / "trained")
    save_network(tmp_path / "trained" / "image_worse", trained.network("image"), {})
    ship(tmp_path / "trained", tmp_path / "shipped")
    assert "image_worse" in load_checkpoint(tmp_path / "shipped").networks


def test_only_the_quick_upsampler_is_shipped(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "trained")
    make_upsampler(tmp_path / "trained")
    ship(tmp_path / "trained", tmp_path / "shipped")
    shipped = load_checkpoint(tmp_path / "shipped")
    assert "upsampler_fast" in shipped.networks and "upsampler_fast" in shipped.settings
    assert not {"upsampler", "upsampler_image"} & (set(shipped.networks) | set(shipped.settings))
    assert Upsampler(shipped, UpsamplerSettings(overlap=1)).name == "upsampler_fast"


def test_networks_of_few_calls_are_shipped_with_their_spatial_weights_once(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "trained")
    trained = make_fast(tmp_path / "trained")
    ship(tmp_path / "trained", tmp_path / "shipped")
    shipped = load_checkpoint(tmp_path / "shipped")
    assert set(shipped.networks) == set(trained.networks) and shipped.settings == trained.settings
    assert not any(name.startswith("image.") for name in load_file(tmp_path / "shipped" / "prediction_fast.safetensors"))
    network, image = shipped.network("prediction_fast"), shipped.network("image_fast")
    assert all(torch.equal(value, network.image.state_dict()[name]) for name, value in image.state_dict().items())
    for name, value in trained.network("prediction_fast").state_dict().items():
        assert torch.allclose(network.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_an_unfinished_checkpoint_is_not_shipped(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "trained")
    (tmp_path / "trained" / "image.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing image\.safetensors"):
        ship(tmp_path / "trained", tmp_path / "shipped")
