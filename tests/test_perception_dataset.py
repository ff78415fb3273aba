"""The commands of docs/perception-dataset.md, one after the other, at toy size."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from toys import write_toy_checkpoint

from drivesim.cli import main
from drivesim.io.records import read_records

PAGE = Path(__file__).parents[1] / "docs" / "perception-dataset.md"
SMALL = {"8": "2", "10": "2"}
SHORT = (
    "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.limit_val_batches=1", "callbacks.last.every_n_steps=2",
    "callbacks.pictures.windows=1", "trainer.accelerator=cpu", "datamodule.frames=1", "datamodule.batch_size=2",
)  # fmt: skip


def commands() -> list[str]:
    """Lines of the page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def small(line: str, toy: Path) -> list[str]:
    """The command's words, with few and short scenarios, the toy weights, and two steps of training."""
    program, *words = shlex.split(line)
    assert program == "drivesim"
    for place, word in enumerate(words[:-1]):
        if word in ("--count", "--seconds"):
            words[place + 1] = SMALL[words[place + 1]]
        elif word == "--bank":
            words[place + 1] = str(toy)
        elif word == "--min-agreement":
            words[place + 1] = "0"
    if words[0] == "generate":
        words += ["--checkpoint", str(toy), "generation.batch=1", "generation.threads=1"]
    return [word.replace("mini/", "toy/") for word in words] + (list(SHORT) if words[0] == "train" else [])


def test_every_command_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    toy = write_toy_checkpoint(tmp_path / "toy")
    lines = commands()
    assert len(lines) >= 12
    for line in lines:
        assert main(small(line, toy)) == 0, f"{line}: {capsys.readouterr().err}"
    for name in ("night", "rare"):
        records = read_records(tmp_path / name)
        assert len(records.clips) == 2 and {"agreement_f1", "agreement_recall"} <= set(records.clips)
        assert set(records.clips["time_of_day"]) == {"night"}
    coco = COCO(str(tmp_path / "night-coco" / "instances.json"))
    assert len(coco.getImgIds()) == read_records(tmp_path / "night").clips["frames"].sum()
    for made in ("rare.png", "night.html", "runs/night/detector.safetensors", "night-yolo/data.yaml"):
        assert (tmp_path / made).stat().st_size > 100, made
