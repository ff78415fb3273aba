"""One call instead of many: a student that learns from recordings, a critic and a teacher that stays as it is; and patches to learn on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drivesim.diffusion.frame_mask import LowResolution
from drivesim.diffusion.noise import zero_terminal_cosine
from drivesim.diffusion.objective import DiffusionObjective, LowFrames
from drivesim.errors import UsageError
from drivesim.models.discriminator import PatchDiscriminator2d, PatchDiscriminator3d
from drivesim.models.unet import ImageUNet
from drivesim.models.video_unet import VideoUNet
from drivesim.training.adversarial import adversarial
from drivesim.training.distillation import DistillationModule
from drivesim.training.learning_rate import Optimization
from drivesim.training.patches import Patches


def video() -> VideoUNet:
    torch.manual_seed(0)
    image = ImageUNet(3, 8, (1, 2), 1, (), embedding=16, labels=(), boxes=False, stem=4, context_channels=5, norm="pixel")
    return VideoUNet(image, 3, frames=2, context="encoder", alpha="scalar", labels=(), context_channels=4, embedding=16)


def module(**more: Any) -> DistillationModule:
    objective = DiffusionObjective(zero_terminal_cosine(), "velocity", LowFrames())
    settings: dict[str, Any] = {"patches": Patches(16, 2), "told": "upsampler_fast", "ema_decay": 0.5, **more}
    return DistillationModule(video(), settings.pop("teacher", video()), objective, "upsampler_fast", Optimization(lr=1e-2), **settings)


def batch() -> dict[str, Any]:
    frames = torch.randint(0, 256, (2, 2, 3, 32, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return {"frames": frames, "labels": {"crowdedness": torch.zeros(2, 2)}}



def stepped(student: DistillationModule, monkeypatch: pytest.MonkeyPatch, steps: int) -> list[float]:
    """Losses of plain AdamW steps, no trainer around them."""
    for name in ("log", "log_dict"):
        monkeypatch.setattr(student, name, lambda *words, **more: None)
    monkeypatch.setattr(DistillationModule, "global_rank", 0)
    monkeypatch.setattr(DistillationModule, "global_step", 0)
    optimizer = torch.optim.AdamW(student.trained_groups(), lr=1e-2)
    losses = []
    for _ in range(steps):
        student.batches = 0  # the same draws every time
        loss = student.training_step(batch(), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_new_student_answers_with_the_interpolation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that says zero adds no detail, so one call gives the small frames enlarged."""
    student, frames = module(), torch.rand(1, 2, 3, 16, 16)
    low = torch.rand(1, 2, 3, 4, 4)
    known = LowResolution(low, torch.ones(1, 2, dtype=torch.bool), torch.zeros(1), torch.zeros_like(low), 0.1)
    made = student.made(student.network, frames, known, torch.Generator().manual_seed(0))
    torch.testing.assert_close(made, known.outward(torch.zeros_like(frames)))


def test_the_student_learns_and_the_teacher_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    student = module(critic=PatchDiscriminator3d(4, 1), adversarial_weight=0.01)
    before = copy.deepcopy(student.teacher).state_dict()  # type: ignore[union-attr]
    losses = stepped(student, monkeypatch, 8)
    assert losses[-1] < losses[0]
    assert student.teacher is not None
    assert all(torch.equal(value, before[name]) for name, value in student.teacher.state_dict().items())


def test_a_student_that_is_its_teacher_and_right_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's term is zero where the teacher would change nothing of the student's picture."""

    class Content(nn.Module):
        context = "encoder"

        def forward(self, x: Tensor, sigma: Tensor, labels: Any, context: Tensor | None) -> Tensor:
            alpha, level = (1 - sigma**2).sqrt().view(-1, 1, 1, 1, 1), sigma.view(-1, 1, 1, 1, 1)
            return (alpha * x - self.wanted) / level  # the velocity that leads to x0 = wanted

    student = module()
    content = Content()
    made = torch.rand(1, 2, 3, 16, 16)
    content.wanted = made  # type: ignore[assignment]
    student.teacher = content
    assert float(student._to_teacher(made, None, torch.Generator().manual_seed(0))) < 1e-9


def test_it_exports_the_average_and_says_how_to_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    student = module()
    assert set(student.parts()) == {"upsampler_fast"}
    told = student.settings()["upsampler_fast"]
    assert told["parameterization"] == "velocity" and told["known"]["factor"] == 4


def test_a_student_that_is_handed_no_noise_says_so_and_always_answers_the_same() -> None:
    student, frames = module(noise=0.0), torch.rand(1, 2, 3, 16, 16)
    for weight in student.network.parameters():
        nn.init.normal_(weight, std=0.1)
    first, second = (student.made(student.network, frames, None, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(first, second)
    assert student.settings()["upsampler_fast"]["noise"] == 0.0


@pytest.mark.parametrize("critic", [PatchDiscriminator2d(4, 1), PatchDiscriminator3d(4, 1)])
def test_each_side_of_the_game_is_blind_to_the_other(critic: nn.Module) -> None:
    made, frames = torch.rand(1, 2, 3, 8, 8, requires_grad=True), torch.rand(1, 2, 3, 8, 8)
    displeased, hinge = adversarial(critic, made, frames)
    displeased.backward(retain_graph=True)
    assert made.grad is not None and made.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in critic.parameters())
    made.grad = None
    hinge.backward()
    assert made.grad is None
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in critic.parameters())


def test_patches_are_pieces_of_their_window_at_aligned_places() -> None:
    frames = torch.arange(2 * 3 * 32 * 48).reshape(1, 2, 3, 32, 48)
    cut = Patches(16, 5, 8).cut({"frames": frames, "labels": {}}, torch.Generator().manual_seed(0))
    assert cut["frames"].shape == (5, 2, 3, 16, 16) and cut["labels"] == {}
    for patch in cut["frames"]:
        corner = int(patch[0, 0, 0, 0])
        top, left = divmod(corner, 48)
        assert top % 8 == left % 8 == 0
        assert torch.equal(patch, frames[0, :, :, top : top + 16, left : left + 16])
    again = Patches(16, 5, 8).cut({"frames": frames, "labels": {}}, torch.Generator().manual_seed(0))
    assert torch.equal(again["frames"], cut["frames"])


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 10}, {"size": 8, "count": 0}])
def test_impossible_patches_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="patches need"):
        Patches(**wrong)


def test_frames_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(UsageError, match="hold no patch"):
        Patches(64).cut(batch(), torch.Generator())
