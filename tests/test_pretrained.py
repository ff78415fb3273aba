"""The diffusers adapters, with tiny random networks; skipped where diffusers is not installed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from drivesim.errors import DrivesimError
from drivesim.models import pretrained
from drivesim.models.pretrained import PretrainedAutoencoder, PretrainedUNet, noise_table
from drivesim.models.video_unet import VideoUNet
from drivesim.recipes import build

UNET: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 12, "attention_head_dim": 4,
}  # fmt: skip
VAE: dict[str, Any] = {
    "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4, "scaling_factor": 0.5,
    "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
}  # fmt: skip


@pytest.fixture
def unet() -> PretrainedUNet:
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return PretrainedUNet(UNET, steps=100).eval()


def test_the_noise_table_is_stable_diffusion_s() -> None:
    table = noise_table(0.00085, 0.012, 1000)
    assert table[0].item() == pytest.approx(0.00085**0.5, rel=1e-5)
    assert table[-1].square().item() == pytest.approx(1 - 0.0047, abs=1e-4)
    assert (table.diff() > 0).all()


def test_without_diffusers_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(pretrained.importlib, "import_module", absent)
    with pytest.raises(DrivesimError, match=r"drivesim\[pretrained\]"):
        PretrainedAutoencoder(VAE)


def test_noise_levels_become_the_nearest_timestep(unet: PretrainedUNet) -> None:
    steps = torch.tensor([0, 7, 50, 99])
    assert torch.equal(unet.timestep(unet.table[steps] + 1e-4), steps)
    assert unet.timestep(torch.tensor([0.0, 1.0])).tolist() == [0, 99]


def test_it_is_called_like_our_own(unet: PretrainedUNet) -> None:
    nn.init.normal_(unet.boxes.conv.weight)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.9])
    boxes = torch.tensor([0, 0.1, 0.2, 0.6, 0.8, 4]).expand(2, 1, 6)
    plain = unet(x, sigma)
    assert plain.shape == x.shape
    assert torch.equal(plain, unet(x, sigma, {"time_of_day": torch.full((2,), float("nan"))}))
    assert not torch.equal(plain, unet(x, sigma, {"time_of_day": torch.ones(2)}))
    assert not torch.equal(plain, unet(x, sigma, {"boxes": boxes, "boxes_known": torch.ones(2, dtype=torch.bool)}))


def test_temporal_layers_go_in_as_the_identity_and_survive(unet: PretrainedUNet) -> None:
    x, sigma = torch.randn(1, 3, 4, 8, 8), torch.rand(1, 3)
    expected = unet(x[0], sigma[0])
    video = VideoUNet(unet, 4, frames=3, context="encoder", context_channels=4, head_channels=4, embedding=16)
    assert len(video.temporal.layers) == len(unet.sites()) + len(unet.attention_sites())
    assert unet.attention_sites()
    assert torch.equal(video(x, sigma)[0], expected)
    for parameter in video.temporal_parameters():
        nn.init.normal_(parameter, std=0.2)
    moved = video(x, sigma)
    assert not torch.equal(moved[0], expected)
    twin = copy.deepcopy(video)
    twin.enable_checkpointing()
    torch.testing.assert_close(twin(x, sigma), moved)
    for network in (video, twin):
        network(x, sigma).square().mean().backward()
    theirs = dict(video.named_parameters())
    for name, parameter in twin.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-3)


def test_recipe_and_folder_rebuild_it(unet: PretrainedUNet, tmp_path: Path) -> None:
    twin = build(json.loads(json.dumps(unet.recipe))).eval()
    twin.load_state_dict(unet.state_dict(), strict=True)
    x, sigma = torch.randn(1, 4, 8, 8), torch.rand(1)
    assert torch.equal(twin(x, sigma), unet(x, sigma))
    unet.unet.save_pretrained(tmp_path)
    read = PretrainedUNet.from_folder(tmp_path, steps=100)
    assert all(torch.equal(value, unet.unet.state_dict()[name]) for name, value in read.unet.state_dict().items())
    with pytest.raises(DrivesimError, match=r"no config\.json"):
        PretrainedUNet.from_folder(tmp_path / "nothing")


def test_the_autoencoder_is_a_first_stage(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    network = PretrainedAutoencoder(VAE).eval()
    assert (network.latent_channels, network.downsample, network.receptive_frames) == (4, 2, 0)
    frames = torch.rand(6, 3, 8, 16) * 2 - 1
    latents = network.encode(frames)
    torch.testing.assert_close(latents, 0.5 * network.autoencoder.encode(frames).latent_dist.mean)
    whole = network.decode(latents.unflatten(0, (2, 3)))
    assert whole.shape == (2, 3, 3, 8, 16)
    torch.testing.assert_close(network.decode(latents.unflatten(0, (2, 3)), slice(1, 3)), whole[:, 1:])
    network.autoencoder.save_pretrained(tmp_path)
    assert torch.equal(PretrainedAutoencoder.from_folder(tmp_path).eval().encode(frames), latents)
