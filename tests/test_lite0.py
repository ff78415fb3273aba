"""The offline judge: what a clip's summary does and does not depend on, its hash, its frozen mode, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from drivesim.errors import DrivesimError
from drivesim.eval.networks.lite0 import (
    BASIS,
    CLIP_FEATURES,
    CLIP_FRAMES,
    FLOOR,
    PAIRS,
    SHAPES,
    TRACK,
    TRACKS,
    Lite0,
    Lite0Clips,
    Lite0Frames,
    clip_summary,
    forwardness,
    lite0_weights,
    motion,
    read_basis,
)
from drivesim.models.backbones import EfficientNetLite, EfficientNetLiteHead

MOTION = slice(TRACK, 2 * TRACK)


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random pictures, blocks of 8 pixels: uint8 (*shape, 3, 128, 256)."""
    blocks = torch.randint(0, 256, (int(np.prod(shape)), 3, 16, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return blocks.repeat_interleave(8, 2).repeat_interleave(8, 3).reshape(*shape, 3, 128, 256)


def walk(seed: int = 0, clips: int = 2) -> torch.Tensor:
    """Tracks that walk at random, float64 (clips, 16, 96)."""
    return torch.randn(clips, CLIP_FRAMES, TRACKS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).cumsum(1)


PICTURES = frames(CLIP_FRAMES)


@pytest.fixture(scope="module")
def clips() -> Lite0Clips:
    return Lite0Clips()


@pytest.fixture(scope="module")
def tracks(clips: Lite0Clips) -> torch.Tensor:
    return clips.tracks(PICTURES)


@pytest.fixture(scope="module")
def singles() -> Lite0Frames:
    return Lite0Frames()


def test_the_published_file_is_the_one_its_name_says() -> None:
    prefix = lite0_weights().stem.split("-")[-1]
    assert hashlib.sha256(lite0_weights().read_bytes()).hexdigest().startswith(prefix)


def test_the_head_sits_on_the_last_map_and_leaves_the_maps_as_they_were() -> None:
    whole, maps = EfficientNetLiteHead("lite0").eval(), EfficientNetLite("lite0", stages=3).eval()
    for network in (whole, maps):
        network.load_published(lite0_weights(), "57934424")
    pictures = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        found = whole(pictures)
        assert all(torch.equal(a, b) for a, b in zip(found, maps(pictures), strict=False))
        pooled = whole.pooled(found[-1])
    assert pooled.shape == (1, 1280) and float(pooled.min()) >= 0 and float(pooled.max()) <= 6


def test_published_weights_tell_a_picture_from_noise() -> None:
    """A network whose weights or input range were wrong would not give nearly the same for nearly the same picture."""
    picture = frames(2)
    near = (picture.int() + 2).clamp(0, 255).to(torch.uint8)
    pooled = Lite0()(torch.cat([picture, near]))[0]
    assert (pooled[0] - pooled[2]).norm() < 0.2 * (pooled[0] - pooled[1]).norm()


def test_shapes_of_features(clips: Lite0Clips, singles: Lite0Frames, tracks: torch.Tensor) -> None:
    found = clips(PICTURES[None])
    assert found.shape == (1, clips.num_features) == (1, CLIP_FEATURES)
    assert found.dtype == torch.float32 and torch.isfinite(found).all() and not found.requires_grad
    assert tracks.shape == (CLIP_FRAMES, TRACKS)
    assert torch.allclose(clips.describe(tracks[None]), found, atol=1e-4)
    assert singles(PICTURES[:2, None]).shape == (2, singles.num_features) == (2, 64)


def test_batches_do_not_matter_and_the_first_track_is_the_frame_features(
    clips: Lite0Clips, singles: Lite0Frames, tracks: torch.Tensor
) -> None:
    alone = torch.cat([singles(PICTURES[place : place + 1, None]) for place in (0, 9)])
    assert torch.allclose(singles(PICTURES[[0, 9], None]), alone, atol=1e-4)
    assert torch.allclose(alone[:, :TRACK] * clips.get_buffer("track_scale"), tracks[[0, 9], :TRACK], atol=1e-4)


def test_another_order_of_frames_needs_no_second_look(clips: Lite0Clips, tracks: torch.Tensor) -> None:
    order = torch.randperm(CLIP_FRAMES, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(clips.describe(tracks[None, order]), clips(PICTURES[None, order]), atol=1e-4)


def test_frames_of_the_right_size_pass_unchanged_and_larger_ones_are_averaged(singles: Lite0Frames) -> None:
    picture = frames(1, 1)
    larger = picture.repeat_interleave(2, 3).repeat_interleave(3, 4)
    assert torch.allclose(singles(larger), singles(picture), atol=1e-4)
    assert singles(picture[..., ::2, ::2]).shape == (1, 64)


def test_a_standing_picture_has_no_motion_and_no_direction() -> None:
    tracks = torch.randn(3, 1, TRACKS, generator=torch.Generator().manual_seed(0)).expand(3, CLIP_FRAMES, TRACKS)
    summary = clip_summary(tracks)
    assert summary.shape == (3, CLIP_FEATURES)
    assert torch.allclose(summary[:, :TRACK], tracks[:, 0, :TRACK], atol=1e-6)
    nothing = torch.cat([torch.full((5,), FLOOR).log(), torch.zeros(3)])
    assert torch.allclose(summary[:, MOTION], nothing.repeat(2), atol=1e-6)
    assert torch.allclose(summary[:, -1], torch.zeros(3), atol=1e-6)


def test_motion_of_a_steady_track_in_closed_form() -> None:
    """Moving by ``step`` in every component at every frame: lag k differs by k * step, second differences are 0."""
    step = 0.5
    track = step * torch.arange(CLIP_FRAMES, dtype=torch.float64)[None, :, None].expand(1, CLIP_FRAMES, TRACK)
    level = torch.log(FLOOR + torch.tensor([step, step, step, 0, 0], dtype=torch.float64))
    ratios = [np.log((FLOOR + 2 * lag * step) / (FLOOR + lag * step)) for lag in (1, 2, 4)]
    assert torch.allclose(motion(track)[0], torch.cat([level, torch.tensor(ratios, dtype=torch.float64)]))


@pytest.mark.parametrize("frames_a_turn", [2 * CLIP_FRAMES, CLIP_FRAMES, CLIP_FRAMES // 4])
def test_a_plane_that_turns_in_closed_form(frames_a_turn: int) -> None:
    """A circle of radius 1 about the clip's mean sweeps sin(angle) a step, mean square 1/2: whole turns alone have their mean at 0."""
    angle = 2 * torch.pi * torch.arange(CLIP_FRAMES, dtype=torch.float64) / frames_a_turn
    pairs = torch.stack([angle.cos(), angle.sin()], 1).repeat_interleave(PAIRS, 1)[None]
    forward = float(forwardness(pairs))
    assert forward > 0 and float(forwardness(pairs.flip(1))) == pytest.approx(-forward)
    if frames_a_turn <= CLIP_FRAMES:
        assert forward == pytest.approx(np.sin(2 * np.pi / frames_a_turn) / (0.5 + FLOOR))


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_played_backwards_only_the_direction_changes(seed: int) -> None:
    tracks = walk(seed)
    summary, back = clip_summary(tracks), clip_summary(tracks.flip(1))
    assert torch.allclose(back[:, :-1], summary[:, :-1])
    assert torch.allclose(back[:, -1], -summary[:, -1])


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_another_order_keeps_the_place_and_changes_the_motion(seed: int) -> None:
    tracks = walk(seed)
    order = torch.randperm(CLIP_FRAMES, generator=torch.Generator().manual_seed(seed))
    change = (clip_summary(tracks[:, order]) - clip_summary(tracks)).abs()
    assert change[:, :TRACK].max() < 1e-9 and change[:, MOTION].max() > 0.05


@given(seed=st.integers(0, 1000), offset=st.floats(-10, 10))
@settings(deadline=None, max_examples=20)
def test_motion_and_direction_do_not_depend_on_where_the_track_lies(seed: int, offset: float) -> None:
    tracks = walk(seed)
    assert torch.allclose(clip_summary(tracks + offset)[:, TRACK:], clip_summary(tracks)[:, TRACK:])


def test_the_hash_follows_the_basis_and_the_network(clips: Lite0Clips, singles: Lite0Frames, tmp_path: Path) -> None:
    assert len(clips.hash) == 64 and clips.hash != singles.hash
    assert Lite0Clips().hash == clips.hash
    other = load_file(BASIS)
    other["clip_scale"] = other["clip_scale"] * 1.001
    save_file(other, tmp_path / "basis.safetensors")
    assert Lite0Clips(tmp_path / "basis.safetensors").hash != clips.hash


def test_the_shipped_basis_is_the_one_its_card_describes() -> None:
    card = json.loads(BASIS.with_suffix(".json").read_text(encoding="utf-8"))
    assert hashlib.sha256(BASIS.read_bytes()).hexdigest() == card["sha256"]
    assert card["network"]["sha256"] == hashlib.sha256(lite0_weights().read_bytes()).hexdigest()


def test_components_are_orthogonal_and_scaled_as_one() -> None:
    basis = read_basis(BASIS)
    for what in ("pooled", "grid", "pair"):
        gram = basis[f"{what}_components"].double() @ basis[f"{what}_components"].double().T
        assert torch.allclose(gram, gram[0, 0] * torch.eye(len(gram), dtype=torch.float64), atol=1e-4 * float(gram[0, 0]))
    assert (basis["clip_scale"] > 0).all()


def test_a_file_that_is_no_basis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DrivesimError, match=r"none\.safetensors: cannot be read"):
        Lite0Clips(tmp_path / "none.safetensors")
    (tmp_path / "bytes.safetensors").write_bytes(b"not tensors")
    with pytest.raises(DrivesimError, match=r"bytes\.safetensors: cannot be read"):
        Lite0Clips(tmp_path / "bytes.safetensors")
    save_file({name: torch.zeros(shape) for name, shape in SHAPES.items() if name != "grid_mean"}, tmp_path / "short.safetensors")
    with pytest.raises(DrivesimError, match="not a basis of these features"):
        Lite0Clips(tmp_path / "short.safetensors")


@pytest.mark.parametrize(
    ("given_frames", "message"),
    [
        (torch.zeros(1, CLIP_FRAMES, 3, 128, 256), "frames must be uint8"),
        (torch.zeros(1, CLIP_FRAMES, 128, 256, 3, dtype=torch.uint8), "three colours"),
        (torch.zeros(CLIP_FRAMES, 3, 128, 256, dtype=torch.uint8), r"\(b, t, 3, h, w\)"),
        (torch.zeros(1, 15, 3, 16, 32, dtype=torch.uint8), "lite0-clips sees clips of 16 frames at 7.5 fps, got 15"),
        (torch.zeros(1, 17, 3, 16, 32, dtype=torch.uint8), "got 17 frames"),
    ],
)
def test_clips_of_another_kind_are_refused(clips: Lite0Clips, given_frames: torch.Tensor, message: str) -> None:
    with pytest.raises(DrivesimError, match=message):
        clips(given_frames)


def test_single_frames_are_judged_one_by_one(singles: Lite0Frames) -> None:
    with pytest.raises(DrivesimError, match="lite0-frames sees frames one by one, got 2"):
        singles(torch.zeros(1, 2, 3, 16, 32, dtype=torch.uint8))
    with pytest.raises(DrivesimError, match="frames must be uint8"):
        singles(torch.zeros(1, 1, 3, 16, 32))


def test_it_stays_frozen_and_in_eval_mode(clips: Lite0Clips) -> None:
    holder = torch.nn.ModuleList([clips]).train()
    assert not any(module.training for module in clips.modules())
    assert not any(parameter.requires_grad for parameter in holder.parameters())
