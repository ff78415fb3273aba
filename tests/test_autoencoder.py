"""First stage: shapes, normalisation, the temporal decoder as an identity at insertion, and decoding in chunks."""

from __future__ import annotations

import copy

import pytest
import torch

from drivesim.models.autoencoder import Autoencoder, IdentityAutoencoder
from drivesim.recipes import build

TOY = dict(latent_channels=4, widths=(8, 16), blocks=1, stem=2)


def toy(**changes: object) -> Autoencoder:
    torch.manual_seed(0)
    network = Autoencoder(**{**TOY, **changes})  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize("changes", [{}, {"norm": "group", "attention": True, "stem": 1}, {"widths": (8, 8, 16)}])
def test_shapes_follow_the_downsampling_factor(changes: dict) -> None:
    network = toy(**changes)
    f = network.downsample
    latents = network.encode(torch.rand(3, 3, 4 * f, 8 * f) * 2 - 1)
    assert latents.shape == (3, 4, 4, 8)
    assert network.decode(latents[None]).shape == (1, 3, 3, 4 * f, 8 * f)


def test_recipe_rebuilds_the_same_network() -> None:
    network = toy(temporal_levels=1)
    twin = build(network.recipe)
    twin.load_state_dict(network.state_dict())
    latents = torch.randn(1, 3, 4, 2, 2)
    assert torch.equal(network.decode(latents), twin.eval().decode(latents))


def test_frames_that_do_not_divide_are_refused_by_size() -> None:
    with pytest.raises(ValueError, match="30x32 pixels do not divide by 4"):
        toy().encode(torch.zeros(1, 3, 30, 32))


def test_normalised_latents_have_mean_zero_and_deviation_one() -> None:
    network = toy()
    batches = [torch.rand(4, 3, 16, 16) * 2 - 1 for _ in range(4)]
    network.fit_normalisation(iter(batches))
    latents = torch.cat([network.encode(batch) for batch in batches])
    assert latents.mean((0, 2, 3)).abs().max() < 1e-4
    assert (latents.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4


def test_normalisation_is_undone_by_decode() -> None:
    network = toy()
    frames = torch.rand(2, 3, 16, 16) * 2 - 1
    before = network.decode(network.encode(frames)[None])
    network.fit_normalisation(iter([frames]))
    assert torch.allclose(before, network.decode(network.encode(frames)[None]), atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
def test_temporal_layers_change_nothing_when_inserted(kernel: int) -> None:
    image = toy()
    video = image.with_temporal(levels=2, kernel=kernel).eval()
    latents = torch.randn(2, 5, 4, 3, 4)
    assert torch.equal(image.decode(latents), video.decode(latents))
    assert len(list(video.decoder_temporal.parameters())) > 0


def trained_video_decoder(kernel: int = 1) -> Autoencoder:
    video = toy().with_temporal(levels=2, kernel=kernel).eval()
    with torch.no_grad():
        for parameter in video.decoder_temporal.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return video


def test_decoding_in_overlapping_chunks_equals_decoding_at_once() -> None:
    video = trained_video_decoder()
    latents, overlap = torch.randn(1, 16, 4, 3, 4), video.receptive_frames
    whole = video.decode(latents)
    for start in range(0, 16, 4):
        low, high = max(0, start - overlap), min(16, start + 4 + overlap)
        part = video.decode(latents[:, low:high])[:, start - low : start - low + 4]
        assert torch.allclose(part, whole[:, start : start + 4], atol=1e-4)


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("norm", ["none", "group"])
@pytest.mark.parametrize("kept", [slice(None), slice(3, 14), slice(0, 2), slice(15, None)])
def test_frames_that_are_not_kept_are_looked_at_all_the_same(levels: int, norm: str, kept: slice) -> None:
    """With and without gradients, which decide how many frames go through the last levels at once; latents stay as they are."""
    torch.manual_seed(1)
    network = toy(norm=norm, widths=(8, 8, 16), temporal_levels=levels)
    latents = torch.randn(2, 19, 4, 2, 4)
    before, whole = latents.clone(), network.decode(latents).detach()
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(network.decode(latents, kept), whole[:, kept], rtol=1e-4, atol=1e-5)
    assert torch.equal(latents, before)
    if levels and kept != slice(None):
        assert not torch.allclose(network.decode(latents[:, kept]), whole[:, kept], atol=1e-3), "they matter"


def test_frames_depend_on_neighbours_within_the_receptive_field_only() -> None:
    video = trained_video_decoder()
    latents = torch.randn(1, 13, 4, 2, 2)
    changed = latents.clone()
    changed[:, 6] += 1
    differs = (video.decode(latents) != video.decode(changed)).flatten(2).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == list(range(6 - video.receptive_frames, 6 + video.receptive_frames + 1))


def test_the_mix_lets_gradients_reach_new_temporal_weights() -> None:
    video = toy().with_temporal(levels=1)
    video.decode(torch.randn(1, 3, 4, 2, 2)).square().mean().backward()
    assert video.decoder_temporal[0].conv2.weight.grad.abs().max() > 0


def test_a_deep_copy_is_independent() -> None:
    video = trained_video_decoder()
    twin = copy.deepcopy(video)
    latents = torch.randn(1, 3, 4, 2, 2)
    with torch.no_grad():
        twin.decoder_temporal[0].conv1.weight.zero_()
    assert not torch.equal(video.decode(latents), twin.decode(latents))


def test_identity_autoencoder_is_the_identity() -> None:
    network = IdentityAutoencoder()
    frames = torch.rand(2, 3, 8, 8)
    assert torch.equal(network.encode(frames), frames)
    assert torch.equal(network.decode(frames[None])[0], frames)
    assert torch.equal(network.decode(frames[None], slice(1, 2))[0], frames[1:])
    assert isinstance(build(network.recipe), IdentityAutoencoder)
