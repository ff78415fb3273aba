"""The running average of weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from drivesim.training.ema import averaged_copy, decay_at, update_average


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_decay_warms_up_and_stays():
    assert decay_at(0, 0.999) == pytest.approx(0.1)
    assert decay_at(90, 0.999) == pytest.approx(91 / 100)
    assert decay_at(10**6, 0.999) == 0.999


def test_average_is_the_closed_form():
    network = _network()
    average = averaged_copy(network)
    first, last = network[0].weight.detach().clone(), torch.ones_like(network[0].weight)
    network[0].weight.data.copy_(last)
    for _ in range(3):
        update_average(average, network, 0.9)
    assert torch.allclose(average[0].weight, last + 0.9**3 * (first - last), atol=1e-6)


def test_average_copies_buffers_and_takes_no_gradient():
    network = _network()
    average = averaged_copy(network)
    network(torch.randn(5, 3))
    update_average(average, network, 0.9)
    assert torch.equal(average[1].running_mean, network[1].running_mean)
    assert not average.training and not any(weight.requires_grad for weight in average.parameters())


def test_frozen_weights_are_not_touched():
    network = _network()
    average = averaged_copy(network)
    before = copy.deepcopy(average.state_dict())
    network.requires_grad_(False)
    for _ in range(10):
        update_average(average, network, 0.3)
    assert all(torch.equal(before[name], value) for name, value in average.state_dict().items())
