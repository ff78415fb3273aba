"""Batches as training sees them: shapes, workers, epochs, caches, and clear words when the clips cannot serve."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from drivesim.datasets.datamodule import ClipDataModule, EpochSampler, encoder_hash
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import UsageError
from drivesim.io.records import DatasetError

SIZE = {"height": 16, "width": 32}


class Encoder(nn.Module):
    """A tiny first stage with a decoder that must not matter to the cache."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 4, 4)
        self.decoder = nn.Linear(2, 2)

    def encode(self, frames: Tensor) -> Tensor:
        return self.conv(frames)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "clips"
    make_road_world(root, clips=4, seconds=6, height=32, width=64)
    return root


def opened(*args: object, **kwargs: object) -> ClipDataModule:
    module = ClipDataModule(*args, **SIZE, **kwargs)  # type: ignore[arg-type]
    module.prepare_data()
    module.setup()
    return module


def test_batches_of_frames(world: Path) -> None:
    module = opened(str(world), 5, fps=7.5, batch_size=3, samples_per_epoch=6, mirror=0.5, crop=0.1, colour=0.1, val_windows=4)
    batches = list(module.train_dataloader())
    assert [batch["frames"].shape for batch in batches] == [(3, 5, 3, 16, 32)] * 2
    assert batches[0]["frames"].dtype == torch.uint8
    labels = batches[0]["labels"]
    assert set(labels) == {"time_of_day", "crowdedness", "ego_speed_mps", "ego_yaw_rate_radps", "fps", "boxes", "boxes_known"}
    assert labels["boxes"].shape == (3, 5, 32, 6)
    assert labels["boxes_known"].dtype == torch.bool
    assert all(labels[name].shape == (3, 5) for name in labels if name != "boxes")
    assert all(value.dtype == torch.float32 for name, value in labels.items() if name != "boxes_known")
    assert sum(len(batch["frames"]) for batch in module.val_dataloader()) == 4


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_what_one_process_gives(world: Path, context: str) -> None:
    settings = dict(fps=7.5, batch_size=2, samples_per_epoch=4, crop=0.2)
    alone, helped = (opened([world], 2, workers=workers, **settings) for workers in (0, 1 if context == "spawn" else 2))
    loader = helped.train_dataloader()
    loader.multiprocessing_context = context
    pairs = list(zip(alone.train_dataloader(), loader, strict=True))
    assert len(pairs) == 2
    assert all(torch.equal(a["frames"], b["frames"]) and torch.equal(a["labels"]["boxes"], b["labels"]["boxes"]) for a, b in pairs)


def test_workers_tell_of_broken_clips(tmp_path: Path) -> None:
    make_road_world(tmp_path / "c", clips=4, seconds=2, height=32, width=64)
    video = next((tmp_path / "c" / "videos").glob("*0000.mp4"))
    video.write_bytes(video.read_bytes()[:900])
    module = opened([tmp_path / "c"], 2, fps=7.5, batch_size=2, samples_per_epoch=12, workers=1)
    assert len(list(module.train_dataloader())) == 6
    assert module.skipped == ["road000_0000"]


class Watcher(L.LightningModule):
    """Writes down the first pixel row of every batch it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[int] = []

    def training_step(self, batch: dict, index: int) -> Tensor:
        self.seen.append(hash(batch["frames"].numpy().tobytes()))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_epochs_go_on_and_repeat_exactly(world: Path) -> None:
    runs = []
    for _ in range(2):
        watcher = Watcher()
        trainer = L.Trainer(max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
        trainer.fit(watcher, datamodule=ClipDataModule(world, 2, **SIZE, fps=7.5, batch_size=2, samples_per_epoch=4))
        runs.append(watcher.seen)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 6, "no batch comes twice"


def test_ranks_share_an_epoch() -> None:
    shares = [EpochSampler(8, batch=2, ranks=2, rank=rank) for rank in range(2)]
    for share in shares:
        share.set_epoch(3)
    assert [list(share) for share in shares] == [[24, 25, 28, 29], [26, 27, 30, 31]], "whole batches in turn"


def test_latents_are_made_once_and_outlive_the_decoder(world: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder()
    settings = dict(fps=1.875, batch_size=2, samples_per_epoch=4, latents=tmp_path, encoder=encoder, mirror=0.5, crop=0.1)
    module = opened([world], 2, **settings)
    assert module.variants == ("plain", "mirror", "shift1", "shift2")
    batch = next(iter(module.train_dataloader()))
    assert batch["latents"].shape == (2, 2, 2, 4, 8)
    assert "frames" not in batch
    files = sorted(tmp_path.rglob("*.npy"))
    assert len(files) == 3 * 4 + 1, "three training clips in four variants, one validation clip as it is"
    written = [file.stat().st_mtime_ns for file in files]
    before = encoder_hash(encoder)
    nn.init.ones_(encoder.decoder.weight)
    assert encoder_hash(encoder) == before
    opened([world], 2, **settings)
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.rglob("*.npy"))] == written
    nn.init.ones_(encoder.conv.weight)
    assert encoder_hash(encoder) != before


def test_several_datasets_by_weight(world: Path, tmp_path: Path) -> None:
    make_road_world(tmp_path / "other", clips=1, seconds=6, fps=30, height=32, width=64)
    module = opened([world, tmp_path / "other"], 2, fps=[7.5, 30], weights=[0.25, 0.75], batch_size=8, samples_per_epoch=64)
    rates = np.concatenate([batch["labels"]["fps"][:, 0] for batch in module.train_dataloader()])
    assert set(rates) == {7.5, 30.0}
    assert np.mean(rates == 30) == pytest.approx(0.375, abs=0.15)
    assert [str(line) for line in module.served][1].startswith("clips at 30 fps: 0 windows from 0 clips (3 left out: 7.5 fps has no")


def test_without_validation_clips_there_is_no_validation(tmp_path: Path) -> None:
    make_road_world(tmp_path / "one", clips=1, seconds=2, height=32, width=64)
    module = opened(tmp_path / "one", 2, batch_size=2)
    assert module.val_dataloader() == []


def test_clips_that_cannot_serve_are_named(world: Path) -> None:
    with pytest.raises(DatasetError, match=r"no clip can serve this stage.*3 left out: 7.5 fps has no whole-number stride near 30 fps"):
        opened(world, 5, fps=30)
    with pytest.raises(DatasetError, match="shorter than the 77 frames"):
        opened(world, 20, fps=1.875)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"latents": "somewhere"}, "needs an autoencoder"),
        ({"batch_size": 0}, "batch_size"),
        ({"workers": -1}, "workers"),
        ({"frames": 0}, "at least 1 frame"),
        ({"fps": -1}, "positive"),
        ({"mirror": 2}, "mirror"),
    ],
)
def test_bad_settings_are_refused(bad: dict, message: str, world: Path) -> None:
    with pytest.raises(UsageError, match=message):
        ClipDataModule(**{"data": world, "frames": 2, **SIZE, **bad})
