"""The box detector: sizes, what decoding and suppression do, bad input, and that the shipped weights find vehicles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from drivesim.io.checkpoints import WEIGHTS, load_network, save_network
from drivesim.io.records import labels_of, read_records
from drivesim.io.video import read_frames
from drivesim.labels import CATEGORIES, VEHICLES
from drivesim.models.detector import BoxDetector, Detections, Predictions, box_iou, decode, group_of

SHIPPED = WEIGHTS / "detector" / "detector"


@pytest.fixture(scope="module")
def small() -> BoxDetector:
    torch.manual_seed(0)
    return BoxDetector(widths=(8, 8, 16), blocks=(1, 1, 1), neck=8).eval()


def predictions(*peaks: tuple[int, int, int, float], height: int = 8, width: int = 16, edge: float = 6.0) -> Predictions:
    """Scores at (category, row, column), 0 elsewhere, and boxes of twice ``edge`` pixels."""
    score = torch.full((1, len(CATEGORIES), height, width), 1e-4)
    for category, row, column, value in peaks:
        score[0, category, row, column] = value
    return Predictions(torch.logit(score), torch.full((1, 4, height, width), edge), torch.zeros(1))


def test_outputs_have_the_stated_shapes(small: BoxDetector) -> None:
    score, edges, night = small(torch.zeros(3, 3, 32, 64))
    assert score.shape == (3, len(CATEGORIES), 8, 16) and edges.shape == (3, 4, 8, 16) and night.shape == (3,)
    assert (edges > 0).all()


def test_the_default_network_is_small() -> None:
    network = BoxDetector().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 128, 256))
    assert sum(weight.numel() for weight in network.parameters()) < 1.5e6
    assert counter.get_total_flops() < 0.7e9


def test_an_untrained_network_finds_nothing(small: BoxDetector) -> None:
    found = small.detect(torch.zeros(2, 3, 32, 64, dtype=torch.uint8), threshold=0.5)
    assert [len(one) for one in found] == [0, 0]


def test_every_frame_is_seen_by_itself(small: BoxDetector) -> None:
    frames = torch.randint(0, 256, (3, 3, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together, alone = small.detect(frames, 0.0, 5), [small.detect(frame[None], 0.0, 5)[0] for frame in frames]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one.xyxy, other.xyxy, atol=1e-5) and torch.allclose(one.score, other.score, atol=1e-5)
        assert one.night == pytest.approx(other.night, abs=1e-5)


def test_detections_are_sorted_inside_the_frame_and_limited(small: BoxDetector) -> None:
    found = small.detect(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8), 0.0, 7)[0]
    assert 0 < len(found) <= 7 and (found.score.diff() <= 0).all()
    assert (found.xyxy >= 0).all() and (found.xyxy <= 1).all() and (found.category < len(CATEGORIES)).all()


def test_a_peak_becomes_a_box_around_its_cell() -> None:
    (found,) = decode(predictions((1, 3, 5, 0.9)), 0.5, 10)
    x, y = (5 + 0.5) * 4, (3 + 0.5) * 4
    assert found.xyxy[0].tolist() == pytest.approx([(x - 6) / 64, (y - 6) / 32, (x + 6) / 64, (y + 6) / 32])
    assert found.score.item() == pytest.approx(0.9) and found.category.item() == 1 and found.night == 0.5


def test_lower_neighbours_are_no_peaks() -> None:
    (found,) = decode(predictions((0, 3, 5, 0.9), (0, 3, 6, 0.8), edge=1.0), 0.5, 10)
    assert len(found) == 1


def test_two_kinds_of_vehicle_in_one_place_are_one_vehicle() -> None:
    (found,) = decode(predictions((0, 3, 5, 0.7), (1, 3, 5, 0.9)), 0.5, 10)
    assert found.category.tolist() == [1]


def test_a_person_before_a_car_stays() -> None:
    (found,) = decode(predictions((0, 3, 5, 0.7), (5, 3, 5, 0.9)), 0.5, 10)
    assert sorted(found.category.tolist()) == [0, 5] and found.vehicles.category.tolist() == [0]


def test_above_and_vehicles_choose_rows() -> None:
    rows = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).repeat(3, 1)
    found = Detections(rows, torch.tensor([0.9, 0.6, 0.3]), torch.tensor([0, 5, 1]), 0.1)
    assert found.above(0.6).category.tolist() == [0, 5]
    assert found.vehicles.score.tolist() == pytest.approx([0.9, 0.3])


def test_all_vehicles_are_one_group_and_the_others_their_own() -> None:
    groups = group_of(torch.arange(len(CATEGORIES))).tolist()
    assert set(groups[: len(VEHICLES)]) == {0} and len(set(groups)) == 1 + len(CATEGORIES) - len(VEHICLES)


@pytest.mark.parametrize(
    ("other", "expected"),
    [([0.0, 0.0, 2.0, 2.0], 1.0), ([1.0, 0.0, 3.0, 2.0], 1 / 3), ([2.0, 0.0, 4.0, 2.0], 0.0), ([1.0, 1.0, 1.0, 1.0], 0.0)],
)
def test_iou_in_closed_form(other: list[float], expected: float) -> None:
    assert box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([other])).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("frames", "error", "what"),
    [
        (torch.zeros(1, 3, 32, 64), TypeError, "uint8"),
        (torch.zeros(3, 32, 64, dtype=torch.uint8), ValueError, r"\(f, 3, H, W\)"),
        (torch.zeros(1, 1, 32, 64, dtype=torch.uint8), ValueError, r"\(f, 3, H, W\)"),
        (torch.zeros(1, 3, 30, 64, dtype=torch.uint8), ValueError, "30x64 pixels do not divide by 16"),
    ],
)
def test_bad_frames_are_refused(small: BoxDetector, frames: Tensor, error: type[Exception], what: str) -> None:
    with pytest.raises(error, match=what):
        small.detect(frames)


def test_bad_arguments_are_refused(small: BoxDetector) -> None:
    with pytest.raises(ValueError, match="limit"):
        small.detect(torch.zeros(1, 3, 32, 64, dtype=torch.uint8), limit=0)
    with pytest.raises(ValueError, match="as many blocks"):
        BoxDetector(widths=(8, 8), blocks=(1,))


def test_a_written_detector_is_the_same_with_its_threshold(tmp_path: Path) -> None:
    network = BoxDetector(widths=(8, 8), blocks=(1, 1), neck=8, threshold=0.42).eval()
    save_network(tmp_path / "detector", network, {})
    read = load_network(tmp_path / "detector")
    frames = torch.rand(1, 3, 32, 32) * 2 - 1
    assert isinstance(read, BoxDetector) and read.threshold == 0.42
    for one, other in zip(network(frames), read(frames), strict=True):
        assert torch.equal(one, other)


def test_the_shipped_detector_finds_the_vehicles_of_held_out_frames(shared_data: Path) -> None:
    """Tall, unhidden vehicles of eight test frames; and the file is as small as promised."""
    network = load_network(SHIPPED)
    assert isinstance(network, BoxDetector)
    assert SHIPPED.with_suffix(".safetensors").stat().st_size < 10e6
    records = read_records(shared_data / "sim")
    boxes = records.boxes[(records.boxes["y2"] - records.boxes["y1"] > 20 / 128) & ~records.boxes["ignore"].astype(bool)]
    tested = set(records.clips["clip_id"][records.clips["split"] == "test"])
    chosen = boxes[boxes["clip_id"].isin(tested) & boxes["category"].isin(VEHICLES)].drop_duplicates("clip_id").head(8)
    hits = [_found(network, records, str(row.clip_id), int(row.frame)) for row in chosen.itertuples()]
    assert sum(hits) >= 0.6 * len(hits) > 0


def _found(network: BoxDetector, records, clip_id: str, frame: int) -> bool:
    """Whether the tallest unhidden vehicle of a frame is found."""
    track = labels_of(records, clip_id)
    picture = torch.from_numpy(read_frames(records.video_path(clip_id), [frame / track.fps])).permute(0, 3, 1, 2)
    asked = track.boxes.where((track.boxes.frame == frame) & (track.boxes.category < len(VEHICLES)) & ~track.boxes.ignore)
    tallest = torch.from_numpy(asked.xyxy[(asked.xyxy[:, 3] - asked.xyxy[:, 1]).argmax()])[None]
    found = network.detect(picture)[0].vehicles
    return bool(len(found)) and bool(box_iou(tallest, found.xyxy).max() > 0.5)
