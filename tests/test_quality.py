"""Metrics during training: which windows they are given, when, that training does not notice, and that the shipped choice builds."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from drivesim.datasets.datamodule import ClipDataModule
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.diffusion.noise import zero_terminal_cosine
from drivesim.diffusion.objective import DiffusionObjective, FirstFrames, NothingKnown
from drivesim.errors import DrivesimError, UsageError
from drivesim.eval.metrics import EachFrame, FrechetDistance
from drivesim.models.autoencoder import Autoencoder
from drivesim.models.unet import ImageUNet
from drivesim.models.video_unet import FrameByFrame, VideoUNet
from drivesim.training.autoencoder_module import AutoencoderModule
from drivesim.training.callbacks import LastCheckpoint
from drivesim.training.curves import CsvCurves
from drivesim.training.diffusion_module import DiffusionModule
from drivesim.training.learning_rate import Optimization
from drivesim.training.quality import OfflineMetrics
from drivesim.training.run import fit
from drivesim.training.stage_module import StageModule

HEIGHT, WIDTH = 16, 32


class Brightness:
    """A stand-in: mean brightness of what is made minus that of what was recorded."""

    def __init__(self) -> None:
        self.resets = 0
        self.history: list[dict[bool, list[Tensor]]] = []

    def reset(self) -> None:
        self.resets += 1
        self.history.append({True: [], False: []})

    def update(self, frames: Tensor, real: bool) -> None:
        assert frames.dtype == torch.uint8 and frames.shape[2:] == (3, HEIGHT, WIDTH)
        self.history[-1][real].append(frames.cpu())

    def side(self, validation: int, real: bool) -> Tensor:
        return torch.cat(self.history[validation][real])

    def compute(self) -> float:
        made, recorded = (self.side(-1, real).float().mean() for real in (False, True))
        return float(made - recorded)


class Refusing(Brightness):
    def compute(self) -> float:
        raise DrivesimError("too few windows")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality") / "road"
    make_road_world(folder, clips=4, seconds=4, fps=7.5, height=HEIGHT, width=WIDTH, seed=0)
    return folder


def diffusion(frames: int = 3) -> DiffusionModule:
    torch.manual_seed(0)
    image = ImageUNet(4, base=8, multipliers=(1, 2), attention=(), head_channels=8, embedding=16)
    network = FrameByFrame(image) if frames == 1 else VideoUNet(image, 4, frames=frames, head_channels=8, embedding=16)
    objective = DiffusionObjective(zero_terminal_cosine(), "velocity", NothingKnown() if frames == 1 else FirstFrames())
    return DiffusionModule(
        network, objective, autoencoder(), "image" if frames == 1 else "prediction", Optimization(lr=1e-2), ema_decay=0.5, sampling_steps=2
    )


def autoencoder() -> Autoencoder:
    return Autoencoder(latent_channels=4, widths=(8,), blocks=1, stem=2)


def trained(
    module: StageModule, clips: Path, folder: Path, *callbacks: L.Callback, steps: int = 4, frames: int = 3, **data: Any
) -> dict[str, float]:
    """Two validations of two batches of two windows in four steps; the last logged values."""
    module_data = ClipDataModule(
        clips, frames, HEIGHT, WIDTH, fps=7.5, batch_size=2, samples_per_epoch=20, val_windows=4, train_split=None, val_split=None, **data
    )
    trainer = L.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", precision="32-true", val_check_interval=2, check_val_every_n_epoch=None,
        num_sanity_val_steps=1, enable_model_summary=False, enable_progress_bar=False, callbacks=[LastCheckpoint(folder, 2), *callbacks],
        logger=CsvCurves(folder),
    )  # fmt: skip
    fit(module, module_data, trainer)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


# what the metrics are given


def test_recorded_and_made_windows_of_every_validation(clips: Path, tmp_path: Path):
    metric = Brightness()
    logged = trained(diffusion(), clips, tmp_path, OfflineMetrics({"bright": metric}))
    assert metric.resets == 2  # the sanity check does not count
    assert [metric.side(number, real).shape[:2] for number in range(2) for real in (True, False)] == [(4, 3)] * 4
    assert torch.equal(metric.side(0, True), metric.side(1, True))  # the same windows, from a network that has learned since
    assert not torch.equal(metric.side(0, False), metric.side(1, False))
    assert logged["val/bright"] == pytest.approx(metric.compute())


def test_only_so_many_and_so_often(clips: Path, tmp_path: Path):
    metric = Brightness()
    trained(diffusion(1), clips, tmp_path, OfflineMetrics({"bright": metric}, every_n_validations=2, windows=3), frames=1, steps=6)
    assert [sum(map(len, sides[True])) for sides in metric.history] == [3, 0, 3]


def test_autoencoder_is_judged_by_its_reconstructions(clips: Path, tmp_path: Path):
    metric, module = Brightness(), AutoencoderModule(autoencoder(), Optimization(lr=1e-2))
    trained(module, clips, tmp_path, OfflineMetrics({"bright": metric}), frames=1)
    recorded = metric.side(-1, True)
    with torch.no_grad():
        made = module.reconstruction(recorded[:2].float() / 127.5 - 1)
    assert ((made + 1) * 127.5 - metric.side(-1, False)[:2]).abs().max() <= 1


def test_latents_stand_for_their_decoded_frames(clips: Path):
    module = diffusion()
    latents = torch.randn(2, 3, 4, 8, 16)
    with torch.no_grad():
        recorded, made = module.windows({"latents": latents, "labels": {}}, 0)
        torch.testing.assert_close(recorded, module.autoencoder.decode(latents))
    assert made.shape == recorded.shape


def test_draws_follow_the_batch_s_number():
    module = diffusion()
    batch = {"latents": torch.randn(2, 3, 4, 8, 16), "labels": {}}
    made = [module.windows(batch, index)[1] for index in (0, 0, 1)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


# training goes on as it would


def test_training_does_not_notice(clips: Path, tmp_path: Path):
    with_metric, without = diffusion(1), diffusion(1)
    trained(with_metric, clips, tmp_path / "with", OfflineMetrics({"frechet": FrechetDistance(EachFrame(Colours()))}), frames=1)
    trained(without, clips, tmp_path / "without", frames=1)
    for name, value in without.state_dict().items():
        assert torch.equal(value, with_metric.state_dict()[name]), name


def test_a_metric_that_refuses_is_left_out(clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "drivesim"):
        logged = trained(diffusion(1), clips, tmp_path, OfflineMetrics({"poor": Refusing(), "bright": Brightness()}), frames=1)
    assert "val/bright" in logged and "val/poor" not in logged
    assert "val/poor is left out: too few windows" in caplog.text


def test_a_stage_without_windows_says_so():
    module = StageModule(nn.Linear(1, 1), Optimization(), 0.9, 0)
    with pytest.raises(UsageError, match=r"StageModule makes no windows .* quality=null"):
        module.windows({}, 0)


class Colours(nn.Module):
    """Mean colour of single frames."""

    name, hash, preprocessing, num_features, min_frames = "colours", "0" * 64, "x/255", 3, 1

    def forward(self, frames: Tensor) -> Tensor:
        assert frames.shape[1] == 1 and not self.training
        return frames[:, 0].float().mean((-2, -1)) / 255


# configuration


def composed(*words: str) -> Any:
    with hydra.initialize_config_module("drivesim.configs", version_base="1.3"):
        return hydra.compose("train", ["experiment=toy/3_prediction", "data=[clips]", "out=out", *words])


def test_off_unless_asked_for():
    assert "quality" not in composed().callbacks


def test_shipped_choice_builds_and_judges():
    config = composed("quality=lite0", "callbacks.quality.windows=8")
    callback = instantiate(config.callbacks.quality, _convert_="all")
    assert isinstance(callback, OfflineMetrics) and callback.windows == 8
    draws = functools.partial(torch.randint, 0, 255, (2, 2, 3, 32, 64), dtype=torch.uint8)
    for metric in callback.metrics.values():
        metric.update(draws(), real=True)
        metric.update(draws(), real=False)
        assert torch.isfinite(metric.compute())
