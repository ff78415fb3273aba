"""Every training configuration composes, and becomes the objects it names: toy and mini for real, rds on the meta device."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.io.checkpoints import FAST, NETWORKS, REFINER, UPSAMPLERS, load_checkpoint, load_network, save_network
from drivesim.io.checkpoints import STAGES as NETWORK_STAGES
from drivesim.models.refiner import Refiner
from drivesim.simulation.settings import RolloutSettings
from drivesim.training.run import train
from drivesim.training.stage_module import StageModule

STAGES = (
    *NETWORKS.values(), *dict.fromkeys(FAST.values()), "4_interpolation_frames", "5_decoder",
    *UPSAMPLERS.values(), *REFINER.values(),
)  # fmt: skip
PRESETS = ("toy", "mini", "rds")
EXPERIMENTS = [*(f"{preset}/{stage}" for preset in PRESETS for stage in STAGES), "toy/detector", "mini/detector"]
PARTS = ("module", "datamodule", "trainer", "callbacks", "loggers")


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with hydra.initialize_config_module("drivesim.configs", version_base="1.3"):
        yield


def composed(experiment: str, *words: str, data: str = "clips", out: str = "out") -> DictConfig:
    return hydra.compose("train", [f"experiment={experiment}", f"data=[{data}]", f"out={out}", *words])


def built(config: DictConfig) -> dict[str, Any]:
    L.seed_everything(config.seed, verbose=False)
    return {name: instantiate(config[name], _convert_="all") for name in PARTS}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs") / "road"
    make_road_world(folder, clips=6, seconds=8, fps=7.5, height=32, width=64, seed=0)
    return folder


def earlier_stages(preset: str, out: Path) -> None:
    """Untrained networks where the autoencoder and the image stages would have exported theirs, and an upsampler."""
    for name in ("autoencoder", "image", "prediction", "interpolation", "upsampler_image", "upsampler_image_fast", "upsampler"):
        node = composed(f"{preset}/{NETWORK_STAGES[name]}", out=str(out)).module
        whole = name in ("prediction", "interpolation", "upsampler")
        wanted = node.autoencoder if name == "autoencoder" else node.network if whole else node.network.image
        out.mkdir(parents=True, exist_ok=True)
        save_network(out / name, instantiate(wanted, _convert_="all"), {})


def test_every_experiment_is_there():
    folder = Path(__file__).parents[1] / "configs" / "experiment"
    assert sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")) == sorted(EXPERIMENTS)


@pytest.mark.parametrize(("command", "apart"), [("rollout", {"fps"}), ("generate", {"fps"}), ("edit", set())])
def test_every_setting_of_a_rollout_can_be_asked_for(command: str, apart: set[str]) -> None:
    """Those that stand apart have a flag of their own."""
    named = {str(name) for name in hydra.compose(command).rollout}
    assert named == {item.name for item in fields(RolloutSettings)} - apart


@pytest.mark.parametrize("first_stage", ["latent", "pixel"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_composes_without_a_gap(experiment: str, first_stage: str):
    config = composed(experiment, f"first_stage={first_stage}")
    OmegaConf.resolve(config)
    assert not OmegaConf.missing_keys(config)
    assert config.stage == experiment.split("/")[1] and config.folder == f"out/runs/{config.stage}"
    assert config.module.seed == config.datamodule.seed == config.seed


@pytest.mark.parametrize("preset", ["toy", "mini"])
def test_becomes_objects(preset: str, tmp_path: Path):
    earlier_stages(preset, tmp_path)
    moving = composed(f"{preset}/4_interpolation_frames").module.network
    for stage in (*STAGES, "detector"):
        if stage in REFINER.values():
            save_network(tmp_path / "interpolation", instantiate(moving, _convert_="all"), {})
            save_network(tmp_path / "prediction_fast", load_network(tmp_path / "prediction"), {})
        parts = built(composed(f"{preset}/{stage}", out=str(tmp_path)))
        module = parts["module"]
        assert isinstance(module, StageModule) and isinstance(parts["datamodule"], L.LightningDataModule)
        assert isinstance(parts["trainer"], functools.partial) and parts["trainer"].func is L.Trainer
        assert {"last", "export", "pictures", "progress", "early_stop"} <= set(parts["callbacks"])
        weights = sum(weight.numel() for weight in module.network.parameters())
        assert weights < {"toy": 1e6, "mini": 2.5e7}[preset], f"{stage}: {weights} weights"


@pytest.mark.parametrize("stage", STAGES)
def test_rds_on_the_meta_device(stage: str):
    config = composed(f"rds/{stage}")
    image = composed("rds/2_image").module.network.image
    autoencoder = composed("rds/1_autoencoder").module.autoencoder
    with torch.device("meta"):
        if stage in ("1_autoencoder", "5_decoder"):
            network = instantiate(autoencoder, _convert_="all")
            network = network.with_temporal(**config.preset.temporal_decoder) if stage == "5_decoder" else network
            assert network.decode(torch.empty(1, 6, 4, 16, 32)).shape == (1, 6, 3, 128, 256)
            return
        if stage == "4_interpolation_frames":
            network = instantiate(config.module.network, _convert_="all")
            assert network(*torch.empty(2, 1, 3, 128, 256), None, config.datamodule.frames).shape == (1, 5, 3, 128, 256)
            return
        if stage in REFINER.values():
            network = instantiate(config.module.network, _convert_="all")
            assert network(torch.empty(1, 3, 128, 256)).shape == (1, 3, 128, 256)
            return
        node = composed(f"rds/{stage.removesuffix('_fast')}").module.network if stage in FAST.values() else config.module.network
        upsamples = stage in UPSAMPLERS.values()
        if "folder" in node.image:
            node.image = composed("rds/6_upsampler_image").module.network.image if upsamples else image
        network = instantiate(node, _convert_="all")
        frames = config.datamodule.frames
        shape = (1, frames, 3, 512, 1024) if upsamples else (1, frames, 4, 16, 32)
        context = (torch.empty(1, frames, 5, 128, 256),) if upsamples else ()
        out = network(torch.empty(shape), torch.empty(1, frames), {}, *context)
    assert out.shape == shape
    assert sum(weight.numel() for weight in network.parameters()) > (1.5e8 if upsamples else 3e8)


@pytest.mark.parametrize("first_stage", ["latent", "pixel"])
def test_toy_from_clips_to_a_checkpoint_folder(first_stage: str, clips: Path, tmp_path: Path):
    """The five commands of the README and all others, two steps each. Operations are not counted: slow, and tested elsewhere."""
    quick = ["trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.limit_val_batches=1", "module.optimization.warmup_steps=1",
             "~callbacks.throughput"]  # fmt: skip
    for stage in STAGES[:-1]:
        one_call = stage in ("1_autoencoder", "5_decoder") or stage.endswith(("_fast", "_frames"))
        sampling = [] if one_call else ["module.sampling_steps=2"]
        config = composed(f"toy/{stage}", f"first_stage={first_stage}", *quick, *sampling, data=str(clips), out=str(tmp_path))
        assert train(**built(config), max_minutes=config.max_minutes) == tmp_path
    _refined(tmp_path, clips, [f"first_stage={first_stage}", *quick])
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.settings["preset"] == "toy" and checkpoint.settings["height"] == 32
    assert checkpoint.network("autoencoder").latent_channels == (3 if first_stage == "pixel" else 4)
    assert checkpoint.network("prediction").frames == 6 and isinstance(checkpoint.network("refiner"), Refiner)
    assert checkpoint.network("upsampler").frames == checkpoint.network("upsampler_fast").frames == 4
    assert '"image": "upsampler_image"' in (tmp_path / "upsampler.json").read_text(), "spatial weights lie in the image upsampler's file"
    assert checkpoint.settings["schedule"] == checkpoint.settings["upsampler"]["schedule"]
    assert checkpoint.settings["upsampler_fast"]["known"]["factor"] == 4


def _refined(out: Path, clips: Path, words: list[str]) -> None:
    """Stage 7, and before it the detector that it needs."""
    for stage, folder, more in (("detector", out / "detector", []), ("7_refiner", out, [f"detector={out / 'detector'}"])):
        config = composed(f"toy/{stage}", *words, *more, data=str(clips), out=str(folder))
        train(**built(config), max_minutes=config.max_minutes)
