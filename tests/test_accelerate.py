"""Half precision and compilation: the same network within rounding, float32 at its ends, and the original as it was."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from drivesim.errors import UsageError
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.unet import ImageUNet
from drivesim.models.video_unet import FrameByFrame, VideoUNet
from drivesim.simulation.accelerate import accelerate, check_choices
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.upsample import UpsamplerSettings


def awake(network: nn.Module) -> nn.Module:
    """With weights where new layers have zeros."""
    torch.manual_seed(0)
    for weight in network.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return network.eval()


def video(multipliers: Sequence[int] = (1, 2)) -> nn.Module:
    image = ImageUNet(4, 16, multipliers, head_channels=16, embedding=32)
    return awake(VideoUNet(image, 4, frames=3, context="carried", head_channels=16))


def answer(network: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 3, 4, 8, 8, generator=generator), torch.randn(2, 3, 6, 8, 8, generator=generator)
    with torch.inference_mode():
        return network(x, torch.full((2, 3), 0.5), {"crowdedness": torch.full((2, 3), 4.0)}, context)


def test_plain_it_is_the_network_itself_to_the_last_bit() -> None:
    network = video()
    before = answer(network)
    assert accelerate(network) is network
    assert torch.equal(answer(network), before)
    assert not any(weight.requires_grad for weight in network.parameters())


def test_half_precision_rounds_and_no_more() -> None:
    network = video()
    before, weights = answer(network), [weight.clone() for weight in network.parameters()]
    halved = accelerate(network, "bfloat16")
    made = answer(halved)
    assert made.dtype == torch.float32 and torch.isfinite(made).all()
    scale = before.std()
    assert 0 < (made - before).std() < 0.03 * scale
    assert torch.equal(answer(network), before), "the original is not touched"
    assert all(torch.equal(old, now) for old, now in zip(weights, network.parameters(), strict=True))
    kinds = {weight.dtype for module in halved.modules() if isinstance(module, nn.Conv2d | nn.Linear) for weight in module.parameters()}
    assert kinds == {torch.bfloat16}


@pytest.mark.parametrize("norm", ["none", "group"])
def test_half_precision_of_an_autoencoder(norm: str) -> None:
    network = awake(Autoencoder(4, [8, 16], 1, 1, norm=norm, attention=norm == "group").with_temporal(1, 3))
    halved = accelerate(network, "bfloat16")
    frames = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.inference_mode():
        for mine, wanted in ((halved.encode(frames), network.encode(frames)), (halved.decode(torch.ones(1, 2, 4, 8, 8)),
                                                                              network.decode(torch.ones(1, 2, 4, 8, 8)))):  # fmt: skip
            assert mine.dtype == torch.float32
            assert (mine - wanted).std() < 0.05 * wanted.std()


def test_frame_by_frame_around_a_halved_image_network() -> None:
    image = awake(ImageUNet(4, 16, (1, 2), head_channels=16, embedding=32))
    halved = FrameByFrame(accelerate(image, "bfloat16"))  # type: ignore[arg-type]
    assert (answer(halved) - answer(FrameByFrame(image))).std() < 0.03 * answer(FrameByFrame(image)).std()


def test_compiled_it_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: asked.append(options))
    network = video()
    compiled = accelerate(network, compile="default")
    assert asked == [{"mode": None}] and compiled is not network
    accelerate(network, compile="max-autotune")
    assert asked[1] == {"mode": "max-autotune"}
    torch.testing.assert_close(answer(compiled), answer(network))


def test_compiled_for_real_by_the_eager_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: real(self, backend="eager", fullgraph=True))
    network = video((1,))  # tracing takes a second per layer
    for precision, tolerance in (("float32", 1e-5), ("bfloat16", 2e-1)):
        torch.testing.assert_close(answer(accelerate(network, precision, "default")), answer(network), atol=tolerance, rtol=tolerance)


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match=r"rollout.precision must be one of float32, bfloat16, not 'int8'"):
        check_choices("rollout", "int8", "none")
    with pytest.raises(UsageError, match=r"rollout.compile must be one of none, default"):
        RolloutSettings(compile="yes")
    with pytest.raises(UsageError, match=r"upsampling.precision"):
        UpsamplerSettings(precision="float64")
