"""ONNX detectors in closed form: tiny networks whose boxes are fixed and whose scores are the colours they are fed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drivesim.datasets.finders import finder
from drivesim.datasets.onnx_detector import COCO, MAPPING, OnnxDetector, boxes_of_output, layout_of, letterbox
from drivesim.errors import DrivesimError, UsageError
from drivesim.labels import CATEGORIES

onnx = pytest.importorskip("onnx", reason="the tests of ONNX detectors make their networks with the package onnx")
pytest.importorskip("onnxruntime", reason="ONNX detectors need onnxruntime (pip install 'drivesim[label]')")

SIDE = 32
NAMES = ("car", "person", "zebra")  # scored by red, green and blue
CELLS = 16 + 4 + 1
RED, GREEN, BLUE = (np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250)))


def write(path: Path, boxes: np.ndarray, layout: str, names: tuple[str, ...] | None = NAMES, white: float = 1.0) -> Path:
    """A network that gives ``boxes``, (4, n) of Ultralytics or (n, 5) of YOLOX, and scores: means of its input's channels / white."""
    rows = boxes.shape[1] if layout == "ultralytics" else len(boxes)
    shape = (1, 3, 1) if layout == "ultralytics" else (1, 1, 3)
    wide = (1, 3, rows) if layout == "ultralytics" else (1, rows, 3)
    constants = {"boxes": boxes[None].astype(np.float32), "white": np.array(white, np.float32), "shape": np.array(shape, np.int64),
                 "wide": np.array(wide, np.int64)}  # fmt: skip
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("GlobalAveragePool", ["images"], ["means"]), node("Div", ["means", "white"], ["scaled"]),
        node("Reshape", ["scaled", "shape"], ["row"]), node("Expand", ["row", "wide"], ["scores"]),
        node("Concat", ["boxes", "scores"], ["output"], axis=1 if layout == "ultralytics" else 2),
    ]  # fmt: skip
    given, made = info("images", onnx.TensorProto.FLOAT, [1, 3, SIDE, SIDE]), info("output", onnx.TensorProto.FLOAT, [1, None, None])
    held = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "toy", [given], [made], held), opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8
    )  # fmt: skip
    if names is not None:
        onnx.helper.set_model_props(model, {"names": str(dict(enumerate(names)))})
    onnx.save(model, path)
    return path


def yolox(path: Path, decoded: bool, names: tuple[str, ...] | None = NAMES) -> OnnxDetector:
    """One sure cell: of stride 8, column 2, row 1: middle at (2.5, 1.25) cells, 16 x 8 pixels."""
    rows = np.zeros((CELLS, 5))
    rows[1 * 4 + 2] = (0.5, 0.25, np.log(2), np.log(1), 1)
    if decoded:
        rows[:, :2] = 31  # places of cells span the picture
        rows[1 * 4 + 2] = (20, 10, 16, 8, 1)
    return OnnxDetector(write(path, rows, "yolox", names, white=255.0), classes=None if names else NAMES)


def test_ultralytics(tmp_path: Path) -> None:
    path = write(tmp_path / "yolo.onnx", np.array([[16.0, 8.0], [16.0, 8.0], [8.0, 4.0], [16.0, 4.0]]), "ultralytics")
    detector = OnnxDetector(path)
    assert (detector.layout, detector.pixels, detector.classes, detector.name) == ("ultralytics", "rgb1", NAMES, "yolo")
    red, green, blue = detector.find(np.stack([RED, GREEN, BLUE]))
    assert red.category.tolist() == [0, 0] and green.category.tolist() == [CATEGORIES.index("person")] * 2 and len(blue) == 0
    assert np.allclose(red.score, 250 / 255)
    assert sorted(red.xyxy.tolist()) == pytest.approx(np.array([[6, 6, 10, 10], [12, 8, 20, 24]]) / SIDE)


@pytest.mark.parametrize("decoded", [False, True])
def test_yolox(tmp_path: Path, decoded: bool) -> None:
    detector = yolox(tmp_path / "x.onnx", decoded)
    assert (detector.layout, detector.pixels) == ("yolox", "bgr255")
    red, blue = detector.find(np.stack([RED, BLUE]))
    assert len(red) == 0  # fed as BGR, red is the third channel: a zebra
    assert blue.category.tolist() == [0] and blue.score.tolist() == [pytest.approx(250 / 255)]
    assert blue.xyxy[0].tolist() == pytest.approx([12 / SIDE, 6 / SIDE, 28 / SIDE, 14 / SIDE])


def test_boxes_come_out_of_the_letterbox(tmp_path: Path) -> None:
    """A frame twice as wide as high fills the middle half of Ultralytics' square and the upper half of YOLOX's."""
    wide = np.full((64, 128, 3), 250, np.uint8)
    centre = OnnxDetector(write(tmp_path / "a.onnx", np.array([[16.0], [16.0], [8.0], [8.0]]), "ultralytics", ("car", "train", "train")))
    assert centre.find(wide[None])[0].xyxy[0].tolist() == pytest.approx([0.375, 0.25, 0.625, 0.75])
    corner = yolox(tmp_path / "b.onnx", True, ("car", "train", "train"))
    assert corner.find(wide[None])[0].xyxy[0].tolist() == pytest.approx([12 / 32, 6 / 16, 28 / 32, 14 / 16])
    picture, scale, place = letterbox(wide, SIDE, SIDE, False)
    assert (scale, place) == (0.25, (0, 8)) and (picture[:8] == 114).all() and (picture[8:24] == 250).all()


def test_the_better_of_two_boxes_of_a_group_stays(tmp_path: Path) -> None:
    twice = np.array([[16.0, 16.0], [16.0, 16.5], [8.0, 8.0], [8.0, 8.0]])
    assert len(OnnxDetector(write(tmp_path / "a.onnx", twice, "ultralytics")).find(RED[None])[0]) == 1


def test_names_are_the_users_or_cocos_where_the_file_has_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx", np.array([[16.0], [16.0], [8.0], [8.0]]), "ultralytics", None)
    assert OnnxDetector(path, classes=("bus", "x", "y")).find(RED[None])[0].category.tolist() == [CATEGORIES.index("bus")]
    with pytest.raises(UsageError, match="80 classes"):
        OnnxDetector(path)
    assert len(COCO) == len(set(COCO)) == 80 and set(MAPPING.values()) == set(CATEGORIES)
    assert [COCO.index(name) for name in ("person", "bicycle", "car", "motorcycle", "bus", "truck")] == [0, 1, 2, 3, 5, 7]


def test_finished_boxes_and_unknown_layouts() -> None:
    xyxy, score, label = boxes_of_output(np.array([[1.0, 2, 3, 4, 0.5, 2]]), "finished", SIDE, SIDE)
    assert xyxy.tolist() == [[1, 2, 3, 4]] and score.tolist() == [0.5] and label.tolist() == [2]
    assert [layout_of(shape, 80, "x") for shape in ((84, 8400), (3549, 85), (300, 6))] == ["ultralytics", "yolox", "finished"]
    with pytest.raises(UsageError, match="no known layout"):
        layout_of((10, 10), 80, "x")
    with pytest.raises(DrivesimError, match="does not fit"):
        boxes_of_output(np.zeros((7, 8)), "yolox", SIDE, SIDE)


def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    path = write(tmp_path / "a.onnx", np.array([[16.0], [16.0], [8.0], [8.0]]), "ultralytics", ("zebra", "cow", "kite"))
    for call, named in (
        (lambda: finder(tmp_path / "none.onnx"), "no such file"), (lambda: finder(tmp_path / "text.onnx"), "not a usable ONNX file"),
        (lambda: finder(path), "none of its classes"), (lambda: finder(path, pixels="grey"), "rgb1"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=named):
            call()
