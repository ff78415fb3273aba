"""Distance of decoded frames: what is decoded, what gradients reach, and a student that learns by it alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from test_few_calls import batch, module
from torch import Tensor, nn

from drivesim.diffusion.frame_mask import Known, LowResolution, endpoints
from drivesim.models.autoencoder import Autoencoder
from drivesim.training.decoded import DecodedDistance


class Doubles(nn.Module):
    """A decoder that doubles, and remembers which frames it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def decode(self, latents: Tensor) -> Tensor:
        self.shown.append(latents)
        return 2 * latents


def windows(count: int = 3, frames: int = 5) -> Tensor:
    """Latents (b, t, 3, 2, 2) that hold the number of their frame."""
    return torch.arange(float(frames)).view(1, -1, 1, 1, 1).expand(count, frames, 3, 2, 2).clone()


def test_the_distance_is_that_of_decoded_frames() -> None:
    wanted = windows()
    terms = DecodedDistance(weight=3.0)(Doubles(), wanted + 0.5, wanted, ~endpoints(3, 5), torch.Generator().manual_seed(0))
    assert {name: float(value) for name, value in terms.items()} == {"frames": pytest.approx(3.0)}


def test_pooled_frames_differ_in_colour_and_not_in_detail() -> None:
    wanted, unknown = torch.zeros(2, 3, 3, 8, 8), torch.ones(2, 3, dtype=torch.bool)
    checks = ((torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1).expand_as(wanted)

    def far(made: Tensor, pool: int) -> float:
        return float(DecodedDistance(pool=pool)(Doubles(), made, wanted, unknown, torch.Generator())["frames"])

    assert (far(checks, 1), far(checks, 4)) == (2, 0) and far(wanted + 1, 4) == far(wanted + 1, 1) == 2


def test_every_frame_that_was_made_is_drawn_and_no_other() -> None:
    decoder, generator = Doubles(), torch.Generator().manual_seed(0)
    for _ in range(20):
        DecodedDistance()(decoder, windows(), windows(), ~endpoints(3, 5), generator)
    seen = Counter(int(value) for latents in decoder.shown for value in latents[:, 0, 0, 0, 0])
    assert set(seen) == {1, 2, 3} and min(seen.values()) > 20
    assert all(torch.equal(a, b) for a, b in zip(decoder.shown[::2], decoder.shown[1::2], strict=True)), "the same frame of both"


def test_the_perceptual_distance_is_asked_for_frames_and_weighted() -> None:
    asked: list[tuple[int, ...]] = []

    class Perceptual(nn.Module):
        def forward(self, frames: Tensor, targets: Tensor) -> Tensor:
            asked.append(tuple(frames.shape))
            return (frames - targets).square().mean()

    found = DecodedDistance(Perceptual(), weight=0.0, perceptual_weight=0.5)(
        Doubles(), windows() + 1, windows(), torch.ones(3, 5, dtype=torch.bool), torch.Generator().manual_seed(0)
    )
    assert asked == [(3, 3, 2, 2)] and float(found["perceptual"]) == pytest.approx(2.0) and float(found["frames"]) == 0


def test_gradients_reach_what_was_made_through_a_decoder_that_stays() -> None:
    decoder = Autoencoder(3, (8, 8), 1).requires_grad_(False)
    made = torch.randn(2, 5, 3, 2, 4, requires_grad=True)
    sum(DecodedDistance()(decoder, made, made.detach() + 1, ~endpoints(2, 5), torch.Generator()).values(), torch.zeros(())).backward()
    assert made.grad is not None
    touched = made.grad.abs().amax(dim=(2, 3, 4)) > 0
    assert touched.sum(dim=1).tolist() == [1, 1] and not touched[:, [0, -1]].any()
    assert all(weight.grad is None for weight in decoder.parameters())


def test_a_student_is_drawn_to_recordings_as_they_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    student = module(decoded=DecodedDistance())
    seen: dict[str, Any] = {}
    monkeypatch.setattr(student, "log_dict", seen.update)
    monkeypatch.setattr(student, "log", lambda *_, **__: None)
    loss = student.training_step(batch(), 0).detach()
    assert seen["train/frames"] > 0 and float(loss) > float(seen["train/recorded"].detach())
    assert not any(name.startswith("decoded.") for name in student.state_dict()), "a frozen helper is not saved"


def test_some_windows_of_what_is_known() -> None:
    values, level = torch.randn(4, 5, 3, 2, 2), torch.arange(4.0)
    whole = LowResolution(values, endpoints(4, 5), level, torch.randn(4, 5, 3, 2, 2), detail=0.5)
    part = whole.rows(torch.tensor([True, False, False, True]))
    assert isinstance(part, LowResolution) and part.detail == 0.5 and part.level.tolist() == [0, 3]
    assert torch.equal(part.values, values[[0, 3]]) and type(Known(values, whole.mask, level, values).rows(level > 1)) is Known
