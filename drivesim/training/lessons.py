"""What a student of few calls learns from, as one checked set of numbers. This file knows no network and no batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drivesim.errors import UsageError
from drivesim.models.conditioning import EVERY_LABEL, guided_names

__all__ = ["Lessons"]


@dataclass(frozen=True)
class Lessons:
    """What a student learns from.

    calls: K, levels that it is taught.   taken: network calls of a window in a rollout, which may be more; None = calls.
    noise: scale of the noise that a student of one call is handed; 0 = none.
    sampler: "renoise", "ddim" or "dpmpp_2m", and so what the teacher shows: the end of its flow, the next level of it, or its own answer
    at the level, guidance included (guidance distillation alone: the student takes as few steps as the teacher would).
    recorded_weight: of the distance to the recording, which at noise level sigma counts max(1 - sigma^2, mean_floor) / sigma^2: a
    velocity's, less where little can be known.   box_weight: how much more it counts inside boxes.
    adversarial_weight: push of the critic, in units of the push of the distances.   balance_limit: how often it may be magnified for
    that: a critic that has nothing to say yet must not shout.   adversarial_from: step from which it pushes; it learns from the first on.
    adversarial_below: it judges answers to noise up to this sigma only, 1 = all: what lies beyond is invented, and takes long to learn.
    critic_scale: learning rate of the critic in units of the student's.   critic_noise: sigma that blurs the critic's sight.
    teacher_weight: of the distance to where the teacher's flow ends.   teacher_steps: of the teacher, for each call of the student.
    guidance, label_guidance, guided_labels: the teacher's (Eq. 4), and which labels the second is about.   autoguidance: its scale.
    guidance_parallel: share kept of what all this guidance would only strengthen, see ``denoiser.pushed``; less: steadier, hazier.
    own_share: share of batches that start where the student's own step from the level before leads.
    opens: rollouts begin with a window of the student of which nothing is known, instead of a picture of the image network.

    Raises:
        UsageError: a number that cannot be.
    """

    calls: int = 4
    taken: int | None = None
    noise: float = 1.0
    sampler: str = "renoise"
    recorded_weight: float = 1.0
    mean_floor: float = 0.1
    box_weight: float = 0.0
    adversarial_weight: float = 0.5
    balance_limit: float = 2.0
    adversarial_from: int = 0
    adversarial_below: float = 1.0
    critic_scale: float = 1.0
    critic_noise: float = 0.1
    teacher_weight: float = 1.0
    teacher_steps: int = 4
    guidance: float = 1.0
    label_guidance: float = 1.0
    guided_labels: str = EVERY_LABEL
    autoguidance: float = 1.0
    guidance_parallel: float = 1.0
    own_share: float = 0.0
    opens: bool = False

    def __post_init__(self) -> None:
        if self.calls < 1 or self.teacher_steps < 1:
            raise UsageError(f"a student needs calls >= 1 and teacher_steps >= 1, not {self.calls} and {self.teacher_steps}")
        if self.taken is not None and (self.taken < self.calls or (self.taken > 1 and self.noise < 1)):
            raise UsageError(f"a rollout takes at least the calls that were taught, and one without noise: taken={self.taken}")
        if not 0 <= self.noise <= 1 or (self.noise < 1 and self.calls > 1):
            raise UsageError(f"only a student of one call can be handed less noise than there is: noise={self.noise}, calls={self.calls}")
        if self.sampler not in ("renoise", "ddim", "dpmpp_2m"):
            raise UsageError(f"a student of few calls is sampled by renoise, ddim or dpmpp_2m, not {self.sampler!r}")
        if self.sampler == "dpmpp_2m" and self.teacher_steps != 1:
            raise UsageError(f"a student sampled by dpmpp_2m takes the teacher's steps: teacher_steps=1, not {self.teacher_steps}")
        guided_names(self.guided_labels)
        if not 0 <= self.guidance_parallel <= 1:
            raise UsageError(f"lessons.guidance_parallel is a share in 0..1, not {self.guidance_parallel}")
        if not (0 <= self.own_share <= 1 and 0 <= self.critic_noise < 1):
            raise UsageError(f"own_share lies in 0..1 and critic_noise below 1, not {self.own_share} and {self.critic_noise}")

    def described(self, taught: bool) -> dict[str, Any]:
        """What a sampler must know of a student, as plain values. taught: by a teacher, whose guidance is in the student if it had any."""
        guided = not taught or (self.guidance, self.label_guidance, self.autoguidance) != (1.0, 1.0, 1.0)
        said = {"calls": self.taken or self.calls, "noise": self.noise, "sampler": self.sampler, "guided": guided}
        return {**said, "opens": True} if self.opens else said
