"""Upsampling as a stream: every frame once, whatever pieces it comes in, wherever it is taken up again, in windows and tiles that show no
border."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_checkpoint import make_checkpoint, make_upsampler

from drivesim.errors import DrivesimError, UsageError
from drivesim.io.checkpoints import Checkpoint, load_checkpoint, save_settings
from drivesim.labels import LabelTrack
from drivesim.simulation.simulator import Step
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings, spans


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("toy")
    make_checkpoint(folder)
    return make_upsampler(folder)


def video(frames: int, height: int = 8, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8)


def pieces(frames: np.ndarray, cuts: list[int]) -> Iterator[np.ndarray]:
    yield from np.split(frames, sorted({cut for cut in cuts if cut < len(frames)}))


def enlarged(upsampler: Upsampler, frames: np.ndarray, first: int = 0, cuts: tuple[int, ...] = ()) -> np.ndarray:
    return np.stack(list(upsampler.stream(pieces(frames, list(cuts)), first)))


@given(st.integers(1, 60), st.integers(2, 20), st.integers(0, 9))
def test_spans_cover_everything_with_weights_that_sum_to_one(length: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size // 2)
    found = spans(length, size, overlap)
    total = torch.zeros(length)
    for span in found:
        total[span.first : span.last] += span.weights
        assert span.first % (size - overlap) == 0
        assert span.last - span.first <= max(size, length if len(found) == 1 else 0)
    assert torch.allclose(total, torch.ones(length))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13])
def test_every_frame_comes_out_once_at_four_times_the_size(checkpoint: Checkpoint, count: int) -> None:
    made = enlarged(Upsampler(checkpoint, UpsamplerSettings(overlap=1)), video(count))
    assert made.shape == (count, 32, 64, 3) and made.dtype == np.uint8


@given(st.lists(st.integers(1, 12), max_size=5))
@settings(max_examples=8, deadline=None)
def test_pieces_make_no_difference(checkpoint: Checkpoint, cuts: list[int]) -> None:
    upsampler = Upsampler(checkpoint, UpsamplerSettings(overlap=1))
    assert np.array_equal(enlarged(upsampler, video(12), cuts=tuple(cuts)), enlarged(upsampler, video(12)))


@pytest.mark.parametrize("first", [0, 1, 2, 3, 5, 6, 8, 10])
def test_taken_up_again_it_makes_the_same_frames(checkpoint: Checkpoint, first: int) -> None:
    upsampler, frames = Upsampler(checkpoint, UpsamplerSettings(overlap=1)), video(11)
    lead = upsampler.lead(first)
    assert lead <= first and lead % upsampler.stride == 0
    assert np.array_equal(enlarged(upsampler, frames[lead:], lead)[first - lead :], enlarged(upsampler, frames)[first:])


def test_the_seed_decides_and_noise_belongs_to_the_frame(checkpoint: Checkpoint) -> None:
    one, again, other = (Upsampler(checkpoint, UpsamplerSettings(network="upsampler_image"), seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(enlarged(one, video(3)), enlarged(again, video(3)))
    assert not np.array_equal(enlarged(one, video(3)), enlarged(other, video(3)))
    same = np.repeat(video(1), 2, axis=0)
    first, second = enlarged(one, same)
    assert not np.array_equal(first, second), "two frames alike still have noise of their own"


def test_a_network_that_wants_no_noise_is_handed_none(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    told = make_upsampler(tmp_path).settings
    save_settings(tmp_path, {**told, "upsampler_fast": {**told["upsampler_fast"], "noise": 0.0}})
    one, other = (Upsampler(load_checkpoint(tmp_path), UpsamplerSettings(overlap=1, level=0.0), seed=seed) for seed in (0, 1))
    assert np.array_equal(enlarged(one, video(3)), enlarged(other, video(3)))


def test_tiles_show_no_seam(checkpoint: Checkpoint) -> None:
    """A third of the overlap is over the receptive field (31 small pixels), so tiles equal the whole."""
    frames = video(4, 8, 300)
    whole = enlarged(Upsampler(checkpoint, UpsamplerSettings(overlap=1)), frames).astype(int)
    exact = enlarged(Upsampler(checkpoint, UpsamplerSettings(overlap=1, tile=192, tile_overlap=96)), frames).astype(int)
    assert np.abs(exact - whole).max() <= 1, "the last bit of a colour may be rounded otherwise"


@pytest.mark.parametrize(("height", "width"), [(5, 7), (8, 9), (3, 16)])
def test_odd_sizes_are_filled_up_and_cut_again(checkpoint: Checkpoint, height: int, width: int) -> None:
    assert enlarged(Upsampler(checkpoint, UpsamplerSettings(overlap=1)), video(2, height, width)).shape == (2, 4 * height, 4 * width, 3)


def test_steps_keep_their_labels_from_the_frame_asked_for(checkpoint: Checkpoint) -> None:
    upsampler, frames = Upsampler(checkpoint, UpsamplerSettings(overlap=1)), video(11)
    crowd = LabelTrack.unknown(11, 7.5)
    crowd.values["crowdedness"][:] = np.arange(11)

    def steps(first: int) -> Iterator[Step]:
        for begin in range(first, 11, 4):
            inside = range(begin, min(begin + 4, 11))
            yield Step(frames[inside.start : inside.stop], crowd.take(inside, 7.5), begin)

    whole = np.concatenate([step.frames for step in upsampler.steps(steps(0))])
    found = list(upsampler.steps(steps(upsampler.lead(7)), 7))
    assert found[0].first_frame == 7
    assert np.array_equal(np.concatenate([step.frames for step in found]), whole[7:])
    assert np.concatenate([step.labels.values["crowdedness"] for step in found]).tolist() == [7, 8, 9, 10]
    assert all(len(step.labels) == len(step.frames) for step in found)


def test_the_distilled_network_is_taken_first_and_others_by_name(checkpoint: Checkpoint) -> None:
    assert Upsampler(checkpoint, UpsamplerSettings(overlap=1)).name == "upsampler_fast"
    assert Upsampler(checkpoint, UpsamplerSettings(network="upsampler_image")).frames == 1


def test_a_checkpoint_without_one_says_how_to_train_it(tmp_path: Path) -> None:
    with pytest.raises(DrivesimError, match="holds no upsampler; train it with: drivesim train"):
        Upsampler(make_checkpoint(tmp_path / "toy"), UpsamplerSettings(overlap=1))


def test_a_picture_that_changes_its_size_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(DrivesimError, match="changes its size"):
        list(Upsampler(checkpoint, UpsamplerSettings(overlap=1)).stream(iter([video(1), video(1, 4, 4)])))


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"level": 1.0}, {"tile": 8, "tile_overlap": 16}, {"network": "autoencoder"}, {"overlap": -1}, {"sampler": "euler"}],
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError, match="upsampling"):
        UpsamplerSettings(**wrong)


def test_windows_that_are_mostly_overlap_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="overlap must be below half"):
        Upsampler(checkpoint, UpsamplerSettings(overlap=2))
