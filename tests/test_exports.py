"""What is exported is read by the other project's own code and says the same."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from drivesim.datasets.exports.coco import export_coco
from drivesim.datasets.sources.synthetic import make_road_world
from drivesim.errors import DrivesimError, UsageError
from drivesim.io.records import labels_of, read_records, write_records
from drivesim.io.video import read_frames
from drivesim.labels import CATEGORIES


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "clips"
    make_road_world(root, clips=2, seconds=2, height=64, width=128)
    return root


def test_coco_is_read_by_pycocotools(world: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    summary = export_coco(world, tmp_path / "coco", every=5)
    truth = coco.COCO(str(tmp_path / "coco" / "instances.json"))
    assert [kind["name"] for kind in truth.loadCats(truth.getCatIds())] == list(CATEGORIES)
    assert len(truth.getImgIds()) == summary["images"] == 6
    assert len(truth.getAnnIds()) == summary["annotations"] > 0
    guesses = [{**{k: row[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.9} for row in truth.dataset["annotations"]]
    judge = evaluation.COCOeval(truth, truth.loadRes(guesses), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[0] > 0.99, "the boxes themselves are perfect guesses"


def test_coco_says_what_the_dataset_says(world: Path, tmp_path: Path) -> None:
    export_coco(world, tmp_path / "coco", pictures="png")
    document = json.loads((tmp_path / "coco" / "instances.json").read_text())
    records = read_records(world)
    image = next(image for image in document["images"] if image["video_id"] == 2 and image["frame_index"] == 7)
    track = labels_of(records, records.clip_ids[1])
    boxes = track.boxes.where(track.boxes.frame == 7)
    rows = [row for row in document["annotations"] if row["image_id"] == image["id"]]
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)]).reshape(-1, 4)
    np.testing.assert_allclose(corners / [128, 64, 128, 64], boxes.xyxy, atol=2e-4)
    assert [row["category_id"] - 1 for row in rows] == boxes.category.tolist()
    assert [bool(row["iscrowd"]) for row in rows] == boxes.ignore.tolist()
    picture = cv2.imread(str(tmp_path / "coco" / image["file_name"]))[:, :, ::-1]
    np.testing.assert_array_equal(picture, read_frames(records.video_path(records.clip_ids[1]), indices=[7])[0])


def test_frames_nobody_looked_at_are_left_out(world: Path, tmp_path: Path) -> None:
    records = read_records(world)
    assert records.frames is not None
    copy = tmp_path / "copy"
    (copy / "videos").mkdir(parents=True)
    for path in (world / "videos").iterdir():
        (copy / "videos" / path.name).write_bytes(path.read_bytes())
    records.frames.loc[records.frames["frame"] >= 10, "boxes_known"] = False
    write_records(copy, records)
    summary = export_coco(copy, tmp_path / "coco", pictures="none")
    assert summary["images"] == 20
    assert summary["frames without known boxes"] == 10
    document = json.loads((tmp_path / "coco" / "instances.json").read_text())
    assert document["images"][3]["file_name"] == "videos/road000_0000.mp4#3"
    assert [path.name for path in (tmp_path / "coco").iterdir()] == ["instances.json"]


def test_an_unreadable_clip_costs_only_itself(world: Path, tmp_path: Path) -> None:
    make_road_world(tmp_path / "c", clips=2, seconds=1, height=32, width=64)
    video = next((tmp_path / "c" / "videos").glob("*0000.mp4"))
    video.write_bytes(video.read_bytes()[:900])
    summary = export_coco(tmp_path / "c", tmp_path / "coco")
    assert summary["clips that cannot be read"] == ["road000_0000"]
    assert not (tmp_path / "coco" / "images" / "road000_0000").exists()
    assert summary["images"] == 8


def test_coco_refuses(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="every"):
        export_coco(world, tmp_path / "x", every=0)
    with pytest.raises(UsageError, match="pictures"):
        export_coco(world, tmp_path / "x", pictures="gif")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(DrivesimError, match="already exists"):
        export_coco(world, tmp_path / "full")
    assert not (tmp_path / "x").exists()
