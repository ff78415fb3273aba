"""I3D: names, shapes and numbers of the reference, TensorFlow's padding against a slow twin, and the face it is judged with.

``goldens/i3d_logits.json``: with ``random_weights`` (salt 0) in float64, every 13th logit of the clip
``default_rng(9).uniform(-1, 1, (1, 3, 9, 224, 224))``, by code that met the vectors of the reference implementation.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drivesim.eval.features import I3D, FeatureNetwork, I3DClips, random_weights
from drivesim.eval.networks.i3d import Unit, max_pool, same_padding
from drivesim.eval.networks.resize import NetworkInputError, tf1_bilinear

GOLDENS = Path(__file__).parent / "goldens"


@cache
def network(dtype: torch.dtype) -> I3D:
    """Weights by rule, rounded to float32 first."""
    return random_weights(I3D()).to(dtype).requires_grad_(False)


@cache
def logits(frames: int) -> np.ndarray:
    clip = np.random.default_rng(frames).uniform(-1, 1, (1, 3, frames, 224, 224))
    return network(torch.float64)(torch.from_numpy(clip))[0].numpy()


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found / expected - 1).max())


def test_names_shapes_and_size_are_the_common_layout() -> None:
    fresh = I3D()
    golden = json.loads((GOLDENS / "i3d_state_dict.json").read_text())
    assert {name: list(value.shape) for name, value in fresh.state_dict().items()} == golden
    assert len(golden) == 344
    assert sum(parameter.numel() for parameter in fresh.parameters()) == 12_697_264


def test_goldens() -> None:
    golden = json.loads((GOLDENS / "i3d_logits.json").read_text())
    assert logits(9).shape == (400,)
    assert relative_error(logits(9)[::13], np.array(golden["logits_T9"])) < 1e-8


@pytest.mark.parametrize("frames", [9, 16, 17])
def test_reference_vectors(reference: Path, frames: int) -> None:
    expected = np.load(reference / "i3d_logits_salt0.npz")[f"logits_T{frames}"]
    assert relative_error(logits(frames), expected) < 1e-8


def pad_twin(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """The other way to say SAME: by the remainder."""
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 4))
def test_same_padding(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    assert (before, after) == pad_twin(size, kernel, stride)
    assert after - before in (0, 1)
    assert (size + before + after - kernel) // stride + 1 == -(-size // stride)


def test_the_first_convolution_is_lopsided_in_sixteen_frames() -> None:
    assert same_padding(16, 7, 2) == (2, 3)
    assert same_padding(9, 7, 2) == (3, 3)


def slow_windows(x: np.ndarray, kernel: int, stride: int, fill: float) -> np.ndarray:
    """(c, t, h, w) -> (c, k, k, k, t', h', w'): what each SAME output sees, one output at a time."""
    pads = [pad_twin(size, kernel, stride) for size in x.shape[1:]]
    padded = np.pad(x, [(0, 0), *pads], constant_values=fill)
    outputs = [-(-size // stride) for size in x.shape[1:]]
    seen = np.empty((len(x), kernel, kernel, kernel, *outputs))
    for at in product(*(range(count) for count in outputs)):
        t, h, w = (stride * index for index in at)
        seen[:, :, :, :, at[0], at[1], at[2]] = padded[:, t : t + kernel, h : h + kernel, w : w + kernel]
    return seen


shapes = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=25, deadline=None)
@given(shapes, st.sampled_from([(1, 1), (3, 1), (7, 2), (3, 2)]), st.integers(0, 99))
def test_unit_equals_a_slow_convolution(shape: tuple[int, int, int], layer: tuple[int, int], seed: int) -> None:
    kernel, stride = layer
    unit = random_weights(Unit(2, 3, kernel, stride), seed).double().eval()
    x = np.random.default_rng(seed).standard_normal((2, *shape))
    weight, bn = unit.conv3d.weight.detach().numpy(), unit.bn
    summed = np.einsum("oiabc,iabcthw->othw", weight, slow_windows(x, kernel, stride, 0.0))
    mean, variance, shift = (value.detach().numpy()[:, None, None, None] for value in (bn.running_mean, bn.running_var, bn.bias))
    expected = np.maximum((summed - mean) / np.sqrt(variance + 1e-3) + shift, 0)
    assert np.allclose(unit(torch.from_numpy(x)[None])[0].detach().numpy(), expected, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(shapes, st.sampled_from([(3, 1), (3, 2), (2, 2)]), st.integers(0, 99))
def test_max_pool_equals_tensorflows(shape: tuple[int, int, int], layer: tuple[int, int], seed: int) -> None:
    """TensorFlow pads a maximum with minus infinity; zeros do the same to what a ReLU gives."""
    kernel, stride = layer
    x = np.random.default_rng(seed).random((2, *shape))
    expected = slow_windows(x, kernel, stride, -np.inf).max(axis=(1, 2, 3))
    found = max_pool(torch.from_numpy(x)[None], (kernel,) * 3, (stride,) * 3)[0]
    assert np.array_equal(found.numpy(), expected)


def test_every_normalisation_has_the_graphs_epsilon() -> None:
    norms = [module for module in I3D().modules() if isinstance(module, torch.nn.BatchNorm3d)]
    assert len(norms) == 57
    assert {norm.eps for norm in norms} == {1e-3}


def test_train_mode_is_never_entered() -> None:
    assert not any(module.training for module in I3D().modules())
    assert not any(module.training for module in torch.nn.ModuleList([network(torch.float32)]).train()[0].modules())


@pytest.mark.parametrize(
    ("clip", "word"),
    [
        (torch.zeros(1, 3, 8, 224, 224), "at least 9 frames at once, got 8"),
        (torch.zeros(1, 3, 9, 112, 224), "224"),
        (torch.zeros(1, 9, 3, 224, 224), "shape"),
        (torch.zeros(3, 9, 224, 224), "shape"),
        (torch.zeros(1, 3, 9, 224, 224, dtype=torch.uint8), "uint8"),
        (torch.full((1, 3, 9, 224, 224), 255.0), r"got 255 to 255"),
        (torch.full((1, 3, 9, 224, 224), -1.1), r"got -1.1 to -1.1"),
        (torch.full((1, 3, 9, 224, 224), float("nan")), "nan"),
    ],
)
def test_other_clips_are_refused(clip: torch.Tensor, word: str) -> None:
    with pytest.raises(NetworkInputError, match=word):
        network(torch.float32)(clip)


def test_the_face_squashes_bytes_and_scales_them() -> None:
    face = I3DClips(network(torch.float32), "random-i3d-kinetics-400")
    assert isinstance(face, FeatureNetwork)
    assert (face.num_features, face.min_frames) == (400, 9)
    assert "tf1-bilinear 224x224" in face.preprocessing
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 9, 3, 16, 32), dtype=np.uint8))
    by_hand = torch.stack([tf1_bilinear(frame, 224, 224) for frame in frames[0].split(1)], dim=2) / 127.5 - 1
    features = face.train()(frames)
    assert torch.allclose(features, network(torch.float32)(by_hand), atol=1e-4)
    assert features.shape == (1, 400) and not features.requires_grad and not face.network.training


@pytest.mark.parametrize("frames", [torch.zeros(1, 8, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 9, 3, 8, 8)])
def test_the_face_refuses_other_frames(frames: torch.Tensor) -> None:
    with pytest.raises(NetworkInputError):
        I3DClips(network(torch.float32), "random-i3d-kinetics-400")(frames)
