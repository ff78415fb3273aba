"""Muon against its closed form: the polar factor of a matrix, and AdamW's own steps for everything that is no matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from drivesim.training.freeze import weight_groups
from drivesim.training.learning_rate import Optimization
from drivesim.training.muon import Muon, orthogonalized, split_groups


def polar(matrix: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(2, 40), columns=st.integers(2, 40), seed=st.integers(0, 99))
def test_every_direction_is_brought_near_one_and_none_is_turned(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.mT @ orthogonalized(matrix) @ right.mT
    told = values / values.norm() > 0.01
    assert ((turned.diagonal()[told] > 0.6) & (turned.diagonal()[told] < 1.3)).all()
    assert (turned - torch.diag(turned.diagonal())).abs().max() < 1e-2


def test_size_does_not_matter_zero_stays_zero_and_batches_are_taken_one_by_one() -> None:
    matrices = torch.randn(3, 24, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(orthogonalized(matrices), orthogonalized(1000 * matrices), atol=1e-4)
    assert torch.allclose(orthogonalized(matrices)[1], orthogonalized(matrices[1]), atol=1e-5)
    assert orthogonalized(torch.zeros(4, 6)).abs().max() == 0


def test_a_kernels_step_is_the_polar_factor_at_the_size_of_an_adamw_step() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(32, 16, 3, 3))
    before, gradient = kernel.detach().clone(), torch.randn(32, 16, 3, 3)
    optimizer = Muon(split_groups(weight_groups([kernel], 0.0)), lr=0.1)
    kernel.grad = gradient.clone()
    optimizer.step()
    step = (before - kernel.detach()).flatten(1)
    wanted = 0.1 * 0.2 * 144**0.5 * polar(gradient.flatten(1))
    cosine = torch.nn.functional.cosine_similarity(step.flatten(), wanted.flatten(), dim=0)
    assert cosine > 0.97
    assert 0.75 < step.norm() / wanted.norm() < 1.2
    assert step.square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.25)


def test_what_is_no_matrix_takes_the_steps_of_adamw() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 32, 3), nn.GroupNorm(4, 32), nn.Conv2d(32, 4, 3))
    other = nn.Sequential(nn.Conv2d(4, 32, 3), nn.GroupNorm(4, 32), nn.Conv2d(32, 4, 3))
    other.load_state_dict(network.state_dict())
    ours = Muon(split_groups(weight_groups(network.parameters(), 0.01, scale=1.0)), lr=1e-2)
    theirs = torch.optim.AdamW(weight_groups(other.parameters(), 0.01), lr=1e-2, betas=(0.9, 0.99))
    for _ in range(3):
        for mine, its in zip(network.parameters(), other.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            its.grad = mine.grad.clone()
        ours.step()
        theirs.step()
    same = {name: torch.equal(weight, dict(other.named_parameters())[name]) for name, weight in network.named_parameters()}
    assert same == {"0.weight": False, "0.bias": True, "1.weight": True, "1.bias": True, "2.weight": True, "2.bias": True}
    assert all(group["scale"] == 1.0 for group in ours.param_groups)


def test_weights_without_gradient_rest_and_a_saved_state_goes_on_alike() -> None:
    torch.manual_seed(0)
    first, second = (nn.Parameter(torch.ones(16, 16)) for _ in range(2))
    gradients = [torch.randn(16, 16) for _ in range(3)]

    def steps(weight: nn.Parameter, chosen: list[Tensor], state: dict | None = None) -> Muon:
        idle = nn.Parameter(torch.ones(16, 16))
        optimizer = Muon(split_groups(weight_groups([weight, idle], 0.1)), lr=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        for gradient in chosen:
            weight.grad = gradient
            optimizer.step()
        assert idle.eq(1).all()
        return optimizer

    steps(first, gradients)
    halfway = steps(second, gradients[:2])
    steps(second, gradients[2:], halfway.state_dict())
    assert torch.equal(first, second)


def test_an_unknown_optimizer_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="optimizer must be one of adamw, muon, not 'sgd'"):
        Optimization(optimizer="sgd")
