"""Two processes train as one does: the same windows in the same order, the same draws, the same losses, and the same weights in the end.

Batches are numbered over all processes, and windows and draws follow from the number, so the one process takes the two processes' batches
in turn, two for each step of the optimiser: the same global batch. One batch twice as large is the same windows under other draws (noise
levels are spread evenly within a batch), so its curve is equal in distribution only and is not what is compared here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from drivesim import cli
from drivesim.diffusion.noise import zero_terminal_cosine
from drivesim.diffusion.objective import DiffusionObjective
from drivesim.errors import UsageError
from drivesim.models.autoencoder import IdentityAutoencoder
from drivesim.models.unet import ImageUNet
from drivesim.models.video_unet import VideoUNet
from drivesim.training.diffusion_module import DiffusionModule
from drivesim.training.learning_rate import Optimization

STEPS, EPOCH = 6, 8
SHORT = (f"trainer.max_steps={STEPS}", "trainer.limit_val_batches=0", "trainer.accelerator=cpu", "module.sampling_steps=2",
         f"datamodule.samples_per_epoch={EPOCH}", "datamodule.batch_size=2")  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Clips, and a checkpoint folder with the first two stages."""
    folder = tmp_path_factory.mktemp("ddp")
    clips, out = folder / "clips", folder / "begun"
    assert cli.main(["data", "synth", "--out", str(clips), "--clips", "3", "--seconds", "6", "--height", "32", "--width", "64"]) == 0
    for stage in ("1_autoencoder", "2_image"):
        words = [f"experiment=toy/{stage}", f"data={clips}", f"out={out}", "trainer.max_steps=2", "trainer.limit_val_batches=0"]
        assert cli.main(["train", *words]) == 0
    return clips, out


def trained(begun: tuple[Path, Path], out: Path, *words: str) -> list[dict[str, Any]]:
    """Run ``drivesim train`` in processes of its own; returns what its batches were, in the order of their numbers."""
    clips, first = begun
    log, tests = out / "batches", Path(__file__).parent
    folders = [f"module.network.image.folder={first}", f"module.autoencoder.folder={first}", f"datamodule.autoencoder={first}/autoencoder"]
    latents = f"datamodule.latents={out}/latents"
    recorder = f"+callbacks.batches={{_target_: batch_log.BatchLog, folder: {log}}}"
    command = [sys.executable, "-m", "drivesim.cli", "train", "experiment=toy/3_prediction", f"data={clips}", f"out={out}", latents]
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(tests), os.environ.get("PYTHONPATH")])), "OMP_NUM_THREADS": "1"}
    command += [*folders, *SHORT, recorder, *words]
    run = subprocess.run(command, env=place, capture_output=True, text=True, timeout=1200, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    rows = [json.loads(line) for path in sorted(log.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return sorted(rows, key=lambda row: row["number"])


def state(out: Path) -> dict[str, Any]:
    return torch.load(out / "runs" / "3_prediction" / "last.ckpt", weights_only=True)


def test_two_processes_train_as_one(begun: tuple[Path, Path], tmp_path: Path) -> None:
    alone, pair = tmp_path / "alone", tmp_path / "pair"
    wanted = trained(begun, alone, "trainer.devices=1", "trainer.accumulate_grad_batches=2")
    found = trained(begun, pair, "trainer.devices=2", "trainer.strategy=ddp")
    assert [row["number"] for row in wanted] == list(range(2 * STEPS))
    assert [(row["number"], row["windows"]) for row in found] == [(row["number"], row["windows"]) for row in wanted]
    assert len({row["windows"] for row in wanted}) == 2 * STEPS, "no batch comes twice"
    torch.testing.assert_close([row["loss"] for row in found], [row["loss"] for row in wanted], rtol=1e-5, atol=1e-6)
    one, two = state(alone), state(pair)
    assert one["global_step"] == two["global_step"] == STEPS
    torch.testing.assert_close(two["state_dict"], one["state_dict"], rtol=1e-4, atol=1e-5)
    begun_at_zero = [value for name, value in one["state_dict"].items() if name.startswith("network.temporal.") and "conv2.weight" in name]
    assert min(float(value.abs().max()) for value in begun_at_zero) > 1e-3, "weights that did not move would be equal, too"


@pytest.mark.parametrize(("strategy", "refused"), [("ddp", True), ("ddp_find_unused_parameters_true", False)])
def test_single_frames_need_a_strategy_that_does_not_wait(strategy: str, refused: bool) -> None:
    """Half the processes without gradients of the temporal layers: plain DDP hangs in the first such step."""
    image = ImageUNet(3, base=8, multipliers=(1, 2), attention=(), head_channels=8, embedding=16)
    network = VideoUNet(image, 3, frames=4, head_channels=8, embedding=16)
    objective = DiffusionObjective(zero_terminal_cosine())
    module = DiffusionModule(network, objective, IdentityAutoencoder(), "prediction", Optimization(), frozen="spatial", unfreeze_at_step=2)
    trainer = L.Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False)
    module.trainer = trainer
    if not refused:
        module.setup("fit")
        return
    with pytest.raises(UsageError, match="ddp_find_unused_parameters_true"):
        module.setup("fit")
    module.single_frames = 0.0
    module.setup("fit")
