"""Bad input of every kind, through the command line: one line that names the bad thing, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import write_toy_checkpoint

from drivesim import cli
from drivesim.io.checkpoints import file_hash
from drivesim.io.video import count_frames, iterate_frames

SECONDS = 2.0
FRAMES = 15
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_checkpoint(tmp_path_factory.mktemp("weights") / "toy")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips") / "clips"
    assert cli.main(["data", "synth", "--out", str(out), "--clips", "2", "--seconds", "4", "--height", "32", "--width", "64"]) == 0
    return out


@pytest.fixture
def copied(clips: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clips, tmp_path / "copied"))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run a command that must fail with ``code``, naming every one of ``named`` in one line, and leave nothing called ``out``."""
    monkeypatch.chdir(tmp_path)

    def run(words: list[str], code: int, *named: str) -> str:
        capsys.readouterr()
        assert cli.main(words) == code
        caught = capsys.readouterr()
        errors = [line for line in caught.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "Traceback" not in caught.err and "(a fault in drivesim" not in caught.err, caught.err
        for name in named:
            assert name in errors[0]
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
        return errors[0]

    return run


def rollout(weights: Path, *words: str, out: str = "out") -> list[str]:
    return ["rollout", "--minutes", str(SECONDS / 60), "--out", out, "--checkpoint", str(weights), "--device", "cpu", *words]


# flags and labels


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--minutes", "0"], "minutes"),
        (["--minutes", "-1"], "minutes"),
        (["--minutes", "nan"], "minutes"),
        (["--minutes", "inf"], "minutes"),
        (["--minutes", "0.0001"], "hold no frame"),
        (["--time-of-day", "dusk"], "time_of_day must be one of day, night"),
        (["--crowdedness", "-1"], "crowdedness must lie in 0..100"),
        (["--crowdedness", "1000"], "crowdedness must lie in 0..100"),
        (["ego_speed_mps=900"], "ego_speed_mps must lie in 0..60"),
        (["--fps", "24"], "fps must be one of"),
        (["--fps", "0"], "fps must be one of"),
        (["--fps", "nan"], "fps must be one of"),
        (["--seed", "-3"], "seed"),
        (["--device", "gpu"], "'gpu'"),
        (["rollout.steps_image=0"], "rollout.steps_image"),
        (["rollout.steps_image=many"], "rollout.steps_image"),
        (["rollout.sampler=eulr"], "rollout.sampler must be one of"),
        (["minutes=null"], "minutes"),
        (["seed=null"], "seed"),
    ],
)
def test_values_that_cannot_be(words: list[str], named: str, weights: Path, refused: Refused) -> None:
    refused(rollout(weights, *words), 2, named)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(weights: Path, refused: Refused) -> None:
    refused([*rollout(weights), "--device", "cuda"], 2, "cuda", "--device cpu")


# boxes and start


def box_table() -> pd.DataFrame:
    standing = {"track_id": 1, "category": "car", "x1": 0.2, "y1": 0.4, "x2": 0.5, "y2": 0.8}
    return pd.DataFrame([{"timestamp_s": frame / 7.5, **standing} for frame in range(FRAMES)])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda table: table.drop(columns="x2"), "missing column x2"),
        (lambda table: table.assign(x1=0.9), "row 0: inverted box"),
        (lambda table: table.assign(x2=[1.5 if row == 3 else 0.5 for row in range(FRAMES)]), "row 3: box outside the picture"),
        (lambda table: table.assign(timestamp_s=table.timestamp_s + 1), "lies outside the rollout"),
        (lambda table: table.assign(frame=table.index + 10).drop(columns="timestamp_s"), "frame 15 lies outside the rollout"),
        (lambda table: table.assign(category="tram"), "unknown category 'tram'"),
        (lambda table: table.assign(y1=np.nan), "row 0: y1 is not a number"),
    ],
)
def test_bad_boxes(spoil: Callable[[pd.DataFrame], pd.DataFrame], named: str, weights: Path, tmp_path: Path, refused: Refused) -> None:
    spoil(box_table()).to_parquet(tmp_path / "boxes.parquet")
    refused(rollout(weights, "--boxes", "boxes.parquet"), 2, "boxes.parquet", named)


@pytest.mark.parametrize("flag", ["--boxes", "--start"])
@pytest.mark.parametrize("content", [None, b"", b"not at all what was asked for" * 40])
def test_unreadable_inputs(flag: str, content: bytes | None, weights: Path, tmp_path: Path, refused: Refused) -> None:
    name = "given.parquet" if flag == "--boxes" else "given.mp4"
    if content is not None:
        (tmp_path / name).write_bytes(content)
    words = rollout(weights, flag, name)
    code = 2 if content is None or flag == "--boxes" else 1
    refused(words, code, name)


def test_truncated_video_to_start_from(weights: Path, clips: Path, tmp_path: Path, refused: Refused) -> None:
    whole = next((clips / "videos").glob("*.mp4")).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    refused(rollout(weights, "--start", "cut.mp4"), 1, "cut.mp4")


def test_truncated_picture_to_start_from(weights: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "cut.png").write_bytes(cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()[:40])
    refused(rollout(weights, "--start", "cut.png"), 2, "cut.png")


@pytest.mark.parametrize("size", [(33, 71), (1, 1), (300, 20)])
def test_start_picture_of_any_size_is_fitted(size: tuple[int, int], weights: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "odd.png"), np.full((*size, 3), 90, np.uint8))
    assert cli.main(rollout(weights, "--start", str(tmp_path / "odd.png"), out=str(tmp_path / "drive"))) == 0


# output folder and disk


def test_folder_that_is_not_ours(weights: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").write_text("three years of work")
    refused(rollout(weights, "--overwrite", out="theirs"), 2, "theirs")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["thesis.tex"]
    refused(rollout(weights, out="theirs/thesis.tex"), 2, "thesis.tex")


def test_earlier_rollout_is_replaced_only_on_request(weights: Path, tmp_path: Path, refused: Refused) -> None:
    assert cli.main(rollout(weights, out=str(tmp_path / "drive"))) == 0
    before = (tmp_path / "drive" / "rollout.json").read_bytes()
    refused(rollout(weights, out="drive"), 2, "already holds a rollout")
    assert (tmp_path / "drive" / "rollout.json").read_bytes() == before
    assert cli.main(rollout(weights, "--overwrite", "--seed", "1", out=str(tmp_path / "drive"))) == 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses folders")
def test_folder_that_cannot_be_made(weights: Path, refused: Refused) -> None:
    refused(rollout(weights, out="/proc/here/drive"), 1, "/proc/here/drive")


FULL_DISK = """
import resource, sys
from drivesim import cli
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="limits file sizes")
def test_full_disk_during_a_rollout(weights: Path, tmp_path: Path) -> None:
    """No file may grow beyond a few kilobytes: the preview of all frames outgrows that, closed segments do not."""
    words = rollout(weights, "--minutes", "1", out=str(tmp_path / "drive"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", FULL_DISK.format(limit=60_000), *words], capture_output=True, text=True, env=environment)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert ended.stderr.strip().splitlines()[-1].startswith("error: ") and "play" in ended.stderr
    segments = sorted((tmp_path / "drive").rglob("videos/**/*.mp4"))
    assert segments and all(count_frames(path) == sum(1 for _ in iterate_frames(path)) > 0 for path in segments)


# weights


def test_no_weights(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "empty").mkdir()
    refused(rollout(Path("empty")), 1, "empty", "no weights")
    refused(rollout(Path("nowhere")), 1, "nowhere", "no such checkpoint folder")


@pytest.mark.parametrize(("spoil", "named"), [("missing", "is missing"), ("misshapen", "has shape"), ("garbled", "sha256")])
def test_checkpoint_with_a_bad_tensor(spoil: str, named: str, weights: Path, tmp_path: Path, refused: Refused) -> None:
    folder = Path(shutil.copytree(weights, tmp_path / "bad"))
    path, about = folder / "prediction.safetensors", folder / "prediction.json"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name] = torch.zeros(3, 1, 2)
    if spoil == "missing":
        del tensors[name]
    save_file(tensors, path)
    if spoil != "garbled":
        about.write_text(json.dumps({**json.loads(about.read_text()), "sha256": file_hash(path)}))
    refused(rollout(Path("bad")), 1, "prediction.safetensors", named, *([name] if spoil != "garbled" else []))


# datasets


def test_dataset_with_faults_is_told_fault_by_fault(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pd.read_parquet(copied / "clips.parquet")
    (copied / rows["video"][0]).unlink()
    rows.loc[1, "video"] = "../../etc/passwd"
    rows.to_parquet(copied / "clips.parquet")
    boxes = pd.read_parquet(copied / "boxes.parquet")
    boxes.loc[4, ["x1", "x2"]] = [0.9, 0.1]
    boxes.to_parquet(copied / "boxes.parquet")
    assert cli.main(["data", "check", str(copied)]) == 1
    said = capsys.readouterr().out
    assert rows["video"][0] in said and "passwd" in said and "row 4" in said and said.splitlines()[-1].endswith("3 faults")


@pytest.mark.parametrize(("key", "value", "named"), [("version", "9.0", "9.0"), ("format", "something", "dataset.json")])
def test_dataset_of_another_version(key: str, value: str, named: str, copied: Path, refused: Refused) -> None:
    about = json.loads((copied / "dataset.json").read_text())
    (copied / "dataset.json").write_text(json.dumps({**about, key: value}))
    refused(["data", "stats", "copied"], 1, named)
    refused(["train", "experiment=toy/1_autoencoder", "data=copied", "out=out"], 1, named)


def test_dataset_that_is_none(tmp_path: Path, refused: Refused) -> None:
    refused(["data", "stats", "nowhere"], 1, "nowhere")
    refused(["train", "experiment=toy/1_autoencoder", "data=nowhere", "out=out"], 1, "nowhere")
    refused(["data", "export", "coco", "nowhere", "--out", "out"], 1, "nowhere")
    refused(["data", "import", "videos", "nowhere", "--out", "out"], 2, "nowhere")


@pytest.mark.parametrize("content", [b"", b"no video"])
def test_import_of_broken_videos(content: bytes, clips: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside good ones they are left out and named; alone they are an error."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.mp4").write_bytes(content)
    refused(["data", "import", "videos", "in", "--out", "out"], 1, "broken.mp4")
    shutil.copy(next((clips / "videos").glob("*.mp4")), tmp_path / "in" / "good.mp4")
    assert cli.main(["data", "import", "videos", "in", "--out", "imported"]) == 0
    assert "broken.mp4" in capsys.readouterr().out
    assert cli.main(["data", "check", "imported"]) == 0


def test_outputs_are_not_written_over(clips: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").touch()
    refused(["data", "synth", "--out", "there"], 1, "there")
    refused(["data", "export", "coco", str(clips), "--out", "there"], 1, "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["mine"]


# training


def test_training_says_what_is_missing(clips: Path, refused: Refused) -> None:
    refused(["train", "experiment=toy/1_autoencoder", "out=out"], 2, "data=")
    refused(["train", "experiment=toy/2_image", f"data={clips}", "out=out"], 1, "1_autoencoder")


def test_loss_that_is_not_finite_stops_training(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two good steps and a checkpoint, then a learning rate that no network survives."""
    out = tmp_path / "weights"
    words = ["train", "experiment=toy/1_autoencoder", f"data={clips}", f"out={out}", "module.perceptual=null"]
    quick = ["trainer.limit_val_batches=0", "callbacks.last.every_n_steps=2", "module.optimization.warmup_steps=0"]
    assert cli.main([*words, *quick, "trainer.max_steps=2"]) == 0
    good = file_hash(out / "autoencoder.safetensors")
    capsys.readouterr()
    assert cli.main([*words, *quick, "trainer.max_steps=40", "module.optimization.lr=1e30", "trainer.gradient_clip_val=null"]) == 1
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "at step" in errors[0] and "Traceback" not in said
    assert all(torch.isfinite(value).all() for value in load_file(out / "autoencoder.safetensors").values())
    last = torch.load(out / "runs" / "1_autoencoder" / "last.ckpt", weights_only=True)
    assert last["global_step"] >= 2
    assert good == file_hash(out / "autoencoder.safetensors")
