"""Measures of made frames against closed forms and a slow twin, and what the decoder's table says of toy weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_scripts import benchmark
from torchmetrics.functional.image import structural_similarity_index_measure

from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.io.checkpoints import save_network
from drivesim.models.autoencoder import Autoencoder

fidelity, decoder = benchmark("fidelity"), benchmark("decoder")


def noise(seed: int, frames: int = 4, height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def side(metric: str, values: np.ndarray, drives: str) -> fidelity.Side:
    found = fidelity.Side()
    for value, drive in zip(values, drives, strict=True):
        found.add(metric, [value], drive)
    return found


def test_psnr_of_a_known_error() -> None:
    flat = np.full((8, 8, 3), 100, np.uint8)
    assert fidelity.psnr(flat, flat) == 100
    assert fidelity.psnr(flat + 51, flat) == pytest.approx(20 * np.log10(5))


def test_ssim_is_torchmetrics_ssim() -> None:
    true = noise(0, 1)[0]
    made = np.clip(true.astype(int) + np.random.default_rng(1).integers(-40, 40, true.shape), 0, 255).astype(np.uint8)
    pair = (torch.from_numpy(frame).permute(2, 0, 1)[None].float() for frame in (made, true))
    assert fidelity.ssim(made, true) == pytest.approx(float(structural_similarity_index_measure(*pair, data_range=255.0)), abs=1e-4)
    assert fidelity.ssim(true, true) == pytest.approx(1)


def test_a_standing_error_is_no_flicker_and_a_coming_one_is() -> None:
    true = np.full((4, 16, 16, 3), 100, np.uint8)
    steady, blinking = true + 20, true.copy()
    blinking[::2] += 20
    assert fidelity.window_measures(steady, true)["change_error"] == 0
    assert fidelity.window_measures(blinking, true)["change_error"] == pytest.approx(20 / 255)
    assert fidelity.window_measures(blinking, None) == {"flicker": pytest.approx(20 / 255)}


def test_difference_of_means_is_paired_over_drives() -> None:
    values = np.array([10.0, 20, 30, 40])
    one, two = side("psnr_db", values + 1, "abcd"), side("psnr_db", values, "abcd")
    found = fidelity.differences(one, two, two, resamples=50)["psnr_db"]
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))
    assert fidelity.judged(one, two, resamples=50)["psnr_db"].value == pytest.approx(26)
    with pytest.raises(ValueError, match="same windows"):
        fidelity.differences(one, side("psnr_db", values, "abca"), two)


def test_difference_of_distances_is_that_of_the_values() -> None:
    rng = np.random.default_rng(0)
    true, drives = rng.standard_normal((40, 3)), "abcdefgh" * 5
    recorded, near, far = (side("fd_x", true + shift, drives) for shift in (0, 1, 2))
    found = fidelity.differences(near, far, recorded, resamples=50)["fd_x"]
    values = [fidelity.judged(part, recorded, resamples=50)["fd_x"].value for part in (near, far)]
    assert values == pytest.approx([3, 12])  # a shift of every feature: its square, summed
    assert (found.value, found.low, found.high) == pytest.approx((-9, -9, -9))


def test_few_windows_and_few_drives_are_said() -> None:
    recorded = side("fvd_x", np.zeros((3, 2)), "aab")
    assert [mark.split(":")[0] for mark in fidelity.weak(recorded, 64)] == ["fvd_x", "only 2 drives"]
    assert fidelity.weak(side("fvd_x", np.zeros((9, 2)), "abcdefghi"), 9) == []


def autoencoder(**more: int) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(latent_channels=4, widths=(8, 16), blocks=1, **more).eval()


def test_encoder_hash_is_of_the_encoder_alone() -> None:
    image = autoencoder()
    video = image.with_temporal(levels=1)
    with torch.no_grad():
        video.decoder_temporal[0].conv2.weight.fill_(0.1)
        video.decoder.conv_out.bias.fill_(0.1)
    assert decoder.encoder_hash(image) == decoder.encoder_hash(video)
    assert decoder.encoder_difference(image, video) == 0
    with torch.no_grad():
        video.latent_mean[0] += 1e-7
    assert decoder.encoder_hash(image) != decoder.encoder_hash(video)


def test_frame_by_frame_leaves_time_out() -> None:
    image = autoencoder()
    video = image.with_temporal(levels=1)
    with torch.no_grad():
        video.decoder_temporal[0].conv2.weight.normal_()
        latents = torch.randn(1, 3, 4, 4, 8)
        assert torch.allclose(decoder.frame_by_frame(video)(latents), image.decode(latents), atol=1e-6)
        assert not torch.allclose(video.decode(latents), image.decode(latents), atol=1e-3)


def test_decoder_table_of_a_toy(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    image, out = autoencoder(), tmp_path / "table.json"
    save_network(tmp_path / "image", image, {})
    save_network(tmp_path / "video", image.with_temporal(levels=1), {})
    make_road_world(tmp_path / "road", clips=3, seconds=5.0)
    words = ["--image", tmp_path / "image", "--video", tmp_path / "video.json", "--data", tmp_path / "road", "--split", "train"]
    monkeypatch.setattr(sys, "argv", ["decoder.py", *map(str, words), "--windows", "3", "--resamples", "9", "--out", str(out)])
    decoder.main()
    said, written = capsys.readouterr().out, json.loads(out.read_text())
    assert "Encoders: bit-identical" in said and "the protocol refuses fewer than 64" in said
    assert written["windows"] == 3
    assert {metric: found["value"] for metric, found in written["rows"]["video - image"].items()} == pytest.approx(
        dict.fromkeys(written["rows"]["image decoder"], 0), abs=1e-6
    )
