"""Protocols: frozen, named after what they compute and through which codec, and refused by another name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from standins import noisy_clips

from drivesim.errors import UsageError
from drivesim.eval.codec import CODECS, Preparation, resized
from drivesim.eval.footage import Footage
from drivesim.eval.protocols import DEFAULT, PROTOCOLS, protocol_named
from drivesim.io.video import read_frames, recode, write_video


def test_every_protocol_says_its_codec_and_is_frozen() -> None:
    assert len(PROTOCOLS) == 8 and set(DEFAULT) <= set(PROTOCOLS)
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and name.endswith(f"_{protocol.codec}") and protocol.codec in CODECS
        assert 2 < protocol.minimum <= protocol.enough <= protocol.clips
        assert set(protocol.describe()) == {field.name for field in dataclasses.fields(protocol)}
        with pytest.raises(dataclasses.FrozenInstanceError):
            protocol.frames = 3  # type: ignore[misc]


def test_the_fields_of_published_protocols() -> None:
    """A change here is another protocol: it needs another name."""
    fields = ("network", "clips", "frames", "fps", "every_s", "size", "ddof", "seed", "minimum", "enough")
    found = {name: tuple(getattr(protocol, field) for field in fields) for name, protocol in PROTOCOLS.items()}
    for codec in CODECS:
        assert found[f"fid_10k_{codec}"] == ("inception-2015-12-05", 10_000, 1, 7.5, 1.0, (256, 512), 1, 0, 2_560, 10_000)
        assert found[f"fvd_2048x16_{codec}"] == ("i3d-kinetics-400", 2_048, 16, 7.5, None, (256, 512), 1, 0, 512, 2_048)
        assert found[f"fd_lite0_{codec}"] == ("lite0-frames", 2_048, 1, 7.5, 1.0, (128, 256), 1, 0, 128, 512)
        assert found[f"fvd_lite0_256x16_{codec}"] == ("lite0-clips", 256, 16, 7.5, None, (128, 256), 1, 0, 64, 256)


def test_only_the_published_networks_are_called_fid_and_fvd() -> None:
    for name, protocol in PROTOCOLS.items():
        published = protocol.network in ("inception-2015-12-05", "i3d-kinetics-400")
        assert published == (name.split("_")[0] in ("fid", "fvd") and "lite0" not in name)


def test_a_name_without_its_codec_is_told_which_there_are() -> None:
    with pytest.raises(UsageError, match="fid_10k_lossless or fid_10k_h264crf18"):
        protocol_named("fid_10k")
    with pytest.raises(UsageError, match="no protocol named fvd_lite1; known are fid_10k_lossless"):
        protocol_named("fvd_lite1")


def test_shots_follow_the_protocol() -> None:
    side = Footage.from_frames("clips", noisy_clips(3, frames=40), 7.5)
    assert len(protocol_named("fvd_lite0_256x16_lossless").shots(side)) == 6
    assert len(protocol_named("fvd_lite0_256x16_lossless").shots(side, limit=4)) == 4
    assert {shot.first_frame for shot in protocol_named("fd_lite0_lossless").shots(side)} == {0, 8, 16, 24, 32}


def test_lossless_changes_nothing_and_h264_is_the_file_s_loss(tmp_path: object) -> None:
    frames = noisy_clips(1, size=(64, 128))[0]  # x264 does not repeat itself on pictures of 64 pixels and less
    assert np.array_equal(Preparation(None, "lossless")(frames), frames)
    coded = Preparation((64, 128), "h264crf18", 7.5)(frames)
    write_video(f"{tmp_path}/clip.mp4", frames, 7.5, crf=18)
    assert np.array_equal(coded, read_frames(f"{tmp_path}/clip.mp4", indices=range(16)))
    assert 0 < np.abs(coded.astype(int) - frames).mean() < 20
    assert np.array_equal(recode(frames, 7.5), coded), "the codec repeats itself"


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(UsageError, match="no codec named av1"):
        Preparation(None, "av1")


def test_preparations_that_differ_are_told_apart() -> None:
    texts = {Preparation(size, codec, fps).text for size in (None, (16, 32)) for codec in CODECS for fps in (7.5, 30)}
    assert len(texts) == 8


def test_resizing_keeps_flat_colours_and_means() -> None:
    flat = np.full((2, 16, 32, 3), 77, np.uint8)
    for size in ((8, 16), (32, 64), (8, 64)):
        assert np.array_equal(resized(flat, size), np.full((2, *size, 3), 77, np.uint8))
    fine = np.zeros((1, 16, 32, 3), np.uint8)
    fine[:, :, ::2] = 200
    assert (resized(fine, (8, 16)) == 100).all(), "by area, stripes of a pixel become their mean"
