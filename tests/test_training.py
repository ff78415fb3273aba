"""Every stage at toy size: it learns, resumes as if never stopped, keeps still what it must, stops in time, and exports."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from drivesim.datasets.datamodule import ClipDataModule
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.diffusion.noise import zero_terminal_cosine
from drivesim.diffusion.objective import DiffusionObjective, EndPoints, FirstFrames, NothingKnown
from drivesim.errors import UsageError
from drivesim.io.checkpoints import CheckpointError, load_checkpoint, load_network, save_network, save_settings
from drivesim.models.autoencoder import Autoencoder, IdentityAutoencoder
from drivesim.models.discriminator import PatchDiscriminator2d, PatchDiscriminator3d
from drivesim.models.unet import ImageUNet
from drivesim.models.video_unet import FrameByFrame, VideoUNet
from drivesim.training.autoencoder_module import AutoencoderModule
from drivesim.training.callbacks import Export, LastCheckpoint, Pictures
from drivesim.training.curves import CsvCurves
from drivesim.training.diffusion_module import DiffusionModule, single_frames
from drivesim.training.export import export_parts, trained_network, trained_video_autoencoder
from drivesim.training.freeze import FrozenWeightsError
from drivesim.training.learning_rate import Optimization
from drivesim.training.run import train
from drivesim.training.stage_module import NonFiniteLossError, StageModule, generator_for

HEIGHT, WIDTH = 16, 32
PRESET = {"preset": "toy", "height": HEIGHT, "width": WIDTH, "keyframe_fps": 1.875, "rollout": {}}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "road"
    make_road_world(folder, clips=5, seconds=4, fps=7.5, height=HEIGHT, width=WIDTH, seed=0)
    return folder


def small_autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(latent_channels=4, widths=(8,), blocks=1, stem=2)


def small_image(channels: int = 4) -> ImageUNet:
    return ImageUNet(channels, base=8, multipliers=(1, 2), attention=(), head_channels=8, embedding=16)


def small_video(frames: int = 4) -> VideoUNet:
    return VideoUNet(small_image(), 4, frames=frames, head_channels=8, embedding=16)


def diffusion(part: str = "prediction", **more: Any) -> DiffusionModule:
    torch.manual_seed(1)
    network = FrameByFrame(small_image()) if part == "image" else small_video()
    policy = {"image": NothingKnown, "prediction": FirstFrames, "interpolation": EndPoints}[part]()
    objective = DiffusionObjective(zero_terminal_cosine(), "velocity", policy)
    settings: dict[str, Any] = {"optimization": Optimization(lr=1e-2, warmup_steps=2), "ema_decay": 0.9, "sampling_steps": 2, **more}
    return DiffusionModule(network, objective, small_autoencoder(), part, **settings)


def windows(clips: Path, frames: int = 4, **more: Any) -> ClipDataModule:
    settings: dict[str, Any] = {"fps": 7.5, "batch_size": 2, "samples_per_epoch": 10, "val_windows": 4, "mirror": 0.5, **more}
    return ClipDataModule(clips, frames, HEIGHT, WIDTH, train_split=None, val_split=None, **settings)


def run(
    module: StageModule, data: L.LightningDataModule, out: Path, stage: str, *extra: L.Callback, steps: int = 6, every: int = 3,
    max_minutes: float | None = None, **trainer: Any,
) -> Path:  # fmt: skip
    folder = out / "runs" / stage
    callbacks: dict[str, L.Callback] = {
        "last": LastCheckpoint(folder, every), "export": Export(out, PRESET, ["road"]), "pictures": Pictures(folder / "pictures", 1, 2),
        **{f"extra{number}": callback for number, callback in enumerate(extra)},
    }  # fmt: skip
    settings: dict[str, Any] = {
        "max_steps": steps, "max_epochs": -1, "accelerator": "cpu", "precision": "32-true", "gradient_clip_val": 1.0,
        "val_check_interval": 4, "check_val_every_n_epoch": None, "limit_val_batches": 1, "num_sanity_val_steps": 0,
        "log_every_n_steps": 1, "enable_model_summary": False, "enable_progress_bar": False, **trainer,
    }  # fmt: skip
    maker = functools.partial(L.Trainer, **settings)
    return train(
        module=module, datamodule=data, trainer=maker, callbacks=callbacks, loggers={"csv": CsvCurves(folder)}, max_minutes=max_minutes
    )


def curve(out: Path, stage: str, name: str = "train/loss") -> dict[int, float]:
    with (out / "runs" / stage / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["value"]) for row in csv.DictReader(file) if row["name"] == name}


class Crash(L.Callback):
    """The machine is switched off during batch ``at``."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, StageModule)
        if pl_module.batches == self.at:
            raise RuntimeError("power cut")


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    left, right = one.state_dict(), other.state_dict()
    different = [name for name, value in left.items() if not torch.equal(value, right[name])]
    assert left.keys() == right.keys() and not different


# resuming


SAVED: dict[str, Any] = {"steps": 8, "every": 2, "accumulate_grad_batches": 2}


@pytest.fixture(scope="module")
def whole(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DiffusionModule, Path]:
    """A run that nothing interrupts, and its folder."""
    module, out = diffusion(frozen="spatial", unfreeze_at_step=4), tmp_path_factory.mktemp("whole")
    run(module, windows(clips), out, "3_prediction", **SAVED)
    return module, out


@pytest.mark.parametrize("crash_at", [5, 7, 13])
def test_interrupted_run_is_the_uninterrupted_one(clips: Path, tmp_path: Path, whole: tuple[DiffusionModule, Path], crash_at: int):
    """Weights, average, curve: samples_per_epoch is 10 = 5 batches, so the cuts lie at an epoch's end and inside epochs."""
    cut, resumed = (diffusion(frozen="spatial", unfreeze_at_step=4) for _ in range(2))
    with pytest.raises(RuntimeError, match="power cut"):
        run(cut, windows(clips), tmp_path, "3_prediction", Crash(crash_at), **SAVED)
    run(resumed, windows(clips), tmp_path, "3_prediction", **SAVED)
    assert_same_state(whole[0], resumed)
    assert resumed.batches == whole[0].batches
    assert curve(tmp_path, "3_prediction") == curve(whole[1], "3_prediction")
    assert_same_state(load_network(whole[1] / "prediction"), load_network(tmp_path / "prediction"))


def test_finished_run_goes_on_when_asked_for_more(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    run(diffusion("image"), windows(clips, 1), out, "2_image", steps=3)
    run(diffusion("image"), windows(clips, 1), out, "2_image", steps=3)
    assert "nothing left to train: 3 steps" in capsys.readouterr().out
    module = diffusion("image")
    run(module, windows(clips, 1), out, "2_image", steps=7)
    assert "going on from step 3" in capsys.readouterr().out
    assert module.global_step == 7 and module.batches == 7
    assert sorted(curve(out, "2_image")) == list(range(7))


def test_checkpoint_holds_tensors_and_plain_containers_only(clips: Path, tmp_path: Path):
    run(diffusion("image"), windows(clips, 1), tmp_path, "2_image", L.pytorch.callbacks.EarlyStopping("val/loss"), steps=4)
    state = torch.load(tmp_path / "runs/2_image/last.ckpt", weights_only=True)
    assert state["batches"] == 4
    assert not any(name.startswith("autoencoder") for name in state["state_dict"])


def test_damaged_checkpoint_is_named(clips: Path, tmp_path: Path):
    last = tmp_path / "runs/2_image/last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(b"half a file")
    with pytest.raises(Exception, match=r"last\.ckpt cannot be read .* remove it") as caught:
        run(diffusion("image"), windows(clips, 1), tmp_path, "2_image")
    assert type(caught.value).__name__ == "DrivesimError"


# stages and exports


def test_every_stage_makes_a_checkpoint_folder(clips: Path, tmp_path: Path):
    cached = {"latents": tmp_path / "latents", "autoencoder": tmp_path / "autoencoder"}
    run(AutoencoderModule(small_autoencoder(), Optimization(lr=1e-2)), windows(clips, 1, fps=None), tmp_path, "1_autoencoder", steps=4)
    first = trained_network(tmp_path, "autoencoder")
    run(diffusion("image"), windows(clips, 1, fps=None, **cached), tmp_path, "2_image", steps=4)
    image = trained_network(tmp_path, "image")
    module = diffusion("prediction", frozen="spatial")
    module.network.image.load_state_dict(image.state_dict())
    module.average.image.load_state_dict(image.state_dict())
    run(module, windows(clips, **cached), tmp_path, "3_prediction", steps=4)
    run(diffusion("interpolation"), windows(clips, fps=[7.5, 3.75]), tmp_path, "4_interpolation", steps=4)
    decoder = AutoencoderModule(
        trained_video_autoencoder(tmp_path, levels=1), Optimization(lr=1e-2), trained="decoder", critic=PatchDiscriminator3d(4, 2)
    )
    run(decoder, windows(clips), tmp_path, "5_decoder", steps=4)

    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.settings["preset"] == "toy" and checkpoint.settings["parameterization"] == "velocity"
    assert isinstance(checkpoint.network("image"), ImageUNet) and isinstance(checkpoint.network("interpolation"), VideoUNet)
    assert_same_state(checkpoint.network("prediction").image, image)
    assert json.loads((tmp_path / "prediction.json").read_text())["image"] == "image"
    last = checkpoint.network("autoencoder")
    assert last.receptive_frames and trained_video_autoencoder(tmp_path).receptive_frames == last.receptive_frames
    assert_same_state(last.encoder, first.encoder)
    assert torch.equal(last.latent_std, first.latent_std) and not torch.equal(last.latent_std, torch.ones(4))
    assert any(not torch.equal(a, b) for a, b in zip(last.decoder.parameters(), first.decoder.parameters(), strict=True))
    for stage, picture in {"1_autoencoder": "reconstructions", "3_prediction": "samples"}.items():
        assert (tmp_path / f"runs/{stage}/pictures/{picture}_0000004.png").stat().st_size > 0
    assert curve(tmp_path, "3_prediction", "val/loss_sigma_from_0.75") and curve(tmp_path, "5_decoder", "val/psnr")


def test_pixel_first_stage_has_nothing_to_train_and_says_so(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(AutoencoderModule(IdentityAutoencoder(), Optimization()), windows(clips, 1), tmp_path, "1_autoencoder")
    assert capsys.readouterr().out.count("\n") == 1
    identity = trained_video_autoencoder(tmp_path)
    assert isinstance(identity, IdentityAutoencoder)
    objective = DiffusionObjective(zero_terminal_cosine())
    module = DiffusionModule(FrameByFrame(small_image(3)), objective, identity, "image", Optimization(), sampling_steps=2)
    run(module, windows(clips, 1), tmp_path, "2_image", steps=2)
    assert trained_network(tmp_path, "image").channels == 3


def test_wrong_first_stage_is_named():
    objective = DiffusionObjective(zero_terminal_cosine())
    with pytest.raises(UsageError, match="takes 4 channels, the first stage gives 3"):
        DiffusionModule(FrameByFrame(small_image(4)), objective, IdentityAutoencoder(), "image", Optimization())


def test_missing_stage_is_named_with_the_command(tmp_path: Path):
    with pytest.raises(CheckpointError, match="drivesim train experiment=PRESET/2_image"):
        trained_network(tmp_path, "image")


def test_stage_learns(clips: Path, tmp_path: Path):
    run(diffusion("image"), windows(clips, 1, batch_size=8), tmp_path, "2_image", steps=30, every=1000, limit_val_batches=0)
    losses = list(curve(tmp_path, "2_image").values())
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


# holding still


def test_spatial_weights_stay_identical_to_the_bit(clips: Path, tmp_path: Path):
    module = diffusion(frozen="spatial")
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    run(module, windows(clips), tmp_path, "3_prediction", steps=4)
    after = module.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("image."))
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("temporal."))
    assert_same_state(module.average.image, module.network.image)


class Meddle(L.Callback):
    """Somebody touches one frozen weight."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        next(iter(pl_module.network.image.parameters())).data.add_(1e-3)  # type: ignore[union-attr, operator]


def test_moved_spatial_weights_are_found(clips: Path, tmp_path: Path):
    with pytest.raises(FrozenWeightsError, match="spatial"):
        run(diffusion(frozen="spatial"), windows(clips), tmp_path, "3_prediction", Meddle(), steps=2)


def test_unfreezing_trains_everything_at_a_tenth(clips: Path, tmp_path: Path):
    module = diffusion(frozen="spatial", unfreeze_at_step=2, single_frames=1.0)
    before = {name: value.clone() for name, value in module.network.image.state_dict().items()}
    run(module, windows(clips), tmp_path, "3_prediction", steps=4)
    assert any(not torch.equal(before[name], value) for name, value in module.network.image.state_dict().items())
    assert sorted({group["scale"] for group in module.trainer.optimizers[0].param_groups}) == [0.1, 1.0]
    assert "image" not in json.loads((tmp_path / "prediction.json").read_text())


def test_single_frames_keep_their_labels():
    latents = torch.arange(6.0).view(2, 3, 1, 1, 1)
    labels = {"fps": torch.arange(6.0).view(2, 3), "boxes": torch.zeros(2, 3, 4, 6)}
    one, told = single_frames(latents, labels)
    assert one.shape == (6, 1, 1, 1, 1) and told["boxes"].shape == (6, 1, 4, 6)
    assert torch.equal(one.flatten(), told["fps"].flatten())


# stopping


class Poison(nn.Module):
    """An objective whose loss is not a number from the ``at``-th call on."""

    def __init__(self, inner: DiffusionObjective, at: int) -> None:
        super().__init__()
        self.inner, self.left = inner, at
        self.described = inner.described

    def __call__(self, *args: Any) -> Any:
        self.left -= 1
        loss, sigma = self.inner(*args)
        return type(self.inner(*args))(loss * torch.nan if self.left < 0 else loss, sigma)


def test_nonfinite_loss_stops_and_overwrites_nothing(clips: Path, tmp_path: Path):
    module = diffusion("image")
    module.objective = Poison(module.objective, 5)  # type: ignore[assignment]
    with pytest.raises(NonFiniteLossError, match=r"loss is nan at step 5.*last\.ckpt"):
        run(module, windows(clips, 1), tmp_path, "2_image", every=2, limit_val_batches=0)
    saved = torch.load(tmp_path / "runs/2_image/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    exported = json.loads((tmp_path / "image.json").read_text())
    assert exported["metadata"]["steps"] == 4
    assert all(bool(torch.isfinite(value).all()) for value in saved["state_dict"].values())


def test_time_box_stops_cleanly_and_exports(clips: Path, tmp_path: Path):
    module = diffusion("image", optimization=Optimization(decay="time", warmup_steps=1))
    run(module, windows(clips, 1), tmp_path, "2_image", steps=10**6, every=10**6, limit_val_batches=0, max_minutes=1.5 / 60)
    rates = list(curve(tmp_path, "2_image", "learning_rate").values())
    assert rates[0] > rates[len(rates) // 2] > rates[-1]
    assert rates[-1] < 0.3 * rates[0]
    assert json.loads((tmp_path / "image.json").read_text())["metadata"]["steps"] == module.global_step == len(rates)


def test_cosine_over_time_needs_a_time_box(clips: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="max_minutes"):
        run(diffusion("image", optimization=Optimization(decay="time")), windows(clips, 1), tmp_path, "2_image")
    with pytest.raises(UsageError, match="positive"):
        run(diffusion("image"), windows(clips, 1), tmp_path, "2_image", max_minutes=0)


# arithmetic


@pytest.mark.parametrize("part", ["image", "prediction", "interpolation"])
def test_half_precision_on_the_cpu_follows_single(clips: Path, tmp_path: Path, part: str):
    frames = 1 if part == "image" else 4
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        run(diffusion(part), windows(clips, frames), tmp_path / precision, part, precision=precision, steps=4)
        losses[precision] = torch.tensor(list(curve(tmp_path / precision, part).values()))
    assert torch.allclose(losses["bf16-mixed"], losses["32-true"], rtol=0.05)


@pytest.mark.parametrize(("trained", "critic"), [("all", PatchDiscriminator2d(4, 2)), ("decoder", PatchDiscriminator3d(4, 2))])
def test_half_precision_of_the_first_stage(clips: Path, tmp_path: Path, trained: str, critic: nn.Module):
    module = AutoencoderModule(small_autoencoder(), Optimization(lr=1e-3), trained=trained, critic=critic)
    run(module, windows(clips), tmp_path, "stage", precision="bf16-mixed", steps=4)
    assert all(bool(torch.isfinite(weight).all()) for weight in module.parameters())


def test_gradient_checkpointing_changes_nothing(clips: Path, tmp_path: Path):
    plain, frugal = diffusion(), diffusion(gradient_checkpointing=True)
    for name, module in {"plain": plain, "frugal": frugal}.items():
        run(module, windows(clips), tmp_path / name, "3_prediction", steps=2)
    for (name, one), other in zip(plain.network.named_parameters(), frugal.network.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name


def test_critic_and_autoencoder_are_blind_to_each_other():
    torch.manual_seed(0)
    critic = PatchDiscriminator2d(4, 2).eval()  # eval: spectral norm does not move between the calls that are compared
    module = AutoencoderModule(small_autoencoder(), Optimization(), critic=critic, adversarial_weight=0.5)
    module.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    frames = torch.rand(2, 1, 3, HEIGHT, WIDTH) * 2 - 1
    made = torch.zeros_like(frames, requires_grad=True)
    module._adversarial(made, frames).backward()
    found = [weight.grad.clone() for weight in critic.parameters() if weight.grad is not None]
    pleased = torch.autograd.grad(-0.5 * critic(made.flatten(0, 1)).mean(), made)[0]
    critic.zero_grad()
    hinge = (1 - critic(frames.flatten(0, 1))).relu().mean() + (1 + critic(made.detach().flatten(0, 1))).relu().mean()
    hinge.backward()
    assert made.grad is not None and torch.allclose(made.grad, pleased)
    wanted = [weight.grad for weight in critic.parameters() if weight.grad is not None]
    assert len(found) == len(wanted) and all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found, wanted, strict=True))


def test_running_statistics_normalise_latents():
    module = AutoencoderModule(small_autoencoder(), Optimization())
    batches = [3.0 * torch.randn(16, 4, 4, 4) + torch.arange(4.0).view(4, 1, 1) for _ in range(200)]
    for latents in batches:
        module._follow_statistics(latents)
        module.batches += 1
    assert torch.allclose(module.network.latent_mean, torch.arange(4.0), atol=0.1)
    assert torch.allclose(module.network.latent_std, torch.full((4,), 3.0), atol=0.1)


def test_draws_depend_on_the_counter_alone():
    def draw(*counter: Any) -> Tensor:
        return torch.rand(4, generator=generator_for(*counter))

    assert torch.equal(draw(0, "train", 5), draw(0, "train", 5))
    others = [draw(1, "train", 5), draw(0, "validation", 5), draw(0, "train", 6)]
    assert not any(torch.equal(draw(0, "train", 5), other) for other in others)


def test_curves_drop_what_is_trained_again(tmp_path: Path):
    for begin in (0, 3):
        curves = CsvCurves(tmp_path)
        for step in range(begin, 5):
            curves.log_metrics({"loss": 10 * begin + step}, step)
    with (tmp_path / "metrics.csv").open() as file:
        assert [(int(row["step"]), float(row["value"])) for row in csv.DictReader(file)] == [(0, 0), (1, 1), (2, 2), (3, 33), (4, 34)]


def test_exported_autoencoder_keeps_its_name(tmp_path: Path):
    save_network(tmp_path / "autoencoder", small_autoencoder(), {})
    video = trained_video_autoencoder(tmp_path, levels=1)
    latents = torch.randn(1, 3, 4, 8, 16)
    assert torch.allclose(video.decode(latents), trained_network(tmp_path, "autoencoder").decode(latents), atol=1e-6)


def test_what_was_said_of_an_earlier_network_of_that_name_is_forgotten(tmp_path: Path):
    """An interpolation network of one call gives way to one that diffuses latents: model.json says nothing of one call any more."""
    save_settings(tmp_path, {"height": 32, "interpolation": {"calls": 1, "noise": 0.0}, "prediction_fast": {"calls": 4}})
    module = DiffusionModule(
        VideoUNet(ImageUNet(3, 8, (1, 2), 1, (), head_channels=8, embedding=16), 3, frames=5, head_channels=8, embedding=16),
        DiffusionObjective(zero_terminal_cosine(100), "velocity", EndPoints()), IdentityAutoencoder(), "interpolation",
        Optimization(lr=1e-3),
    )  # fmt: skip
    export_parts(tmp_path, module, module.state_dict(), module.settings(), {})
    model = json.loads((tmp_path / "model.json").read_text())
    assert "interpolation" not in model and model["prediction_fast"] == {"calls": 4} and model["height"] == 32
    assert model["parameterization"] == "velocity" and (tmp_path / "interpolation.safetensors").exists()
