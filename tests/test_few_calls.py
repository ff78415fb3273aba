"""Few-call students: what they are shown, what they are pulled to, and what their teacher and their critic see."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from gaussians import Gaussian, draw
from torch import Tensor, nn

from drivesim.diffusion.frame_mask import Known, first_frames
from drivesim.diffusion.noise import gaussian, zero_terminal_cosine
from drivesim.diffusion.objective import DiffusionObjective, FirstFrames
from drivesim.diffusion.samplers import SAMPLERS, ddim, dpmpp_2m, leading_to
from drivesim.errors import UsageError
from drivesim.models.autoencoder import IdentityAutoencoder
from drivesim.models.unet import ImageUNet
from drivesim.models.video_unet import VideoUNet
from drivesim.training.few_calls import FewCallModule, window_critic
from drivesim.training.learning_rate import Optimization
from drivesim.training.lessons import Lessons

SCHEDULE = zero_terminal_cosine()
PLAIN = Lessons()


def video(frames: int = 4) -> VideoUNet:
    torch.manual_seed(0)
    image = ImageUNet(3, 8, (1, 2), 1, (2,), head_channels=8, embedding=16)
    return VideoUNet(image, 3, frames=frames, context="carried", context_channels=4, head_channels=8, embedding=16)


class Answers(nn.Module):
    """A network whose x0 is the same everywhere, whatever it is shown: velocity = (alpha x - x0) / sigma."""

    context = "none"

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor, sigma: Tensor, labels: Any = None, context: Tensor | None = None) -> Tensor:
        sigma = sigma.reshape(*sigma.shape, *[1] * (x.ndim - sigma.ndim))
        return ((1 - sigma**2).clamp_min(0).sqrt() * x - self.value) / sigma


def module(lessons: Lessons = PLAIN, policy: Any = None, network: nn.Module | None = None, **more: Any) -> FewCallModule:
    objective = DiffusionObjective(SCHEDULE, "velocity", policy or FirstFrames())
    settings: dict[str, Any] = {"part": "prediction_fast", "ema_decay": 0.5, "single_frames": 0.0, "label_dropout": 0.0, **more}
    return FewCallModule(
        lessons=lessons, network=network or video(), objective=objective, autoencoder=IdentityAutoencoder(),
        optimization=Optimization(lr=1e-2), **settings,
    )  # fmt: skip


def batch(count: int = 4, frames: int = 4) -> dict[str, Any]:
    draws = torch.Generator().manual_seed(0)
    boxes = torch.tensor([0.0, 0.25, 0.25, 0.5, 0.75, 1.0]).expand(count, frames, 1, 6)
    labels = {"crowdedness": torch.ones(count, frames), "boxes": boxes, "boxes_known": torch.ones(count, frames, dtype=torch.bool)}
    return {"latents": torch.randn(count, frames, 3, 8, 16, generator=draws), "labels": labels}


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stepped(student: FewCallModule, monkeypatch: pytest.MonkeyPatch, steps: int) -> list[float]:
    """Distances after each of some plain AdamW steps, no trainer around them."""
    seen: list[dict[str, Tensor]] = []
    monkeypatch.setattr(student, "log", lambda *words, **more: None)
    monkeypatch.setattr(student, "log_dict", lambda values, **more: seen.append(values))
    monkeypatch.setattr(FewCallModule, "global_rank", 0)
    monkeypatch.setattr(FewCallModule, "global_step", 0)
    optimizer = torch.optim.AdamW(student.trained_groups(), lr=5e-3)
    for _ in range(steps):
        student.batches = 0  # the same draws every time
        optimizer.zero_grad()
        student.training_step(batch(), 0).backward()
        optimizer.step()
    return [float(values["train/recorded"].detach()) for values in seen]


def known(latents: Tensor, count: int = 2, level: float = 0.0) -> Known:
    b, t = latents.shape[:2]
    return Known(latents, first_frames(b, t, count), torch.full((b,), level), torch.randn_like(latents))


def test_a_student_learns_while_teacher_and_critic_look_on(monkeypatch: pytest.MonkeyPatch) -> None:
    student = module(Lessons(calls=2, teacher_steps=1, adversarial_weight=0.1), teacher=video(), critic=window_critic(3, 4, 1))
    teacher, critic = copy.deepcopy(student.teacher.state_dict()), copy.deepcopy(student.critic.state_dict())
    distances = stepped(student, monkeypatch, 8)
    assert distances[-1] < distances[0]
    assert all(torch.equal(value, teacher[name]) for name, value in student.teacher.state_dict().items())
    assert any(not torch.equal(value, critic[name]) for name, value in student.critic.state_dict().items())


def test_only_a_student_that_opens_rollouts_says_so() -> None:
    assert module(Lessons(opens=True)).settings()["prediction_fast"]["opens"] is True
    assert "opens" not in module(Lessons()).settings()["prediction_fast"]
    with pytest.raises(UsageError, match="nothing is known; give them a share"):
        module(Lessons(opens=True), policy=FirstFrames(probabilities=(0.0, 0.5, 0.5)))


def test_the_levels_of_a_student_are_among_its_teachers() -> None:
    for calls, steps in ((1, 4), (4, 4), (3, 5)):
        torch.testing.assert_close(SCHEDULE.grid(calls * steps)[::steps], SCHEDULE.grid(calls))


def test_inputs_lie_at_the_levels_of_the_student_and_every_level_is_met() -> None:
    student, latents = module(Lessons(calls=4)), batch(8)["latents"]
    noised, sigma = student._inputs(latents, {}, None, draws())
    assert sorted(sigma.tolist(), reverse=True) == pytest.approx([level for level in student.levels.tolist() for _ in range(2)])
    clean = (1 - sigma**2).clamp_min(0).sqrt()[:, None, None, None, None] * latents
    spread = ((noised - clean) / sigma[:, None, None, None, None]).flatten(1).std(dim=1)
    assert torch.allclose(spread, torch.ones(8), atol=0.1)


def test_without_noise_a_student_of_one_call_is_handed_zeros() -> None:
    noised, sigma = module(Lessons(calls=1, noise=0.0))._inputs(batch()["latents"], {}, None, draws())
    assert torch.equal(noised, torch.zeros_like(noised)) and torch.equal(sigma, torch.ones(4))


def test_own_steps_replace_noised_recordings_wherever_there_is_a_level_before() -> None:
    student, latents = module(Lessons(calls=2), network=Answers(0.25)), batch()["latents"]
    place = torch.tensor([0, 1, 0, 1])
    own = student._own(latents, place, {}, None, draws())
    sigma = float(student.levels[1])
    assert own[::2].std() == pytest.approx(1, abs=0.1)  # the first level is noise alone
    assert own[1::2].mean() == pytest.approx(0.25 * math.sqrt(1 - sigma**2), abs=0.1)
    assert own[1::2].std() == pytest.approx(sigma, abs=0.1)


@pytest.mark.parametrize(("sampler", "known_frames"), [("ddim", 0), ("ddim", 2), ("dpmpp_2m", 2)])
def test_own_steps_of_a_student_are_its_samplers(sampler: str, known_frames: int) -> None:
    """From the first level on, which is noise alone, own inputs are where the sampler comes by; they draw what it began with."""
    student = module(Lessons(calls=3, sampler=sampler, teacher_steps=1))
    given = batch(2)
    latents, told = given["latents"], known(given["latents"], known_frames) if known_frames else None
    own = student._own(latents, torch.tensor([1, 1]), given["labels"], told, draws())

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return student.answer(student.network, x, sigma, given["labels"], told)

    sampled = SAMPLERS[sampler](denoise, gaussian(latents, draws()), SCHEDULE.grid(3)[:2])
    torch.testing.assert_close(own, sampled, atol=1e-4, rtol=1e-4)


def test_distances_are_weighted_by_how_much_can_be_known() -> None:
    """Velocity weights 1 / sigma^2 times the share of signal, at least the floor; only frames to be made count."""
    student, latents = module(Lessons(calls=4, mean_floor=0.2)), batch(2)["latents"]
    told, sigma = known(latents), torch.tensor([1.0, 0.5])
    made = told.keep(latents + 2.0)
    distance = student._distances(made, latents, latents, sigma, {}, told)["recorded"]
    assert distance.item() == pytest.approx(4.0 * (0.2 / 1.0 + 0.75 / 0.25) / 2, rel=1e-5)


def test_boxes_count_more_but_a_frame_counts_as_before() -> None:
    student, given = module(Lessons(box_weight=3.0)), batch()
    weight = student._attention(given["latents"], given["labels"])
    assert torch.allclose(weight.mean(dim=(-1, -2)), torch.ones(4, 4, 1))
    assert weight[0, 0, 0, 4, 6] == pytest.approx(4 * float(weight[0, 0, 0, 0, 0]))
    assert torch.equal(module(Lessons())._attention(given["latents"], given["labels"]), torch.ones(()))


def test_the_teachers_flow_ends_where_its_answer_is() -> None:
    student = module(Lessons(calls=4, teacher_steps=2, label_guidance=2.0, guidance=1.5), teacher=Answers(0.5))
    latents, sigma = batch()["latents"], student.levels.float()
    taught = student._taught(torch.randn_like(latents), sigma, batch()["labels"], None)
    assert torch.allclose(taught, torch.full_like(taught, 0.5), atol=1e-4)
    told = known(latents)
    held = student._taught(torch.randn_like(latents), sigma, batch()["labels"], told)
    assert torch.allclose(held[:, :2], latents[:, :2], atol=1e-5) and torch.allclose(
        held[:, 2:], torch.full_like(held[:, 2:], 0.5), atol=1e-4
    )


def test_the_teacher_is_guided_about_the_labels_that_are_named() -> None:
    """A teacher whose x0 is 1 where boxes are known and 2 more by night: led away from no boxes by 3, it is 3 and the night's 2."""

    class Seeing(Answers):
        def forward(self, x: Tensor, sigma: Tensor, labels: Any = None, context: Tensor | None = None) -> Tensor:
            seen = labels["boxes_known"].float() + 2 * labels["time_of_day"].nan_to_num()
            return super().forward(x, sigma) - seen[:, :, None, None, None] / sigma.reshape(*sigma.shape, *[1] * (x.ndim - sigma.ndim))

    labels = {**batch()["labels"], "time_of_day": torch.ones_like(batch()["labels"]["boxes_known"], dtype=torch.float32)}
    for about, wanted in (("boxes", 5.0), ("time_of_day", 7.0), ("all", 9.0)):
        student = module(Lessons(calls=4, teacher_steps=1, label_guidance=3.0, guided_labels=about), teacher=Seeing(0.0))
        taught = student._taught(torch.randn_like(batch()["latents"]), student.levels.float(), labels, None)
        torch.testing.assert_close(taught, torch.full_like(taught, wanted), atol=1e-3, rtol=0)


def test_the_teacher_is_led_away_from_its_worse_version() -> None:
    """x0 of 3, where the worse version says 2: at a scale of 3 it is 3 + 2 (3 - 2); labels move neither."""
    student = module(Lessons(calls=4, teacher_steps=1, autoguidance=3.0, label_guidance=2.0), teacher=Answers(3.0), worse=Answers(2.0))
    taught = student._taught(torch.randn_like(batch()["latents"]), student.levels.float(), batch()["labels"], None)
    torch.testing.assert_close(taught, torch.full_like(taught, 5.0), atol=1e-3, rtol=0)
    assert student.settings()["prediction_fast"]["guided"] is True


def test_a_teacher_that_would_only_be_stronger_teaches_nothing_else() -> None:
    """As above, where all of the push lies along x0: none of it is kept."""
    lessons = Lessons(calls=4, teacher_steps=1, autoguidance=3.0, guidance_parallel=0.0)
    student = module(lessons, teacher=Answers(3.0), worse=Answers(2.0))
    taught = student._taught(torch.randn_like(batch()["latents"]), student.levels.float(), batch()["labels"], None)
    torch.testing.assert_close(taught, torch.full_like(taught, 3.0), atol=1e-3, rtol=0)
    with pytest.raises(UsageError, match=r"guidance_parallel is a share in 0..1, not 1.5"):
        Lessons(guidance_parallel=1.5)


@pytest.mark.parametrize(("scale", "worse"), [(3.0, None), (1.0, Answers(0.0))])
def test_autoguidance_needs_a_scale_and_a_worse_network(scale: float, worse: nn.Module | None) -> None:
    with pytest.raises(UsageError, match=rf"lessons.autoguidance={scale} and a worse network .*: give both or neither"):
        module(Lessons(autoguidance=scale), teacher=Answers(1.0), worse=worse)


def test_one_ddim_step_of_the_student_leads_where_the_teachers_steps_do() -> None:
    """Against an exact Gaussian: the answer that is wanted carries DDIM in one step as far as the teacher went in many."""
    data, grid = Gaussian(mean=0.7, deviation=0.4), SCHEDULE.grid(8)
    noised = draw(0, 2, 3, 1, 4, 4)
    for first in (0, 2, 4, 6):
        path = grid[first : first + 3]
        reached = dpmpp_2m(data, noised, path)
        wanted = leading_to(reached, noised, path)
        torch.testing.assert_close(ddim(lambda x, sigma, x0=wanted: x0, noised, path[[0, -1]]), reached)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_a_student_of_steps_equals_its_teacher_of_one_step(sampler: str) -> None:
    """With as many steps as the student has calls, the teacher's DDIM answer is the student's own."""
    student = module(Lessons(calls=4, teacher_steps=1, sampler=sampler, recorded_weight=0.0), network=Answers(0.5), teacher=Answers(0.5))
    latents, sigma = batch()["latents"], student.levels.float()
    made = student.answer(student.network, latents, sigma, {}, None)
    assert student._distances(made, latents, latents, sigma, {}, None)["teacher"].item() == pytest.approx(0.0, abs=1e-8)


def test_a_student_equal_to_its_teacher_is_not_pulled() -> None:
    student = module(Lessons(calls=1, teacher_steps=1), network=Answers(0.5), teacher=Answers(0.5))
    latents, sigma = batch()["latents"], torch.ones(4)
    made = student.answer(student.network, latents, sigma, {}, None)
    assert student._distances(made, latents, latents, sigma, {}, None)["teacher"].item() == pytest.approx(0.0, abs=1e-9)


def test_the_critic_cannot_tell_a_recording_from_itself() -> None:
    """The same frames on both sides: the hinge losses add up to 2 where logits stay within -1..1."""
    student, given = module(Lessons(critic_noise=0.0), critic=window_critic(3, 4, 1)), batch()
    told = known(given["latents"])
    with torch.no_grad():
        displeased, hinge = student._judged(given["latents"], given["latents"], given["labels"], told, draws())
    assert abs(float(displeased)) < 1 and hinge.item() == pytest.approx(2.0, abs=1e-5)


def test_the_critic_sees_the_known_frames_whatever_was_made_of_them() -> None:
    student, given = module(Lessons(critic_noise=0.0), critic=window_critic(3, 4, 1)), batch()
    told, made = known(given["latents"]), torch.randn_like(given["latents"])
    other = torch.where(told.mask[..., None, None, None], torch.zeros_like(made), made)
    with torch.no_grad():
        first, second = (student._judged(x, given["latents"], given["labels"], told, draws())[0] for x in (made, other))
    assert torch.equal(first, second)


def test_the_balance_makes_both_pushes_equally_strong() -> None:
    made = torch.randn(2, 3, requires_grad=True)
    for limit, expected in ((10.0, 3.0), (2.0, 2.0)):
        balance = module(Lessons(balance_limit=limit))._balance(6.0 * made.sum(), 2.0 * made.sum(), made)
        assert balance.item() == pytest.approx(expected)


def test_the_image_network_that_was_trained_along_is_saved_once() -> None:
    parts = module(image_part="image_fast").parts()
    assert list(parts) == ["image_fast", "prediction_fast"] and parts["prediction_fast"].without == {"image.": "image_fast"}
    assert parts["image_fast"].network is parts["prediction_fast"].network.image


def test_settings_say_how_to_sample() -> None:
    said = module(Lessons(calls=3), image_part="image_fast").settings()
    assert said["image_fast"] == said["prediction_fast"]
    said = said["prediction_fast"]
    assert (
        said["calls"] == 3
        and said["noise"] == 1.0
        and said["parameterization"] == "velocity"
        and said["known"]["_target_"].endswith("FirstFrames")
    )


def test_a_rollout_may_take_more_calls_than_were_taught_and_no_fewer() -> None:
    student = module(Lessons(calls=3, taken=5))
    assert student.settings()["prediction_fast"]["calls"] == 5 and len(student.levels) == 3
    for wrong in ({"calls": 3, "taken": 2}, {"calls": 1, "taken": 2, "noise": 0.0}):
        with pytest.raises(UsageError, match=f"taken={wrong['taken']}"):
            Lessons(**wrong)


def test_a_student_of_guidance_alone_is_taught_the_guided_answer_and_samples_as_its_teacher() -> None:
    lessons = Lessons(calls=4, teacher_steps=1, sampler="dpmpp_2m", autoguidance=3.0)
    student = module(lessons, teacher=Answers(3.0), worse=Answers(2.0))
    taught = student._taught(torch.randn_like(batch()["latents"]), student.levels.float(), batch()["labels"], None)
    torch.testing.assert_close(taught, torch.full_like(taught, 5.0), atol=1e-3, rtol=0)
    assert student.settings()["prediction_fast"]["sampler"] == "dpmpp_2m"
    with pytest.raises(UsageError, match="takes the teacher's steps: teacher_steps=1, not 2"):
        Lessons(sampler="dpmpp_2m", teacher_steps=2)


@pytest.mark.parametrize(
    "wrong", [{"calls": 0}, {"sampler": "dpm"}, {"noise": 0.0}, {"noise": -0.1, "calls": 1}, {"own_share": 1.5}, {"critic_noise": 1.0}]
)
def test_lessons_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Lessons(**wrong)
