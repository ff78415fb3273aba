"""The paper's preset: every stage counted at full size without content, and rolled out for real with its sizes turned down."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from benchmark_scripts import benchmark
from torch import nn

from drivesim.commands.presets import Untrained, untrained
from drivesim.errors import UsageError
from drivesim.io.checkpoints import REFINER, STAGES, Checkpoint
from drivesim.labels import Scenario
from drivesim.models.unet import ImageUNet
from drivesim.simulation.quality import rollout_settings
from drivesim.simulation.settings import RolloutSettings
from drivesim.simulation.simulator import Simulator
from drivesim.simulation.upsample import Upsampler, UpsamplerSettings

SMALL = (
    "preset.height=32", "preset.width=64", "preset.autoencoder.widths=[8,8,8,16]",
    "preset.image={base: 16, multipliers: [1, 1, 2], blocks: 1, attention: [2, 4], head_channels: 16, embedding: 32}",
    *(f"preset.{part}.{name}={value}" for part in ("prediction", "interpolation.video") for name, value in
      {"context_channels": 8, "head_channels": 16, "embedding": 32}.items()),
    "preset.upsampler.image.base=8", "preset.upsampler.image.multipliers=[1,1,1,2]", "preset.upsampler.image.head_channels=16",
    "preset.upsampler.image.embedding=16", "preset.upsampler.video.context_channels=8", "preset.upsampler.video.embedding=16",
)  # fmt: skip
"""The rds preset in every choice, with sizes for seconds on a CPU."""


@pytest.fixture(scope="module")
def rds() -> Untrained:
    return untrained("rds")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return benchmark("untrained").write_untrained("rds", tmp_path_factory.mktemp("rds"), SMALL)


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_every_stage_is_built_and_none_has_content(rds: Untrained) -> None:
    assert list(rds.stages) == sorted({*STAGES.values(), "5_decoder"} - {*REFINER.values()}, key=list(rds.stages).index)
    assert all(weight.device.type == "meta" for network in rds.stages.values() for weight in network.parameters())


def test_the_networks_of_few_calls_are_told_of_as_training_would(rds: Untrained) -> None:
    """Their spatial weights are frozen: nothing is said of the image network, and no copy of it is a network of its own."""
    for name in ("prediction_fast", "interpolation_fast"):
        assert {"schedule", "parameterization", "known", "calls", "noise", "sampler", "guided"} == rds.settings[name].keys()
    assert not {"image", "image_fast", "prediction"} & rds.settings.keys() and "image_fast" not in rds.networks
    settings = rollout_settings(rds)
    assert settings.quality == "fast" and settings.steps_keyframes == rds.settings["prediction_fast"]["calls"]


def test_sizes_are_those_of_the_paper(rds: Untrained) -> None:
    """Table 6 and 8: base, multipliers, blocks, attention, heads; f8 c4 autoencoder; 4x upsampler in pixels."""
    image, enlarger = rds.networks["image"], rds.networks["upsampler_image"]
    assert isinstance(image, ImageUNet) and isinstance(enlarger, ImageUNet)
    assert (image.recipe["base"], image.recipe["multipliers"], image.recipe["blocks"]) == (224, [1, 2, 2, 3, 4], 4)
    assert (image.recipe["attention"], image.recipe["head_channels"], image.recipe["channels"]) == ([2, 4, 8], 32, 4)
    assert (enlarger.recipe["base"], enlarger.recipe["multipliers"], enlarger.recipe["blocks"]) == (160, [1, 2, 4, 4], 2)
    assert (rds.networks["autoencoder"].downsample, rds.networks["autoencoder"].latent_channels) == (8, 4)
    assert [rds.networks[name].frames for name in ("prediction", "interpolation", "upsampler")] == [10, 5, 8]
    assert {name: count(network) // 10**6 for name, network in rds.networks.items()} == {
        "autoencoder": 64, "image": 500, "prediction": 705, "interpolation": 705,
        "prediction_fast": 705, "interpolation_fast": 705,
        "upsampler_image": 167, "upsampler": 233, "upsampler_image_fast": 167, "upsampler_fast": 233,
    }  # fmt: skip


@pytest.mark.parametrize(("name", "image"), [("prediction", "image"), ("interpolation", "image"), ("upsampler", "upsampler_image")])
def test_video_networks_hold_the_image_network_and_their_own(rds: Untrained, name: str, image: str) -> None:
    network = rds.networks[name]
    temporal = sum(weight.numel() for weight in network.temporal_parameters())
    assert count(network) - temporal == count(rds.networks[image])
    assert temporal > 0.25 * count(rds.networks[image])


def test_the_table_has_a_row_a_stage(rds: Untrained) -> None:
    text = benchmark("parameters").table("rds", rds.stages)
    assert [line.split(" | ")[0].lstrip("| ") for line in text.splitlines()[2:]] == list(rds.stages)
    assert "| 3_prediction | 705.2M | 205.0M | 860M + 649M temporal |" in text


def test_the_page_is_of_these_networks(rds: Untrained) -> None:
    """docs/rds.md is what the script writes; its date and machine apart."""
    page = (Path(__file__).parents[1] / "docs" / "rds.md").read_text(encoding="utf-8")
    assert benchmark("parameters").table("rds", rds.stages) in page
    assert "Command: `python benchmarks/rollout.py --preset rds --flops --out docs/rds.md`" in page


def test_a_preset_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="no preset named rsd; did you mean rds"):
        untrained("rsd")


def test_turned_down_it_makes_video_of_the_paper_s_kind(small: Checkpoint) -> None:
    """Context through the encoder, group norms, a 3x3x3 decoder, DDIM, two interpolations to 30 fps, upsampling by tiles."""
    few = RolloutSettings.of(small.settings["rollout"], steps_image=2, steps_keyframes=2, steps_interpolation=1, decode_frames=8)
    assert (few.fps, few.sampler, few.guidance) == (30, "ddim", 2.0)
    simulator = Simulator(small, few)
    upsampler = Upsampler(small, UpsamplerSettings(steps=2, network="upsampler", tile=32))
    frames = np.concatenate([step.frames for step in upsampler.steps(simulator.run(Scenario(0.4, time_of_day="night")))])
    assert frames.shape == (12, 128, 256, 3) and frames.dtype == np.uint8
    assert frames.std() > 0


def test_the_benchmark_measures_what_it_says(small: Checkpoint) -> None:
    script = benchmark("rollout")
    words = ["--checkpoint", str(small.folder), "--preset", "rds", "--steps", "few", "--upsample", "--tile", "32", "--device", "cpu"]
    arguments: argparse.Namespace = script.parse([*words, "--fps", "7.5", "--batch", "3"])
    result = script.measure(arguments, 0.02)
    assert (result["frames"], result["height"], result["width"], result["weights"]) == (9, 128, 256, "untrained")
    assert result["settings"]["steps_keyframes"] == 4 and result["settings"]["batch"] == 3 and result["upsampling"]["steps"] == 1
    gflop = script.predicted_gflop(arguments)
    assert gflop.keys() == {"image", "keyframes", "interpolation", "decode", "upsampling"} and min(gflop.values()) > 0
    table = script.table_of_passes(result, gflop)
    assert all(f"| {name} |" in table for name in ("keyframes", "interpolation", "decode", "upsampling", "all"))
    assert "4 / 4 / 2 / 1 steps" in script.heading(arguments, result) and "untrained weights" in script.heading(arguments, result)
