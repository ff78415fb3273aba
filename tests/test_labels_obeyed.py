"""The table of obeyed labels is made from any checkpoint; what it must say of good weights is for a run with good weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from toys import write_toy_checkpoint

from drivesim.labels import Boxes, LabelTrack

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "labels_obeyed.py"
found = importlib.util.spec_from_file_location("labels_obeyed", SCRIPT)
assert found is not None and found.loader is not None
labels_obeyed = importlib.util.module_from_spec(found)
found.loader.exec_module(labels_obeyed)


def test_table_of_a_toy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out = write_toy_checkpoint(tmp_path / "toy"), tmp_path / "table.json"
    words = ["--checkpoint", str(weights), "--seeds", "2", "--seconds", "1", "--crowdedness", "2", "--device", "cpu", "--out", str(out)]
    labels_obeyed.main(words)
    said, written = capsys.readouterr().out, json.loads(out.read_text())
    assert said.startswith("| seed |") and "day is brighter than night:" in said
    assert [row["empty"] for row in written["rows"]] == [0, 0]
    assert all(row["crowded"] > 0 for row in written["rows"])


def test_change_is_told_apart_inside_and_outside_boxes() -> None:
    one = Boxes(np.array([0]), np.array([1]), np.array([0]), np.array([[0.0, 0.0, 0.5, 1.0]], np.float32), np.array([False]))
    track = LabelTrack(7.5, {}, one, np.ones(1, bool))
    empty = np.zeros((1, 8, 16, 3), np.uint8)
    crowded = empty.copy()
    crowded[:, :, :8], crowded[:, :, 8:] = 60, 20
    assert labels_obeyed.inside_to_outside(crowded, empty, [track]) == pytest.approx(3)
