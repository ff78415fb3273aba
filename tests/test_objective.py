"""The objective: its value in closed form, the loss on unknown frames only, what each stage knows, and reproducibility."""

from __future__ import annotations

import math

import pytest
import torch
from gaussians import draw
from torch import Tensor

from drivesim import recipes
from drivesim.diffusion.frame_mask import Known, LowResolution
from drivesim.diffusion.noise import NoiseSchedule, alpha_of, linear_schedule, zero_terminal_cosine
from drivesim.diffusion.objective import DiffusionObjective, EndPoints, FirstFrames, LowFrames, NothingKnown
from drivesim.diffusion.parameterization import Velocity
from drivesim.errors import UsageError
from drivesim.shapes import expand_to

POLICIES = [NothingKnown(), FirstFrames(), EndPoints(), LowFrames(2)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Guesser:
    """A network that answers with the best velocity for the data N(0, deviation^2): x0 = alpha deviation^2 x / total."""

    def __init__(self, context: str = "none", deviation: float = 1.0) -> None:
        self.context, self.deviation = context, deviation
        self.seen: tuple[Tensor, Tensor, object, Tensor | None] | None = None

    def __call__(self, x: Tensor, sigma: Tensor, labels: object, context: Tensor | None) -> Tensor:
        self.seen = (x, sigma, labels, context)
        alpha, level = expand_to(alpha_of(sigma), x), expand_to(sigma, x)
        variance = self.deviation**2
        return (alpha * x - alpha * variance * x / (alpha**2 * variance + level**2)) / level


def test_the_loss_of_the_best_network_is_the_posterior_variance() -> None:
    """Eq. 1 in closed form: E ||v - E[v | x]||^2 = Var[x0 | x] / sigma^2 = deviation^2 / (alpha^2 deviation^2 + sigma^2)."""
    deviation = 0.5
    x0 = (deviation * draw(0, 64, 1, 1, 32, 32)).float()
    loss, sigma = DiffusionObjective(linear_schedule())(Guesser(deviation=deviation), x0, None, seeded())
    expected = deviation**2 / (alpha_of(sigma) ** 2 * deviation**2 + sigma**2)
    assert torch.allclose(loss, expected, rtol=0.25)
    assert (loss / expected).mean().item() == pytest.approx(1, abs=0.02)


def test_the_epsilon_loss_weighs_the_same_error_by_the_snr() -> None:
    """||eps - eps'||^2 = alpha^2 ||v - v'||^2 for the same x0 error: the two objectives differ by a weight alone."""
    x0, guess = draw(0, 8, 2, 1, 4, 4).float(), Guesser(deviation=0.7)

    def eps_guess(x: Tensor, sigma: Tensor, labels: object, context: Tensor | None) -> Tensor:
        return expand_to(alpha_of(sigma), x) * guess(x, sigma, labels, context) + expand_to(sigma, x) * x

    by_velocity = DiffusionObjective(linear_schedule(), "velocity")(guess, x0, None, seeded())
    by_epsilon = DiffusionObjective(linear_schedule(), "epsilon")(eps_guess, x0, None, seeded())
    assert torch.equal(by_velocity.sigma, by_epsilon.sigma)
    assert torch.allclose(by_epsilon.loss, alpha_of(by_velocity.sigma) ** 2 * by_velocity.loss, rtol=1e-3, atol=1e-6)


def test_what_the_network_sees_is_the_noised_window() -> None:
    objective, network, x0 = DiffusionObjective(NoiseSchedule([0.3, 0.6])), Guesser(), torch.ones(4, 2, 1, 64, 64)
    labels = {"fps": torch.ones(4, 2)}
    sigma = objective(network, x0, labels, seeded()).sigma
    assert network.seen is not None
    seen, told, told_labels, context = network.seen
    assert torch.equal(told, sigma)
    assert told_labels is labels
    assert context is None
    assert torch.allclose(seen.mean(dim=(1, 2, 3, 4)), alpha_of(sigma), atol=0.03)
    assert torch.allclose(seen.std(dim=(1, 2, 3, 4)), sigma, atol=0.03)


@pytest.mark.parametrize("way", ["slots", "encoder"])
def test_only_unknown_frames_count(way: str) -> None:
    """Whatever the network answers in known slots, loss and gradient are the same."""
    objective, x0 = DiffusionObjective(zero_terminal_cosine(), known_policy=EndPoints()), draw(0, 2, 5, 1, 4, 4).float()
    losses = []
    for nonsense in (0.0, 1e6):
        answer = torch.zeros_like(x0)
        answer[:, [0, -1]] = nonsense
        answer.requires_grad_(True)

        def network(x: Tensor, sigma: Tensor, labels: object, context: object, answer: Tensor = answer) -> Tensor:
            return answer

        network.context = way  # type: ignore[attr-defined]
        loss = objective(network, x0, None, seeded()).loss
        loss.sum().backward()
        assert answer.grad is not None
        assert not answer.grad[:, [0, -1]].any()
        assert answer.grad[:, 1:-1].all()
        losses.append(loss.detach())
    assert torch.equal(losses[0], losses[1])


def test_a_window_is_weighed_by_its_unknown_frames() -> None:
    """A network that is off by one everywhere has loss 1 in each window, however many frames it knows."""
    meaning, policy = Velocity(), FirstFrames((0.4, 0.3, 0.3))
    x0 = torch.zeros(32, 4, 1, 2, 2)

    def network(x: Tensor, sigma: Tensor, labels: object, context: object) -> Tensor:
        eps = x / expand_to(sigma, x)  # x0 = 0
        return meaning.target(torch.zeros_like(x), eps, sigma) + 1

    loss = DiffusionObjective(linear_schedule(), meaning, policy)(network, x0, None, seeded()).loss
    assert torch.allclose(loss, torch.ones(32), atol=1e-3)


def test_slots_and_encoder_are_told_the_same_frames() -> None:
    objective, x0 = DiffusionObjective(linear_schedule(), known_policy=EndPoints(clean_share=0.0)), draw(0, 3, 5, 2, 2, 2).float()
    by_slots, by_encoder = Guesser("slots"), Guesser("encoder")
    sigma = objective(by_slots, x0, None, seeded()).sigma
    objective(by_encoder, x0, None, seeded())
    assert by_slots.seen is not None
    assert by_encoder.seen is not None
    (x, sigmas, _, nothing), (untouched, sigma_seen, _, context) = by_slots.seen, by_encoder.seen
    assert nothing is None
    assert context is not None
    assert torch.equal(sigma_seen, sigma)
    assert torch.equal(x[:, [0, -1]], context[:, [0, -1], :2])
    assert torch.equal(sigmas[:, [0, -1]], context[:, [0, -1], 3, 0, 0])
    assert torch.equal(x[:, 1:-1], untouched[:, 1:-1])
    assert torch.equal(sigmas[:, 1:-1], sigma[:, None].expand(3, 3))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("way", ["slots", "encoder", "none"])
def test_the_generator_decides_everything(policy, way: str) -> None:
    objective, x0 = DiffusionObjective(linear_schedule(), known_policy=policy), draw(0, 3, 4, 1, 4, 4).float()
    first, again, other = (objective(Guesser(way), x0, None, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.loss, again.loss)
    assert torch.equal(first.sigma, again.sigma)
    assert not torch.equal(first.loss, other.loss)
    assert first.loss.shape == first.sigma.shape == (3,)


@pytest.mark.parametrize("policy", POLICIES)
def test_single_frames_and_policies_get_on(policy) -> None:
    """Batches of one frame (Eq. 1) train beside videos: there is always something to make."""
    loss = DiffusionObjective(linear_schedule(), known_policy=policy)(Guesser("slots"), draw(0, 6, 1, 1, 4, 4).float(), None, seeded()).loss
    assert (loss > 0).all()


@pytest.mark.parametrize("policy", [*POLICIES, FirstFrames((0.5, 0.5), 0.1, 0.05, 0.2)])
def test_policies_rebuild_from_their_recipe(policy) -> None:
    rebuilt, x0 = recipes.build(policy.recipe), draw(0, 3, 5, 1, 4, 4).float()
    assert type(rebuilt) is type(policy)
    assert rebuilt.recipe == policy.recipe
    first, again = policy.draw(x0, seeded()), rebuilt.draw(x0, seeded())
    assert (first is None) == (again is None)
    if first is not None:
        assert torch.equal(first.tensor(), again.tensor())


def test_policies_know_what_their_stage_knows() -> None:
    x0 = draw(0, 4, 5, 1, 4, 4).float()
    ends, firsts = EndPoints().draw(x0, seeded()), FirstFrames((0, 0, 1)).draw(x0, seeded())
    assert NothingKnown().draw(x0, seeded()) is None
    assert isinstance(ends, Known)
    assert isinstance(firsts, Known)
    assert ends.mask.tolist() == [[True, False, False, False, True]] * 4
    assert firsts.mask.tolist() == [[True, True, False, False, False]] * 4
    assert torch.equal(ends.values, x0)


def test_low_frames_average_cells() -> None:
    known = LowFrames(2).draw(draw(0, 1, 2, 1, 4, 6).float(), seeded())
    assert isinstance(known, LowResolution)
    assert known.values.shape == known.noise.shape == (1, 2, 1, 2, 3)
    cell = draw(0, 1, 2, 1, 4, 6).float()[0, 1, 0, 2:4, 4:6].mean()
    assert torch.allclose(known.values[0, 1, 0, 1, 2], cell)
    assert known.tensor().shape == (1, 2, 3, 2, 3)


def test_the_level_of_low_frames_follows_its_own_schedule() -> None:
    """App. H.1: steps U{0 .. 250} of betas 1e-4 .. 2e-2; sigma_0^2 = beta_0, sigma_250^2 = 1 - prod (1 - beta)."""
    level = LowFrames(4).draw(torch.zeros(4000, 1, 1, 4, 4), seeded()).level
    highest = 1 - math.prod(1 - (1e-4 + i / 999 * (2e-2 - 1e-4)) for i in range(251))
    assert level.min().item() == pytest.approx(0.01, abs=2e-4)
    assert level.max().item() == pytest.approx(math.sqrt(highest), abs=1e-3)


@pytest.mark.parametrize("arguments", [{"factor": 0}, {"highest": 1000}, {"highest": -1}])
def test_impossible_low_frames_are_refused(arguments) -> None:
    with pytest.raises(UsageError, match="low frames"):
        LowFrames(**arguments)


@pytest.mark.parametrize("probabilities", [(), (0.5, 0.6), (1.5, -0.5)])
def test_impossible_probabilities_are_refused(probabilities) -> None:
    with pytest.raises(UsageError, match="probabilities"):
        FirstFrames(probabilities)


@pytest.mark.parametrize("arguments", [{"clean_share": 1.2}, {"low": 0.0}, {"low": 0.6, "high": 0.5}, {"high": 1.5}])
def test_impossible_levels_are_refused(arguments) -> None:
    with pytest.raises(UsageError, match="noise augmentation"):
        EndPoints(**arguments)


def test_epsilon_and_pure_noise_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="velocity"):
        DiffusionObjective(zero_terminal_cosine(), "epsilon")


def test_training_at_pure_noise_is_finite() -> None:
    objective = DiffusionObjective(NoiseSchedule([0.999999, 1.0]))
    loss, sigma = objective(Guesser(), draw(0, 4, 2, 1, 4, 4).float(), None, seeded())
    assert torch.isfinite(loss).all()
    assert (sigma > 0.9999).all()
