"""The latent cache gives what encoding the very frames would give, labels included, and knows what it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from drivesim.datasets.augment import Augment
from drivesim.datasets.clips import ClipDataset, EveryWindow, FrameReader, RandomWindows, table_of, window_labels
from drivesim.datasets.latents import LatentCache, LatentReader
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.datasets.windows import WindowSpec
from drivesim.errors import UsageError
from drivesim.io.records import DatasetError
from drivesim.shapes import as_floats

SPEC = WindowSpec(3, 16, 32, (1.875,))


def encode(frames: Tensor) -> Tensor:
    """A first stage that needs no training."""
    return avg_pool2d(frames, 4)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ClipDataset:
    root = tmp_path_factory.mktemp("world") / "clips"
    make_road_world(root, clips=2, seconds=3, height=32, width=64)
    return ClipDataset(root)


def test_cached_windows_equal_encoded_ones(clips: ClipDataset, tmp_path: Path) -> None:
    cache = LatentCache(tmp_path, "abc", 16, 32)
    assert cache.fill([clips], encode, batch=7, progress=False) == {"encoded": 2, "found": 0, "broken": 0}
    table = table_of([clips], SPEC)
    cached, seen = EveryWindow(LatentReader([clips], SPEC, cache), table), EveryWindow(FrameReader([clips], SPEC), table)
    for number in range(len(cached)):
        sample, frames = cached[number], seen[number]
        assert sample["latents"].dtype == torch.float32
        torch.testing.assert_close(sample["latents"], encode(as_floats(frames["frames"])), atol=1e-3, rtol=1e-3)
        assert all(torch.equal(sample["labels"][name].nan_to_num(), value.nan_to_num()) for name, value in frames["labels"].items())


@pytest.mark.parametrize("variant", ["mirror", "shift1"])
def test_variants_carry_their_own_labels(variant: str, clips: ClipDataset, tmp_path: Path) -> None:
    cache = LatentCache(tmp_path, "abc", 16, 32, [variant], Augment(mirror=0.5, crop=0.3, colour=0.2))
    cache.fill([clips], encode, progress=False)
    table = table_of([clips], SPEC)
    sample = RandomWindows(LatentReader([clips], SPEC, cache), table, 1)[0]
    window = table.draw(np.random.default_rng([0, 0]))
    view = cache.view(variant, clips.clip_ids[window.clip])
    picture = view.picture(clips.frames(window.clip, window.indices(3)), 16, 32)
    latents = encode(as_floats(torch.from_numpy(np.ascontiguousarray(picture.transpose(0, 3, 1, 2)))))
    torch.testing.assert_close(sample["latents"], latents, atol=1e-3, rtol=1e-3)
    labels = window_labels(clips, window, SPEC, view, 32, (32, 64))
    assert torch.equal(sample["labels"]["boxes"], labels["boxes"])
    assert torch.equal(sample["labels"]["ego_yaw_rate_radps"], labels["ego_yaw_rate_radps"])


def test_views_differ_from_clip_to_clip_but_not_from_run_to_run(tmp_path: Path) -> None:
    first, again = (LatentCache(tmp_path, "abc", 16, 32, ["shift1", "shift2"]) for _ in range(2))
    assert first.view("shift1", "a") == again.view("shift1", "a")
    assert len({first.view(variant, clip) for variant in ("shift1", "shift2") for clip in ("a", "b")}) == 4


def test_an_interrupted_fill_goes_on(clips: ClipDataset, tmp_path: Path) -> None:
    cache = LatentCache(tmp_path, "abc", 16, 32, ["plain", "mirror"])
    calls = 0

    def failing(frames: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise KeyboardInterrupt
        return encode(frames)

    with pytest.raises(KeyboardInterrupt):
        cache.fill([clips], failing, batch=16, progress=False)
    assert all(path.suffix == ".npy" for path in tmp_path.rglob("*") if path.is_file())
    counts = cache.fill([clips], encode, progress=False)
    assert counts["found"] == 2
    assert counts["encoded"] == 2
    assert cache.fill([clips], failing, progress=False) == {"encoded": 0, "found": 4, "broken": 0}


def test_the_key_holds_encoder_size_settings_and_video(clips: ClipDataset, tmp_path: Path) -> None:
    made = [LatentCache(tmp_path, "abc", 16, 32), LatentCache(tmp_path, "abd", 16, 32), LatentCache(tmp_path, "abc", 32, 32)]
    assert len({cache.path(clips, 0, "plain") for cache in made}) == 3
    weak, strong = (LatentCache(tmp_path, "abc", 16, 32, ["shift1"], Augment(crop=crop)).path(clips, 0, "shift1") for crop in (0.1, 0.2))
    assert weak != strong
    before = made[0].path(clips, 0, "plain")
    clips.video_bytes[0] += 1
    assert made[0].path(clips, 0, "plain") != before
    clips.video_bytes[0] -= 1


def test_missing_and_damaged_latents(clips: ClipDataset, tmp_path: Path) -> None:
    cache = LatentCache(tmp_path, "abc", 16, 32)
    with pytest.raises(DatasetError, match="no usable latents"):
        cache.read(clips, 0, "plain", np.arange(2))
    path = cache.path(clips, 0, "plain")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x93NUMPY nothing")
    with pytest.raises(DatasetError, match="remove the file"):
        cache.read(clips, 0, "plain", np.arange(2))


def test_a_broken_clip_is_counted(tmp_path: Path) -> None:
    make_road_world(tmp_path / "c", clips=2, seconds=2, height=32, width=64)
    video = next((tmp_path / "c" / "videos").glob("*0000.mp4"))
    video.write_bytes(video.read_bytes()[:900])
    clips = ClipDataset(tmp_path / "c")
    counts = LatentCache(tmp_path / "latents", "abc", 16, 32).fill([clips], encode, progress=False)
    assert counts == {"encoded": 1, "found": 0, "broken": 1}
    assert clips.broken == ["road000_0000"]


@pytest.mark.parametrize("variants", [[], ["upside_down"], ["shift"], ["shift0"]])
def test_unknown_variants_are_refused(variants: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="variants"):
        LatentCache(tmp_path, "abc", 16, 32, variants)
