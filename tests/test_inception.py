"""FID-Inception: names, shapes and numbers of the reference, its oddities one by one, and the face it is judged with.

``goldens/inception_features.json``: with ``random_weights`` (salt 0), every 64th feature and every 32nd logit of one picture
``default_rng(64).integers(0, 256, (1, 3, 64, 96), uint8)``, by code that met the vectors of the reference implementation.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from drivesim.errors import UsageError
from drivesim.eval.features import FeatureNetwork, InceptionFID, InceptionFrames, feature_network, random_weights
from drivesim.eval.networks.inception import BlockE, LastBlockE, max_pool, mean_pool
from drivesim.eval.networks.resize import NetworkInputError

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="module")
def network() -> InceptionFID:
    """Weights by rule."""
    return random_weights(InceptionFID()).requires_grad_(False)


def picture(height: int, width: int, count: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(height).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def relative_error(found: torch.Tensor, expected: np.ndarray | list[float]) -> float:
    expected = np.asarray(expected)
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


def test_names_shapes_and_size_are_the_common_layout() -> None:
    network = InceptionFID()
    golden = json.loads((GOLDENS / "inception_state_dict.json").read_text())
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == golden
    assert len(golden) == 566
    assert sum(parameter.numel() for parameter in network.parameters()) == 23_850_960


def test_goldens(network: InceptionFID) -> None:
    golden = json.loads((GOLDENS / "inception_features.json").read_text())
    assert relative_error(network(picture(64, 96))[0, ::64], golden["pool3_tf1"]) < 1e-5
    assert relative_error(network.logits(picture(64, 96))[0, ::32], golden["logits_tf1"]) < 1e-5


def test_golden_of_the_other_resize(network: InceptionFID) -> None:
    golden = json.loads((GOLDENS / "inception_features.json").read_text())
    smooth = InceptionFID(resize="antialias")
    smooth.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert relative_error(smooth(picture(64, 96))[0, ::64], golden["pool3_antialias"]) < 1e-5


@pytest.mark.parametrize(("height", "width"), [(128, 256), (299, 299), (512, 1024)])
def test_reference_vectors(network: InceptionFID, reference: Path, height: int, width: int) -> None:
    expected = np.load(reference / "inception_features_salt0.npz")
    features = network(picture(height, width, 2))
    assert relative_error(features, expected[f"pool3_{height}x{width}"]) < 1e-5
    assert relative_error(network.fc(features), expected[f"logits_{height}x{width}"]) < 1e-5


def test_pictures_are_scaled_as_in_the_graph() -> None:
    """(x - 128) / 128, not 2 x / 255 - 1: white is 127/128."""
    network = InceptionFID()
    black, white = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    assert network.prepare(black).unique().tolist() == [-1.0]
    assert network.prepare(white).unique().tolist() == [127 / 128]
    assert network.prepare(white).shape == (1, 3, 299, 299)


def test_means_do_not_count_the_padding() -> None:
    ones = torch.ones(1, 2, 5, 5)
    assert torch.equal(mean_pool(ones), ones)
    assert mean_pool(torch.arange(4.0).reshape(1, 1, 2, 2)).unique().tolist() == [1.5]


def test_only_the_last_block_takes_a_maximum() -> None:
    x = torch.rand(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(BlockE(8).pooled(x), mean_pool(x))
    assert torch.equal(LastBlockE(8).pooled(x), max_pool(x))
    network = InceptionFID()
    assert type(network.Mixed_7b) is BlockE and type(network.Mixed_7c) is LastBlockE


def test_every_normalisation_has_the_graphs_epsilon() -> None:
    norms = [module for module in InceptionFID().modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 94
    assert {norm.eps for norm in norms} == {1e-3}


def test_train_mode_is_never_entered(network: InceptionFID) -> None:
    assert not any(module.training for module in InceptionFID().modules())
    assert not any(module.training for module in torch.nn.ModuleList([network]).train()[0].modules())


@pytest.mark.parametrize(("shape", "dtype"), [((1, 3, 8, 8), torch.float32), ((1, 1, 8, 8), torch.uint8), ((3, 8, 8), torch.uint8)])
def test_other_pictures_are_refused(network: InceptionFID, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    with pytest.raises(NetworkInputError):
        network(torch.zeros(shape, dtype=dtype))


def test_an_unknown_resize_is_refused() -> None:
    with pytest.raises(NetworkInputError, match="choose one of tf1, antialias"):
        InceptionFID(resize="bicubic")


def test_the_face_sees_single_frames(network: InceptionFID) -> None:
    face = InceptionFrames(network, "random-inception-2015-12-05")
    assert isinstance(face, FeatureNetwork)
    assert (face.num_features, face.min_frames) == (2048, 1)
    assert face.preprocessing == "resize tf1-bilinear 299x299, (x-128)/128"
    frames = picture(64, 96)
    assert torch.equal(face.train()(frames[:, None]), network(frames))
    assert not face.training and not face.network.training
    with pytest.raises(NetworkInputError, match="one by one"):
        face(torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8))


def test_the_resize_stands_in_the_preprocessing() -> None:
    smooth = InceptionFrames(InceptionFID(resize="antialias"), "random-x")
    assert smooth.preprocessing == "resize antialiased bilinear 299x299, (x-128)/128"


def test_random_weights_are_called_random_and_are_always_the_same(network: InceptionFID) -> None:
    face = feature_network("random-inception-2015-12-05")
    assert face.name == "random-inception-2015-12-05"
    assert face.hash == InceptionFrames(network, face.name).hash
    with torch.no_grad():
        network.fc.bias[0] += 1
    changed = InceptionFrames(network, face.name).hash
    with torch.no_grad():
        network.fc.bias[0] -= 1
    assert changed != face.hash


def test_unknown_networks_are_refused() -> None:
    with pytest.raises(UsageError, match="inception-2015-12-05, i3d-kinetics-400, lite0-frames, lite0-clips"):
        feature_network("resnet-50")


@pytest.mark.parametrize("name", ["random-i3d-kinetics-400", "lite0-frames"])
def test_weights_for_a_network_that_takes_none_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="brings its own weights"):
        feature_network(name, weights=tmp_path)
