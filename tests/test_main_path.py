"""THE test: clips -> every training stage -> rollout -> check -> read back -> training on the rollout, in latents and in pixels.

Everything goes through the command line, in this process. Two training steps a stage: this asks whether the parts fit together, not
whether anything is learned.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from drivesim import cli
from drivesim.datasets.clips import ClipDataset
from drivesim.io.checkpoints import load_checkpoint
from drivesim.io.records import read_records
from drivesim.io.video import iterate_frames, probe

STAGES = ("1_autoencoder", "2_image", "3_prediction", "4_interpolation", "5_decoder")
SHORT = (
    "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.limit_val_batches=1",
    "callbacks.last.every_n_steps=2", "callbacks.pictures.windows=1", "~callbacks.throughput",
)  # fmt: skip
SECONDS = 4.0


def run(*words: str) -> None:
    assert cli.main([*words, "--debug"]) == 0


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the toy road world."""
    out = tmp_path_factory.mktemp("drawn") / "clips"
    run("data", "synth", "--out", str(out), "--clips", "3", "--seconds", "6", "--height", "32", "--width", "64")
    return out


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """Two recorded videos imported with their labels: one by day with boxes, one by night at a rate that interpolation can use."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "videos").mkdir()
    records = read_records(shared_data / "real")
    chosen = records.clips[records.clips["clip_id"].isin(["udacity_solidWhiteRight", "udacity_pr_night1"])]
    for path in chosen["video"]:
        shutil.copy(shared_data / "real" / path, folder / "videos")
    names = chosen.set_index("clip_id")["video"].map(lambda path: Path(path).name)
    labels = chosen.assign(video=chosen["clip_id"].map(names), split="train")
    labels[["video", "time_of_day", "split", "licence"]].to_csv(folder / "labels.csv", index=False)
    boxes = records.boxes[records.boxes["clip_id"].isin(chosen["clip_id"])]
    boxes = boxes.assign(video=boxes["clip_id"].map(names))[["video", "timestamp_s", "track_id", "category", "x1", "y1", "x2", "y2"]]
    boxes.to_parquet(folder / "boxes.parquet")
    tables = ("--labels", str(folder / "labels.csv"), "--boxes", str(folder / "boxes.parquet"))
    run("data", "import", "videos", str(folder / "videos"), "--out", str(folder / "clips"), *tables, "height=64", "width=128")
    run("data", "check", str(folder / "clips"), "--deep")
    return folder / "clips"


def train(stage: str, data: Path, out: Path, first_stage: str) -> None:
    quick = ["module.sampling_steps=2"] if stage[0] in "234" else []
    run("train", f"experiment=toy/{stage}", f"data={data}", f"out={out}", f"first_stage={first_stage}", *SHORT, *quick)


@pytest.mark.parametrize("source", ["drawn", "recorded"])
@pytest.mark.parametrize("first_stage", ["latent", "pixel"])
def test_clips_to_rollout_and_back_into_training(
    first_stage: str, source: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = request.getfixturevalue(source)
    monkeypatch.chdir(tmp_path)
    weights, drive = tmp_path / "weights", tmp_path / "drive"
    for stage in STAGES:
        train(stage, clips, weights, first_stage)
    assert load_checkpoint(weights).tracks.is_file()

    run("rollout", "--minutes", str(SECONDS / 60), "--out", str(drive), "--checkpoint", str(weights), "--device", "cpu",
        "--time-of-day", "night", "--crowdedness", "4")  # fmt: skip
    run("data", "check", str(drive), "--deep")
    assert_written(drive)
    assert_reads_back(drive)

    again = tmp_path / "again"
    shutil.copytree(weights, again, ignore=shutil.ignore_patterns("runs", "latents", "prediction.*"))
    train("3_prediction", drive, again, first_stage)
    assert (again / "prediction.safetensors").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"weights", "drive", "again"}, "a command left something beside its output"


def assert_written(drive: Path) -> None:
    """The folder holds what DESIGN promises, and the video plays to its end."""
    for name in ("dataset.json", "clips.parquet", "frames.parquet", "boxes.parquet", "rollout.json", "preview.png", "preview.mp4"):
        assert (drive / name).is_file(), name
    (video,) = (drive / "videos").glob("*.mp4")
    info = probe(video)
    assert (info.frames, info.height, info.width, float(info.fps)) == (round(SECONDS * 7.5), 32, 64, 7.5)
    assert sum(1 for _ in iterate_frames(video)) == info.frames
    about = json.loads((drive / "rollout.json").read_text())
    assert about["state"] == "finished" and about["seed"] == 0


def assert_reads_back(drive: Path) -> None:
    """What was asked for is what a training run is told."""
    dataset = ClipDataset(drive)
    (clip_id,) = dataset.clip_ids
    assert not dataset.faults
    labels = dataset.labels(0)
    assert len(labels) == round(SECONDS * 7.5) and labels.boxes_known.all()
    assert (labels.values["time_of_day"] == 1).all()
    assert len(labels.boxes) and np.isfinite(labels.values["crowdedness"]).all()
    assert set(dataset.records.boxes["provenance"]) == {"requested"} and set(dataset.records.boxes["clip_id"]) == {clip_id}
