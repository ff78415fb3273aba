"""Holding weights still, the proof of it, and the learning rate's course."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from drivesim.training.freeze import FrozenWeightsError, assert_unchanged, fingerprint, set_trainable, weight_groups
from drivesim.training.learning_rate import Optimization


def test_fingerprint_sees_one_bit():
    layer = nn.Linear(3, 4)
    before = fingerprint(layer.parameters())
    assert fingerprint(layer.parameters()) == before
    assert_unchanged(before, layer.parameters(), "spatial")
    weight = layer.weight.data
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(math.inf))
    with pytest.raises(FrozenWeightsError, match="spatial"):
        assert_unchanged(before, layer.parameters(), "spatial")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_fingerprint_of_any_type_and_of_scalars(dtype: torch.dtype):
    assert len(fingerprint([torch.ones(2, 3, dtype=dtype), torch.zeros((), dtype=dtype)])) == 64


def test_frozen_weights_lose_their_gradient():
    layer = nn.Linear(3, 4)
    layer(torch.ones(1, 3)).sum().backward()
    set_trainable(layer.parameters(), False)
    assert all(weight.grad is None and not weight.requires_grad for weight in layer.parameters())


def test_only_matrices_are_decayed():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2))
    decayed, plain = weight_groups(network.parameters(), 0.1, scale=0.5)
    assert [len(decayed["params"]), len(plain["params"])] == [1, 3]
    assert decayed["weight_decay"] == 0.1 and plain["weight_decay"] == 0.0 and plain["scale"] == 0.5
    assert weight_groups([], 0.1) == []


def test_learning_rate_warms_up_then_falls_to_its_floor():
    course = Optimization(lr=1.0, warmup_steps=10, final=0.1)
    assert course.factor(0, 0.0) == pytest.approx(0.1)
    assert course.factor(9, 0.0) == pytest.approx(1.0)
    assert course.factor(50, 0.5) == pytest.approx(0.55)
    assert course.factor(100, 1.0) == pytest.approx(0.1) == course.factor(200, 2.0)
    assert Optimization(decay="none", warmup_steps=0).factor(10**6, 1.0) == 1.0


def test_unknown_decay_is_refused():
    with pytest.raises(ValueError, match="steps, time, none"):
        Optimization(decay="linear")
